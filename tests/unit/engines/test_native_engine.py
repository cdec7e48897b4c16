"""The native engine shares work between threads, keeps to itself, and cannot be made to crash."""

import os
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from stream_classifier.engines.native import (
    NativeEngine,
    _described,
    _extension,
    fma_peak_gflops,
    instruction_sets,
)
from stream_classifier.engines.plan import Plan
from stream_classifier.engines.snapshot import MAX_LANES
from stream_classifier.errors import EngineError, NotFiniteError, ShapeError
from tests.unit.engines.test_engines import (
    BONN,
    BUNDLES,
    INSTRUCTIONS,
    Z,
    both_modes,
    every_bundle,
    run,
)

pytestmark = pytest.mark.skipif(
    not INSTRUCTIONS, reason="the native engine was not built: it needs a C++ compiler"
)
every_set = pytest.mark.parametrize("instructions", INSTRUCTIONS)


def native(bundle=BONN, **others):
    return NativeEngine(bundle, **{"hop_samples": 8, **others})


def rolled(n_samples, n_channels, *, by=37):
    return np.stack([np.roll(Z, by * c)[:n_samples] for c in range(n_channels)], axis=1)


def core_of(engine):
    return engine._core


# Instruction sets


def test_instruction_sets_are_the_widest_first_and_every_machine_has_the_last():
    widest_first = ("AVX-512", "AVX2", "baseline")
    assert instruction_sets() == tuple(x for x in widest_first if x in instruction_sets())
    assert instruction_sets()[-1] == "baseline"


def test_the_widest_instruction_set_is_taken_and_the_name_says_so():
    assert native().name == f"native (C++, {INSTRUCTIONS[0]})"


def test_an_instruction_set_that_is_not_here_is_refused_with_those_that_are():
    with pytest.raises(EngineError, match=f"'AVX-1024': expected one of .*{INSTRUCTIONS[0]}"):
        native(instructions="AVX-1024")


@every_set
def test_all_instruction_sets_give_the_same_answer_within_a_hundred_thousandth(instructions):
    z = rolled(600, 3)
    out = run(native(instructions=instructions), z)
    np.testing.assert_allclose(out, run(native(instructions="baseline"), z), atol=1e-5)


@every_set
def test_the_peak_of_a_core_is_found_for_every_instruction_set(instructions):
    assert fma_peak_gflops(instructions, seconds=0.001) > 0


# Threads


@pytest.mark.parametrize("n_threads", [2, 3, 7])
@every_bundle
def test_threads_give_the_bits_of_one_thread(bundle, n_threads):
    engines = native(bundle), native(bundle, n_threads=n_threads)
    z = rolled(300, 5)
    n_channels = [1 + i % 5 for i in range(150)]
    fed = [{engine.open(n): z[:, :n] for n in n_channels} for engine in engines]
    cuts = [0, 1, 130, 131, 200, 200, 300]
    for start, stop in pairwise(cuts):
        one, many = (
            engine.feed({h: np.ascontiguousarray(x[start:stop]) for h, x in streams.items()})
            for engine, streams in zip(engines, fed, strict=True)
        )
        assert [x.tobytes() for x in one.values()] == [x.tobytes() for x in many.values()]


@both_modes
def test_other_threads_run_python_while_it_computes(bundle):
    engine = native(bundle)
    handle = engine.open(64)
    z = np.ascontiguousarray(np.tile(rolled(2000, 64), (10, 1)))
    counts, is_done = [0], threading.Event()

    def count():
        while not is_done.is_set():
            counts[0] += 1

    counter = threading.Thread(target=count)
    counter.start()
    before = counts[0]
    core_of(engine).feed({handle: z})  # one call into C++
    during = counts[0] - before
    is_done.set()
    counter.join()
    assert during > 10


