"""The torch engine: any mix of streams in one batch, and what happens when the GPU is lost.

Most of what runs on a GPU is tested without one: a device that is really the CPU is taken for one
("cpu:0"), with the graphs' buffers and padding, the journal and the copies, all but the capture.
"""

import functools
import logging
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from stream_classifier.bundle import load_bundle, shipped
from stream_classifier.engines.reference import ReferenceEngine
from stream_classifier.errors import EngineError
from tests.unit.engines.test_engines import BONN, BUNDLES, ODD, WINDOW, Z, from_scratch, run

torch = pytest.importorskip("torch", reason="torch is not installed: [torch] extra")

from stream_classifier.engines import torch as torch_engine  # noqa: E402
from stream_classifier.engines import torch_graphs, torch_lanes  # noqa: E402
from stream_classifier.engines.torch import TorchEngine  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]

ALL = {**BUNDLES, "odd stride, windowed": ODD[0], "odd stride, continuous": ODD[1]}
WEIGHTS = {name: load_bundle(name) for name in shipped()}
TWO_OF_A_KIND = {"windowed": WEIGHTS["bonn"], "continuous": WEIGHTS["bonn-continuous"]}
every_bundle = pytest.mark.parametrize("bundle", ALL.values(), ids=ALL)
both_modes = pytest.mark.parametrize("bundle", TWO_OF_A_KIND.values(), ids=TWO_OF_A_KIND)
gpu = pytest.mark.gpu
ALMOST = 2e-6
"""Between two engines, each of which is within 1e-6 of the exact answer."""


def needs_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")


@contextmanager
def taken_for_a_gpu():
    """Take ``cpu:0`` for a GPU, and a function for its graph."""

    def capture(function, device, pool):
        function()  # as in a real capture, on nobody's row
        return function

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_lanes, "is_gpu", lambda device: device.index == 0)
        patch.setattr(torch_graphs, "capture", capture)
        patch.setattr(torch_graphs, "new_pool", lambda: None)
        yield patch


def make(bundle, kind="cpu", hop=None):
    """The engine on a CPU, or on what is taken for a GPU."""
    device = {"cpu": "cpu", "pretended gpu": "cpu:0", "gpu": "cuda"}[kind]
    hop = bundle.network.stride_samples * 2 if hop is None else hop
    return TorchEngine(bundle, hop_samples=hop, device=device)


class Fault:
    """Lets a use of the pretended GPU fail, half way through what it does; once it is armed.

    Made before the engine: graphs keep the functions that they were made of.
    """

    def __init__(self, patch, *methods):
        self._error, self._n_left = None, -1
        for name in methods or ("_advance", "_read_out", "_windows", "_run_on"):
            failing = self._failing(getattr(torch_lanes.Lanes, name))
            patch.setattr(torch_lanes.Lanes, name, failing)

    def arm(self, error, n=0):
        """Let the n-th use from here on fail."""
        self._error, self._n_left = error, n

    def _failing(self, method):
        def use(lanes, *args, **kwargs):
            result = method(lanes, *args, **kwargs)
            if lanes.is_gpu:
                self._n_left -= 1
                if self._n_left == -1:
                    raise self._error
            return result

        return use