def test_engines_on_threads_of_their_own_do_not_disturb_each_other():
    z = rolled(2000, 8)
    expected = run(native(), z).tobytes()
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(run(native(), z, range(0, 2000, 97))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [x.tobytes() for x in found] == [expected] * 4


# What is put off


def one_by_one(engine, z, after_each=lambda _: None):
    handle = engine.open(z.shape[1])
    parts = []
    for row in z:
        parts.append(engine.feed({handle: row[None]})[handle])
        after_each(handle)
    return np.concatenate(parts)


@pytest.mark.parametrize("hop", [4, 8, 120])
@every_bundle
def test_what_is_put_off_is_done_to_the_bit_whoever_asks_for_it_and_how_often(bundle, hop):
    z = rolled(400, 2)
    engine = native(bundle, hop_samples=hop)
    expected = run(native(bundle, hop_samples=hop), z).tobytes()
    assert one_by_one(engine, z).tobytes() == expected
    assert one_by_one(engine, z, lambda _: engine.catch_up()).tobytes() == expected

    def twice(_):
        engine.catch_up()
        engine.catch_up()

    assert one_by_one(engine, z, twice).tobytes() == expected
    assert one_by_one(engine, z, lambda h: engine.feed({h: z[:0]})).tobytes() == expected
    assert one_by_one(engine, z, lambda _: engine.feed({})).tobytes() == expected
    assert one_by_one(engine, z, engine.snapshot).tobytes() == expected


@both_modes
def test_nothing_is_caught_up_with_after_a_reset_or_a_close(bundle):
    engine = native(bundle)
    engine.catch_up()  # no streams at all
    handle, other = engine.open(2), engine.open(2)
    z = rolled(120, 2)
    assert len(engine.feed({handle: z, other: z})[handle]) == 1  # now both lag
    engine.reset(handle)
    engine.close(other)
    engine.catch_up()
    assert engine.feed({handle: z})[handle].tobytes() == run(native(bundle), z).tobytes()


# Long runs


@pytest.mark.parametrize("beyond", [2**31, 2**32, 2**40])
@every_bundle
def test_a_run_of_billions_of_steps_goes_on_as_a_short_one_does(bundle, beyond):
    engine = native(bundle)
    plan = Plan.of(bundle, hop_samples=8)
    handle = engine.open(2)
    z = rolled(900, 2)
    engine.feed({handle: z[:437]})
    tensors = load(engine.snapshot(handle))
    cycle = plan.steps_per_hop * plan.n_states  # the same window in the same slot
    tensors["run"] = tensors["run"] + np.array([0, -(-beyond // cycle) * cycle])
    old = engine.restore(save(tensors))
    for start, stop in [(437, 438), (438, 600), (600, 900)]:
        young = engine.feed({handle: z[start:stop], old: z[start:stop]})
        assert young[handle].tobytes() == young[old].tobytes()
    again = load(engine.snapshot(old)), load(engine.snapshot(handle))
    assert int(again[0]["run"][1] - again[1]["run"][1]) >= beyond


# Memory


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


needs_statm = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="this system does not say how much memory is used"
)


@needs_statm
@both_modes
def test_opening_and_closing_ten_thousand_streams_leaves_nothing_behind(bundle):
    engine = native(bundle)
    z = rolled(121, 3)

    def come_and_go(n):
        for _ in range(n):
            handle = engine.open(3)
            engine.feed({handle: z[:9]})
            moved = engine.restore(engine.snapshot(handle))
            engine.close(handle)
            engine.close(moved)

    come_and_go(500)
    before = resident_bytes()
    come_and_go(5_000)  # twice each
    assert resident_bytes() - before < 16 * 2**20


@needs_statm
@both_modes
def test_feeding_for_long_and_being_refused_leaves_nothing_behind(bundle):
    engine = native(bundle)
    handle, other = engine.open(3), engine.open(1)
    z, wrong = rolled(500, 3), np.full((4, 3), np.nan, np.float32)

    def feed(n):
        for _ in range(n):
            engine.feed({handle: z, other: z[:3, :1]})
            engine.catch_up()
            with pytest.raises(NotFiniteError):
                engine.feed({handle: wrong})

    feed(50)
    before = resident_bytes()
    feed(1_000)
    assert resident_bytes() - before < 16 * 2**20


@needs_statm
def test_engines_that_are_gone_leave_nothing_behind():
    def build(n):
        for _ in range(n):
            engine = native(n_threads=3)
            engine.feed({engine.open(5): rolled(10, 5)})

    build(20)
    before = resident_bytes()
    build(300)
    assert resident_bytes() - before < 32 * 2**20


# What it returns


@pytest.mark.parametrize("n_channels", [(1,), (2, 2), (2, 3)], ids=["one", "alike", "not alike"])
@both_modes
def test_decisions_are_the_caller_s_to_keep_and_to_change(bundle, n_channels):
    engine = native(bundle)
    fed = {engine.open(n): rolled(200, n) for n in n_channels}
    first = engine.feed(fed)
    kept = {handle: out.copy() for handle, out in first.items()}
    engine.feed(fed)
    engine.catch_up()
    for handle, out in first.items():
        assert out.tobytes() == kept[handle].tobytes()
        assert out.flags.writeable
        out[:] = 7  # of no other stream
        for other in set(fed) - {handle}:
            assert not np.shares_memory(out, first[other])
        assert out.dtype == np.float32


@both_modes
def test_streams_without_a_decision_have_empty_arrays_of_their_channels(bundle):
    engine = native(bundle)
    fed = {engine.open(2): rolled(3, 2), engine.open(4): rolled(0, 4)}
    assert [out.shape for out in engine.feed(fed).values()] == [(0, 2, 3), (0, 4, 3)]
    assert engine.feed({}) == {}


def test_the_samples_that_are_fed_are_not_changed():
    engine = native()
    z = rolled(300, 2)
    kept = z.copy()
    engine.feed({engine.open(2): z})
    assert z.tobytes() == kept.tobytes()


# Arrays of all kinds


LIKE_FLOAT32 = {
    "float64": lambda z: z.astype(np.float64),
    "another byte order": lambda z: z.astype(z.dtype.newbyteorder()),
    "Fortran order": np.asfortranarray,
    "every second of a longer one": lambda z: np.repeat(z, 2, axis=0)[::2],
    "backwards in memory": lambda z: np.ascontiguousarray(z[::-1])[::-1],
    "some columns of a wider one": lambda z: np.concatenate([z, z], axis=1)[:, : z.shape[1]],
    "at an odd address": lambda z: (
        np.frombuffer(b"!" + z.tobytes(), np.uint8)[1:].view(np.float32).reshape(z.shape)
    ),
    "read only": lambda z: np.frombuffer(z.tobytes(), np.float32).reshape(z.shape),
}


@pytest.mark.parametrize("change", LIKE_FLOAT32.values(), ids=LIKE_FLOAT32)
@both_modes
def test_arrays_of_any_kind_give_the_same_bits(bundle, change):
    z = rolled(300, 3)
    engine = native(bundle)
    handle = engine.open(3)
    given = change(z)
    assert (given == z).all()
    assert engine.feed({handle: given})[handle].tobytes() == run(native(bundle), z).tobytes()


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 3, 1)), np.zeros(3), np.zeros((4, 2)), np.zeros((4, 4)), np.zeros(())],
    ids=lambda x: f"{x.shape}",
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_array_of_another_shape_is_refused_and_nothing_is_changed(wrong, dtype):
    z = rolled(300, 3)
    engine = native()
    handle, other = engine.open(3), engine.open(3)
    for part in np.split(z, [100, 200]):
        with pytest.raises(ShapeError):
            engine.feed({other: part, handle: wrong.astype(dtype)})
    assert engine.feed({other: z})[other].tobytes() == run(native(), z).tobytes()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_number_that_is_none_is_refused_wherever_it_lies_and_nothing_is_changed(wrong, dtype):
    z = rolled(300, 3)
    engine = native()
    handle, other = engine.open(3), engine.open(3)
    for at in [(0, 0), (137, 1), (299, 2)]:
        bad = z.astype(dtype)
        bad[at] = wrong
        with pytest.raises(NotFiniteError, match=f"row {at[0]}, channel {at[1]}"):
            engine.feed({other: z, handle: bad})
    assert engine.feed({handle: z})[handle].tobytes() == run(native(), z).tobytes()


def test_the_largest_and_smallest_numbers_there_are_give_probabilities():
    engine = native()
    handle = engine.open(1)
    largest, tiny = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    z = np.resize(np.array([largest, -largest, 0, -0.0, tiny, -tiny], np.float32), (400, 1))
    out = engine.feed({handle: z})[handle]
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out.sum(axis=2), 1, atol=1e-5)


# Handles


@pytest.mark.parametrize("method", ["reset", "close", "snapshot"])
@pytest.mark.parametrize("handle", [-1, 1, 2**40, 2**63 - 1])
def test_a_handle_of_no_stream_is_a_key_error(method, handle):
    engine = native()
    engine.open(1)
    with pytest.raises(KeyError):
        getattr(engine, method)(handle)
    with pytest.raises(KeyError):
        engine.feed({0: rolled(10, 1), handle: rolled(10, 1)})


def test_a_closed_handle_is_a_key_error_and_is_never_given_again():
    engine = native()
    handle = engine.open(1)
    engine.close(handle)
    assert engine.open(1) != handle
    for use in (engine.close, engine.reset, engine.snapshot):
        with pytest.raises(KeyError):
            use(handle)
    with pytest.raises(KeyError):
        engine.feed({handle: rolled(10, 1)})


@pytest.mark.parametrize("n_channels", [0, -1, MAX_LANES + 1, 2**31, 2**62, -(2**62)])
def test_a_stream_of_no_or_too_many_channels_is_refused(n_channels):
    with pytest.raises(ValueError, match=f"expected 1 to {MAX_LANES} channels"):
        native().open(n_channels)