LOST = [
    RuntimeError("CUDA error: unspecified launch failure\nmore lines"),
    RuntimeError("CUDA driver error: device not ready"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
]
if hasattr(torch, "AcceleratorError"):
    LOST.append(torch.AcceleratorError("the device is currently unavailable"))


@contextmanager
def recorded(caplog):
    with caplog.at_level(logging.WARNING, logger=torch_engine.__name__):
        caplog.clear()
        yield caplog


class Pair:
    """The same streams in the torch engine and in the reference engine."""

    def __init__(self, tested, bundle):
        self.tested = tested
        self.reference = ReferenceEngine(bundle, hop_samples=tested.hop_samples)
        self.handles = {}  # of the tested engine, by that of the reference
        self.channels = {}
        self.place = {}

    def open(self, n_channels):
        own = self.reference.open(n_channels)
        self.handles[own] = self.tested.open(n_channels)
        self.channels[own], self.place[own] = n_channels, 37 * own
        return own

    def close(self, own):
        self.reference.close(own)
        self.tested.close(self.handles.pop(own))

    def reset(self, own):
        self.reference.reset(own)
        self.tested.reset(self.handles[own])

    def move(self, own):
        """Put a stream down and take it up again from the reference engine's snapshot."""
        theirs = self.tested.snapshot(self.handles[own])
        self.tested.close(self.handles[own])
        self.handles[own] = self.tested.restore(self.reference.snapshot(own))
        self.reference.close(self.reference.restore(theirs))  # it is one that others take

    def feed(self, n_samples):
        """Feed each stream so many of its own samples."""
        fed = {}
        for own, n in n_samples.items():
            at = (self.place[own] + np.arange(n)) % len(Z)
            fed[own] = np.stack([np.roll(Z, 57 * c)[at] for c in range(self.channels[own])], axis=1)
            self.place[own] += n
        expected = self.reference.feed(fed)
        found = self.tested.feed({self.handles[own]: z for own, z in fed.items()})
        assert set(found) == {self.handles[own] for own in fed}
        for own, p in expected.items():
            np.testing.assert_allclose(found[self.handles[own]], p, atol=ALMOST)
        if (journal := self.tested._journal) is not None:
            kept = [self.tested._since(stream) for stream in self.tested._streams.values()]
            assert max(kept, default=0) <= journal.n_kept


def live_for_a_while(pair, data, *, n_turns=12):
    """Open, feed, reset, move and close streams, in no order."""
    for _ in range(n_turns):
        own = list(pair.handles)
        turn = data.draw(
            st.sampled_from(["open", "feed", "feed", "feed", "reset", "move", "close"])
        )
        if turn == "open" or not own:
            pair.open(data.draw(st.integers(1, 5)))
        elif turn == "feed":
            some = data.draw(st.lists(st.sampled_from(own), unique=True))
            pair.feed({stream: data.draw(st.integers(0, 200)) for stream in some})
        else:
            getattr(pair, turn)(data.draw(st.sampled_from(own)))
        if data.draw(st.booleans()):
            pair.tested.catch_up()
    pair.feed(dict.fromkeys(pair.handles, 150))


kinds = pytest.mark.parametrize("kind", ["cpu", "pretended gpu"])
of_a_module = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


@kinds
@every_bundle
@given(data=st.data())
@of_a_module
def test_any_streams_that_come_and_go_get_the_reference_s_decisions(bundle, kind, data):
    with taken_for_a_gpu() as patch:
        patch.setattr(torch_engine, "LONG_BLOCKS", data.draw(st.sampled_from([2, 8, 16, 1000])))
        live_for_a_while(Pair(make(bundle, kind), bundle), data)


@every_bundle
@given(data=st.data(), n=st.integers(0, 60), error=st.sampled_from(LOST))
@of_a_module
def test_a_gpu_that_is_lost_costs_no_decision_and_doubles_none(bundle, data, n, error, caplog):
    with taken_for_a_gpu() as patch, recorded(caplog):
        patch.setattr(torch_engine, "LONG_BLOCKS", data.draw(st.sampled_from([2, 16, 1000])))
        patch.setattr(torch_engine.Journal, "write", journalled := Counted(torch_engine.Journal))
        fault = Fault(patch)
        pair = Pair(make(bundle, "pretended gpu"), bundle)
        fault.arm(error, n)
        live_for_a_while(pair, data)
        assert len(caplog.records) <= 1
        if caplog.records:
            assert str(error).partition("\n")[0] in caplog.text
            assert pair.tested.name == "torch (CPU), the GPU was lost"
            written = journalled.n
            pair.feed(dict.fromkeys(pair.handles, 50))
            assert journalled.n == written  # a CPU needs none


class Counted:
    """Counts the calls of a journal's ``write``."""

    def __init__(self, journal):
        self.n = 0
        self._write = journal.write

    def __get__(self, journal, kind):
        def write(*args):
            self.n += 1
            self._write(journal, *args)

        return write


@pytest.mark.parametrize("n_fed", [3, 8, 40, 250])
@pytest.mark.parametrize("bundle", WEIGHTS.values(), ids=WEIGHTS)
def test_however_long_a_stream_ran_the_loss_of_the_gpu_changes_nothing_in_it(bundle, n_fed, caplog):
    with taken_for_a_gpu() as patch, recorded(caplog):
        fault = Fault(patch)
        pair = Pair(make(bundle, "pretended gpu"), bundle)
        streams = [pair.open(n) for n in (1, 3, 2)]
        pair.feed({streams[1]: 61})
        for _ in range(2500 // n_fed):  # more than twice what the journal keeps
            pair.feed(dict.fromkeys(streams[:2], n_fed))
        pair.feed({streams[0]: 5000, streams[2]: 1500})  # more than it keeps at once
        pair.feed(dict.fromkeys(streams, n_fed))
        fault.arm(LOST[0], 1)
        pair.feed(dict.fromkeys(streams, max(8, n_fed)))
        assert len(caplog.records) == 1
        assert "3 streams go on on the CPU" in caplog.text
        pair.feed(dict.fromkeys(streams, 300))


@pytest.mark.parametrize("n_before", [3, 121, 122, 123])
@both_modes
def test_a_stream_that_was_taken_up_within_a_block_outlives_the_gpu(bundle, n_before, caplog):
    with taken_for_a_gpu() as patch, recorded(caplog):
        fault = Fault(patch)
        pair = Pair(make(bundle, "pretended gpu"), bundle)
        stream = pair.open(2)
        pair.feed({stream: n_before})
        pair.move(stream)
        pair.feed({stream: 30})
        fault.arm(LOST[0])
        pair.feed({stream: 30})
        assert len(caplog.records) == 1
        pair.feed({stream: 100})


@pytest.mark.parametrize("method", ["read", "write", "grow"])
@both_modes
def test_a_gpu_may_be_lost_in_any_call(bundle, method, caplog):
    with taken_for_a_gpu() as patch, recorded(caplog):
        pair = Pair(make(bundle, "pretended gpu"), bundle)
        streams = [pair.open(2) for _ in range(5)]
        pair.feed(dict.fromkeys(streams, 1100))  # more than the journal keeps
        Fault(patch, method).arm(LOST[0])
        pair.move(streams[0])
        pair.open(10)
        assert len(caplog.records) == 1
        assert len(pair.handles) == 6
        pair.feed(dict.fromkeys(pair.handles, 200))


def test_a_gpu_may_be_lost_while_states_are_copied(caplog):
    bundle = TWO_OF_A_KIND["continuous"]
    with taken_for_a_gpu() as patch, recorded(caplog):
        pair = Pair(make(bundle, "pretended gpu"), bundle)
        stream = pair.open(2)
        Fault(patch, "read").arm(LOST[0])
        for _ in range(150):
            pair.feed({stream: 8})
        assert len(caplog.records) == 1


def test_states_are_copied_when_a_stream_has_gone_on_for_some_seconds_not_all_at_once():
    bundle = TWO_OF_A_KIND["continuous"]
    with taken_for_a_gpu() as patch:
        engine = make(bundle, "pretended gpu")
        copied = []
        read = torch_lanes.Lanes.read
        patch.setattr(
            torch_lanes.Lanes,
            "read",
            lambda self, rows: copied.append(len(rows)) or read(self, rows),
        )
        handles = [engine.open(1) for _ in range(64)]
        n_calls = 300
        for n in range(n_calls):
            new = Z[8 * n % 4000 : 8 * n % 4000 + 8, None]
            engine.feed(dict.fromkeys(handles, new))
            engine.catch_up()
        n_seconds = n_calls * 8 / 178
        assert 64 * (n_seconds / 4.5 - 1) < sum(copied) < 64 * n_seconds / 2.8
        assert max(copied) < 10


@both_modes
@given(data=st.data(), n=st.integers(0, 40))
@of_a_module
def test_memory_that_does_not_suffice_is_an_error_that_changes_nothing(bundle, data, n, caplog):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    with taken_for_a_gpu() as patch, recorded(caplog):
        fault = Fault(patch)
        pair = Pair(make(bundle, "pretended gpu"), bundle)
        streams = [pair.open(2) for _ in range(3)]
        pair.feed({stream: 100 + 31 * stream for stream in streams})
        some = data.draw(st.lists(st.sampled_from(streams), unique=True, min_size=1))
        fault.arm(error, n)
        fed = {pair.handles[stream]: np.repeat(Z[:200, None], 2, axis=1) for stream in some}
        before = [pair.tested.snapshot(pair.handles[stream]) for stream in streams]
        try:
            pair.tested.feed(fed)
        except EngineError as refused:
            assert "memory does not suffice (CUDA out of memory" in str(refused)  # noqa: PT017
        else:
            return  # it did not come so far
        after = [pair.tested.snapshot(pair.handles[stream]) for stream in streams]
        for one, other in zip(before, after, strict=True):
            assert_same_state(one, other)
        for stream in streams:
            pair.feed({stream: 300})
        assert not caplog.records
        assert "lost" not in pair.tested.name


def assert_same_state(one, other):
    one, other = load(one), load(other)
    assert one.keys() == other.keys()
    for name, x in one.items():
        np.testing.assert_allclose(other[name], x, atol=1e-5, err_msg=name)


def test_memory_that_fails_while_a_graph_is_captured_is_not_a_gpu_lost(caplog):
    def invalidated(function, device, pool):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error")

    with taken_for_a_gpu() as patch, recorded(caplog):
        engine = make(BONN, "pretended gpu")
        handle = engine.open(1)
        patch.setattr(torch_graphs, "capture", invalidated)
        with pytest.raises(EngineError, match="memory does not suffice"):
            engine.feed({handle: Z[:8, None]})
        assert not caplog.records


def test_memory_that_does_not_suffice_for_more_streams_leaves_those_that_are():
    with taken_for_a_gpu() as patch:
        pair = Pair(make(BONN, "pretended gpu"), BONN)
        stream = pair.open(3)
        pair.feed({stream: 200})
        Fault(patch, "_place").arm(torch.OutOfMemoryError("CUDA out of memory"))
        with pytest.raises(EngineError, match="memory does not suffice"):
            pair.tested.open(1000)
        pair.open(13)
        pair.feed(dict.fromkeys(pair.handles, 200))


def test_a_mistake_of_the_program_is_not_taken_for_a_gpu_lost():
    with taken_for_a_gpu() as patch:
        fault = Fault(patch)
        engine = make(BONN, "pretended gpu")
        handle = engine.open(1)
        fault.arm(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        with pytest.raises(RuntimeError, match="mat1"):
            engine.feed({handle: Z[:200, None]})


def test_a_cpu_is_not_lost(monkeypatch):
    engine = make(BONN)
    handle = engine.open(1)

    def fails(*_):
        raise LOST[0]

    monkeypatch.setattr(torch_lanes.Lanes, "_windows", fails)
    with pytest.raises(RuntimeError, match="CUDA error"):
        engine.feed({handle: Z[:200, None]})


def test_a_gpu_that_does_not_work_at_the_start_is_an_error(monkeypatch):
    def fails(*_, **__):
        raise LOST[0]

    monkeypatch.setattr(torch_lanes.Lanes, "_place", fails)
    with pytest.raises(
        EngineError, match=r"device cpu: CUDA error: unspecified launch failure\. T"
    ):
        make(BONN)


@every_bundle
@pytest.mark.parametrize("is_graphed", [False, True])
def test_a_piece_as_a_whole_is_what_its_blocks_are_one_by_one(bundle, is_graphed):
    z = Z[: 140 * bundle.network.stride_samples]
    whole = run(make(bundle), z[:, None])
    with taken_for_a_gpu() as patch:
        patch.setattr(torch_engine, "LONG_BLOCKS", 10**9)
        engine = make(bundle, "pretended gpu" if is_graphed else "cpu")
        ahead, behind = engine.open(1), engine.open(1)  # apart, so that they are not one whole
        engine.feed({ahead: z[: bundle.network.stride_samples, None]})
        stepwise = engine.feed({ahead: z[:, None], behind: z[:, None]})[behind]
    np.testing.assert_allclose(stepwise, whole, atol=1e-6)


@every_bundle
def test_a_piece_may_be_longer_than_is_run_at_once(bundle, monkeypatch):
    z = np.stack([Z[:1000], np.roll(Z[:1000], 99)], axis=1)
    whole = run(make(bundle), z)
    monkeypatch.setattr(torch_lanes, "MAX_PIECE_BLOCKS", 60)
    monkeypatch.setattr(torch_engine, "MAX_BATCH_WINDOWS", 25)
    np.testing.assert_allclose(run(make(bundle), z), whole, atol=1e-6)
    engine = make(bundle)  # and within a block
    handle = engine.open(2)
    engine.feed({handle: z[:6]})
    handle = engine.restore(engine.snapshot(handle))
    np.testing.assert_allclose(engine.feed({handle: z[6:]})[handle], whole, atol=1e-6)


@kinds
@both_modes
def test_rows_come_with_streams_and_are_used_again(bundle, kind):
    with taken_for_a_gpu():
        pair = Pair(make(bundle, kind), bundle)
        pair.open(3)
        for n_channels in (1, 40, 2, 100, 7):
            pair.open(n_channels)
            pair.feed(dict.fromkeys(pair.handles, 70))
        n_rows = pair.tested._lanes.n_rows
        assert 153 <= n_rows <= 2 * 153
        for _ in range(3):  # as many again, in the places of those that left
            for own in list(pair.handles)[:3]:
                pair.close(own)
            for n_channels in (40, 3, 1):
                pair.open(n_channels)
            pair.feed(dict.fromkeys(pair.handles, 200))
        assert pair.tested._lanes.n_rows == n_rows


@pytest.mark.parametrize("n_bad", [1, 5])
def test_a_snapshot_whose_parts_contradict_each_other_is_refused(n_bad):
    reference = ReferenceEngine(BONN, hop_samples=8)
    handle = reference.open(1)
    reference.feed({handle: Z[:201, None]})
    tensors = load(reference.snapshot(handle))
    waiting = np.concatenate([tensors["waiting1"]] * 2)[:n_bad]
    engine = make(BONN)
    with pytest.raises(EngineError, match=r"snapshot of a stream: expected \[.* inputs that wait"):
        engine.restore(save({**tensors, "waiting1": waiting}))


def test_a_snapshot_holds_nothing_of_the_stream_whose_place_it_has():
    bundle = TWO_OF_A_KIND["windowed"]
    used, new = make(bundle), make(bundle)
    handle = used.open(1)
    used.feed({handle: 5 * Z[:400, None]})
    used.close(handle)
    for n in (0, 3, 50, 130):
        snapshots = []
        for engine in (used, new):
            handle = engine.open(1)
            engine.feed({handle: Z[:n, None]})
            snapshots.append(engine.snapshot(handle))
            engine.close(handle)
        assert snapshots[0] == snapshots[1]


@pytest.mark.parametrize("way", ["allow_tf32", "fp32_precision"])
def test_factors_keep_all_their_bits_on_a_gpu_whatever_the_rest_of_the_program_wants(way):
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "allow_tf32") and way == "allow_tf32":
        pytest.skip("this torch has one way only")
    wanted = {"allow_tf32": (True, False), "fp32_precision": ("tf32", "ieee")}[way]
    try:
        before = getattr(matmul, way)
    except AttributeError:
        pytest.skip("this torch has one way only")
    setattr(matmul, way, wanted[0])
    try:
        with torch_lanes._full_precision(is_gpu=True):
            assert getattr(matmul, way) == wanted[1]
            product = torch.eye(2) @ torch.eye(2)
        assert getattr(matmul, way) == wanted[0]
        assert (product == torch.eye(2)).all()
    finally:
        setattr(matmul, way, before)


MOST = 512


@functools.cache
def in_float64(name, hop):
    """The first four decisions of 512 streams, each window from scratch, ``(512, 4, 3)``."""
    bundle = WEIGHTS[name]
    n = WINDOW + 3 * hop
    return np.array([from_scratch(bundle, z, hop=hop) for z in start_apart(n)])


def start_apart(n):
    """So many samples for each of 512 streams, all of them different."""
    return np.stack([np.roll(Z, -29 * stream)[:n] for stream in range(MOST)])


def agrees_with_float64(engine, name, hop, n_streams):
    signals = start_apart(WINDOW + 3 * hop)[:n_streams]
    handles = [engine.open(1) for _ in range(n_streams)]
    late = handles[1::2]  # every other stream begins later: other phases in one batch
    engine.feed({handle: signals[n][:13, None] for n, handle in enumerate(handles)})
    got = {handle: [] for handle in handles}
    place = dict.fromkeys(handles, 13)
    while min(place.values()) < signals.shape[1]:
        fed = {}
        for n, handle in enumerate(handles):
            n_new = 3 if handle in late and place[handle] == 13 else 8
            fed[handle] = signals[n][place[handle] : place[handle] + n_new, None]
            place[handle] += n_new
        for handle, p in engine.feed(fed).items():
            got[handle].append(p)
    found = np.array([np.concatenate(got[handle])[:, 0] for handle in handles])
    expected = in_float64(name, hop)[:n_streams]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found.argmax(axis=2) == expected.argmax(axis=2)).all()


@kinds
@pytest.mark.parametrize("n_streams", [1, 8, 64, 512])
@pytest.mark.parametrize("hop", [4, 8, 16])
@pytest.mark.parametrize("name", ["bonn", "headset"])
def test_trained_networks_decide_as_in_float64_for_any_number_of_streams(
    name, hop, n_streams, kind
):
    with taken_for_a_gpu():
        agrees_with_float64(make(WEIGHTS[name], kind, hop), name, hop, n_streams)


# What only a GPU can show.


@gpu
@pytest.mark.parametrize("n_streams", [1, 8, 64, 512])
@pytest.mark.parametrize("hop", [4, 8, 16])
@pytest.mark.parametrize("name", ["bonn", "headset"])
def test_trained_networks_decide_on_the_gpu_as_in_float64(name, hop, n_streams):
    needs_gpu()
    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # another part of the program may want that
    try:
        agrees_with_float64(make(WEIGHTS[name], "gpu", hop), name, hop, n_streams)
    finally:
        torch.set_float32_matmul_precision(was)


@gpu
@every_bundle
@given(data=st.data())
@of_a_module
def test_any_streams_that_come_and_go_on_the_gpu_get_the_reference_s_decisions(bundle, data):
    needs_gpu()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_engine, "LONG_BLOCKS", data.draw(st.sampled_from([2, 16, 1000])))
        live_for_a_while(Pair(make(bundle, "gpu"), bundle), data)