@pytest.mark.parametrize("n_channels", [1.0, "1", None, [1], 2**64])
def test_a_number_of_channels_that_is_none_is_refused(n_channels):
    with pytest.raises((TypeError, OverflowError)):
        native().open(n_channels)


def test_a_stream_may_have_as_many_channels_as_a_snapshot_may():
    engine = native(BUNDLES["two LSTM layers, no stem, windowed"], hop_samples=120)
    handle = engine.open(MAX_LANES)
    engine.feed({handle: np.zeros((2, MAX_LANES), np.float32)})
    assert engine.restore(engine.snapshot(handle)) != handle


# The extension, used as nobody should


ODD = [None, 1, 1.5, "text", b"bytes", [], (), {}, object(), np.zeros(3), range(3)]
ODD_ARRAYS = [
    *ODD,
    b"\0" * 12,
    bytearray(12),
    memoryview(b"\0" * 12).cast("B", (3, 4)),
    np.zeros((3, 1), "S4"),
    np.zeros((3, 1), object),
    np.zeros((3, 1), [("x", np.float32)]),
    np.zeros((3, 1), np.complex64),
    np.zeros((3, 1), np.int32),
    np.zeros((3, 1), np.float16),
]


@pytest.mark.parametrize("method", ["open", "reset", "close", "n_lanes", "snapshot"])
@pytest.mark.parametrize("odd", [x for x in ODD if x is not ODD[1]], ids=lambda x: type(x).__name__)
def test_an_odd_argument_is_a_python_error(method, odd):
    with pytest.raises((TypeError, ValueError)):
        getattr(core_of(native()), method)(odd)


@pytest.mark.parametrize("odd", ODD_ARRAYS, ids=lambda x: type(x).__name__)
def test_samples_that_are_no_float32_array_are_not_taken(odd):
    core = core_of(native())
    handle = core.open(1)
    assert core.feed({handle: odd}) is None
    if type(odd) is not dict:
        with pytest.raises(TypeError):
            core.feed(odd)


@pytest.mark.parametrize("key", ["a", None, 1.0, (1,), b"0", 2**70])
def test_a_key_that_is_no_handle_is_an_error(key):
    engine = native()
    engine.open(1)
    with pytest.raises((TypeError, OverflowError, KeyError)):
        engine.feed({key: rolled(10, 1)})


def test_what_is_missing_wrong_or_too_much_is_a_python_error():
    engine_type = _extension().Engine
    given = _described(BONN, Plan.of(BONN, hop_samples=8))
    for arguments in [
        (),
        (1, 2, 3),
        ({}, "baseline", 1),
        (given,),
        (given, None, 1),
        (given, "?", 1),
    ]:
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            engine_type(*arguments)
    with pytest.raises(TypeError):
        object.__new__(engine_type)
    for key in given:
        for wrong in [None, 2**80, "x", np.zeros(3, np.float32), np.zeros((2, 2))]:
            with pytest.raises((RuntimeError, ValueError)):
                engine_type({**given, key: wrong}, "baseline", 1)
        with pytest.raises(RuntimeError, match=key):
            engine_type({k: v for k, v in given.items() if k != key}, "baseline", 1)


def put_down():
    core = core_of(native())
    handle = core.open(2)
    core.feed({handle: rolled(300, 2)})
    return core, core.snapshot(handle)


def test_arrays_of_other_lengths_are_not_taken_up():
    core, (n_lanes, n_skipped, n_steps, waiting, arrays) = put_down()
    arrays = [np.frombuffer(x, np.float32) for x in arrays]
    assert core.restore(n_lanes, n_skipped, n_steps, waiting, arrays) == 1
    for at, array in enumerate(arrays):
        for wrong in [array[:-1], np.append(array, array[:1]), array[:0]]:
            if len(wrong) == len(array):
                continue
            others = [*arrays[:at], np.zeros(len(wrong), np.float32), *arrays[at + 1 :]]
            with pytest.raises(RuntimeError, match="another network"):
                core.restore(n_lanes, n_skipped, n_steps, waiting, others)
        others = [*arrays[:at], array.astype(np.float64), *arrays[at + 1 :]]
        with pytest.raises(RuntimeError):
            core.restore(n_lanes, n_skipped, n_steps, waiting, others)
    for others in [[], arrays[:-1], [*arrays, arrays[0]], [None] * len(arrays)]:
        with pytest.raises(RuntimeError):
            core.restore(n_lanes, n_skipped, n_steps, waiting, others)