@gpu
@both_modes
def test_a_graph_of_a_step_does_what_the_step_does(bundle):
    needs_gpu()
    graphed, eager = make(bundle, "gpu"), make(bundle, "gpu")
    lanes = eager._lanes
    lanes._step = lanes._step_at_once

    def decide_at_once(numbers, none):
        result = torch.empty((numbers.shape[1], lanes._n_outputs), device=lanes.device)
        lanes._read_out(numbers, none, result)
        return result

    lanes._decide = decide_at_once
    z = np.stack([np.roll(Z[:800], 50 * c) for c in range(7)], axis=1)
    found = [run(engine, z, range(0, 800, 8)) for engine in (graphed, eager)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


@gpu
@both_modes
def test_thousands_of_streams_on_the_gpu_get_what_each_gets_alone(bundle):
    needs_gpu()
    engine = make(bundle, "gpu")
    handles = [engine.open(1) for _ in range(4096)]
    z = Z[:400, None]
    got = {handle: [] for handle in handles}
    for start in range(0, 400, 8):
        new = engine.feed(dict.fromkeys(handles, z[start : start + 8]))
        for handle, p in new.items():
            got[handle].append(p)
    alone = run(ReferenceEngine(bundle, hop_samples=8), z)
    for handle in handles:
        np.testing.assert_allclose(np.concatenate(got[handle]), alone, atol=ALMOST)


@gpu
@both_modes
def test_a_real_gpu_s_streams_go_on_on_the_cpu(bundle, caplog):
    needs_gpu()
    with pytest.MonkeyPatch.context() as patch, recorded(caplog):
        pair = Pair(make(bundle, "gpu"), bundle)
        streams = [pair.open(n) for n in (1, 30, 2)]
        for n in (5, 8, 300, 2000, 8, 8, 77):
            pair.feed(dict.fromkeys(streams, n))
        assert "CPU" not in pair.tested.name
        Fault(patch, "live", "bulk").arm(LOST[0])
        for n in (8, 8, 77):
            pair.feed(dict.fromkeys(streams, n))
        assert len(caplog.records) == 1
        assert pair.tested.name == "torch (CPU), the GPU was lost"