@pytest.mark.parametrize("wrong", [-1, -(2**31), 2**31 - 1])
@pytest.mark.parametrize("at", range(4))
def test_counts_out_of_range_are_not_taken_up(at, wrong):
    core, state = put_down()
    arrays = [np.frombuffer(x, np.float32) for x in state[4]]
    changed = [*state[:4], arrays]
    changed[at] = [wrong, *state[3][1:]] if at == 3 else wrong
    if at == 2 and wrong > 0:  # any number of steps may have been done
        assert core.restore(*changed) == 1
        return
    with pytest.raises(RuntimeError, match="another network"):
        core.restore(*changed)


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize(
    "odd", [None, 1.5, "text", (), {}, object()], ids=lambda x: type(x).__name__
)
def test_odd_arguments_are_not_taken_up(at, odd):
    core, state = put_down()
    changed = list(state)
    changed[at] = odd
    with pytest.raises(TypeError):
        core.restore(*changed)
    with pytest.raises(TypeError):
        core.restore(*state[:-1])


@pytest.mark.parametrize("odd", [None, "x", 1.5, 2**70])
def test_odd_counts_of_what_waits_are_not_taken_up(odd):
    core, state = put_down()
    with pytest.raises((TypeError, OverflowError)):
        core.restore(*state[:3], [odd] * len(state[3]), list(state[4]))


# What else runs while it is called


class Nosy:
    """A key that is also another one, and runs code of its own when it is looked at."""

    def __init__(self, number, look):
        self.number, self.look = number, look

    def __index__(self):
        self.look()
        return self.number


def test_a_key_that_changes_the_dict_while_it_is_read_cannot_do_harm():
    engine = native()
    handles = [engine.open(1) for _ in range(400)]
    z = rolled(8, 1)
    fed = {handles[0]: z}
    fed[Nosy(handles[-1], lambda: fed.update(dict.fromkeys(handles, z)))] = z
    with pytest.raises(RuntimeError, match="changed size"):
        engine.feed(fed)
    assert core_of(engine).feed({Nosy(handles[0], fed.clear): z}) is None


def test_a_key_that_closes_its_stream_cannot_do_harm():
    engine = native()
    handle, other = engine.open(1), engine.open(1)
    with pytest.raises(KeyError):
        engine.feed({other: rolled(8, 1), Nosy(handle, lambda: engine.close(handle)): rolled(8, 1)})


@pytest.mark.parametrize("kind", [np.int64, np.uint8, lambda handle: Nosy(handle, lambda: None)])
def test_a_handle_may_be_any_whole_number(kind):
    engine = native()
    engine.open(1)
    handle = engine.open(3)
    z = rolled(300, 3)
    (decided,) = engine.feed({kind(handle): z}).values()
    assert decided.tobytes() == run(native(), z).tobytes()


# What must fit together


@pytest.mark.parametrize("n_threads", [-1, 0, 257, 2**31 - 1])
def test_no_threads_or_too_many_are_refused(n_threads):
    with pytest.raises(EngineError, match=f"expected 1 to 256, found {n_threads}"):
        native(n_threads=n_threads)


@pytest.mark.parametrize("n_steps", [2**53 + 1, 2**62, 2**63 - 1])
@every_bundle
def test_a_snapshot_after_more_steps_than_can_be_counted_on_is_refused(bundle, n_steps):
    engine = native(bundle)
    handle = engine.open(2)
    engine.feed({handle: rolled(300, 2)})
    tensors = load(engine.snapshot(handle))
    tensors["run"] = np.array([tensors["run"][0], n_steps])
    with pytest.raises(EngineError, match=r"expected at most .* steps, found"):
        engine.restore(save(tensors))
    _, *others, arrays = core_of(engine).snapshot(handle)
    others[1] = n_steps
    with pytest.raises(RuntimeError, match="another network"):
        core_of(engine).restore(2, *others, [np.frombuffer(x, np.float32) for x in arrays])


@pytest.mark.parametrize(
    "changes",
    [
        {"n_states": 1},
        {"n_states": 10**6},
        {"n_steps": 10**6},
        {"steps_per_hop": 10**6},
        {"lead_samples": -1},
        {"is_windowed": False},
        {"lead_samples": 2**31 - 1},
    ],
    ids=str,
)
def test_a_plan_that_does_not_fit_together_is_refused(changes):
    given = _described(BONN, Plan.of(BONN, hop_samples=4)) | changes
    with pytest.raises(RuntimeError):
        _extension().Engine(given, "baseline", 1)


def test_the_bundles_of_these_tests_need_all_that_the_engine_has():
    assert {bundle.network.layers for bundle in BUNDLES.values()} == {1, 2}
