"""Faults do what they say, where and when they say it, and nothing else."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from simulators.blocks import Block, Piece, cut
from simulators.faults import KINDS, Transport, inject, parse
from simulators.scenario import parse as parse_scenario
from stream_classifier.cli import app
from stream_classifier.errors import ConfigError

RATE_HZ = 100.0
LABELS = ("Fp1", "C3", "O1")


def noise(n_samples, n_channels=3):
    rng = np.random.default_rng(7)
    return (30 * rng.standard_normal((n_samples, n_channels))).astype(np.float32)


def as_blocks(samples, sizes, events=()):
    """The samples in blocks of these sizes, then the rest; events by their index."""
    start = 0
    for size in (*sizes, len(samples)):
        stop = min(start + size, len(samples))
        is_last = stop == len(samples)
        mine = tuple((at - start, label) for at, label in events if start <= at < stop + is_last)
        yield Block(samples[start:stop], events=mine)
        start = stop
        if is_last:
            return


def sent(samples, *specs, sizes=(), events=(), chunk_samples=4, seed=0):
    """What a device sends: samples by index, and events by index."""
    faults = [parse(spec) for spec in specs]
    blocks = inject(
        as_blocks(samples, sizes, events), faults, labels=LABELS, rate_hz=RATE_HZ, seed=seed
    )
    rows, marks = {}, []
    for piece in cut(blocks, chunk_samples=chunk_samples):
        rows |= dict(
            zip(range(piece.first_index, piece.last_index + 1), piece.samples, strict=True)
        )
        marks += piece.events
    return rows, marks


def column(rows, channel=0):
    return np.array([row[channel] for row in rows.values()])


def test_a_gap_is_a_hole_of_exactly_its_length_and_the_rest_is_untouched():
    samples = noise(600)
    rows, marks = sent(samples, "gap:at=2,seconds=1.5", sizes=(16,) * 40)
    assert sorted(rows) == [*range(200), *range(350, 600)]
    np.testing.assert_array_equal(np.stack(list(rows.values())), samples[list(rows)])
    assert marks == [(200, "fault/gap"), (350, "fault/gap/end")]


def test_what_is_announced_in_a_gap_keeps_its_place_and_so_does_a_gap_of_the_source():
    events = [(100, "seizure/onset"), (250, "seizure/offset"), (500, "state/end")]
    _, marks = sent(noise(600), "gap:at=2,seconds=1", events=events)
    assert sorted(marks) == sorted([*events, (200, "fault/gap"), (300, "fault/gap/end")])
    gappy = [Block(noise(50)), Block(noise(50), gap_before_samples=30, events=((0, "x"),))]
    out = list(inject(gappy, [parse("gap:at=0.7,seconds=0.2")], labels=LABELS, rate_hz=RATE_HZ))
    pieces = list(cut(out, chunk_samples=100))
    assert [(p.first_index, len(p.samples)) for p in pieces if len(p.samples)] == [
        (0, 50),
        (90, 40),
    ]
    assert ("x" in {label for p in pieces for at, label in p.events if at == 80}) is True


SPECS = [
    "gap:at=1,seconds=0.7",
    "drop:share=0.2",
    "nan:at=0.5,seconds=1,share=0.1",
    "flat:at=2,seconds=1,uv=3,channels=C3",
    "blink:every=0.6",
    "chew:at=0.3",
    "motion:every=0.8",
    "hum:hz=7",
    "clip:uv=20,gain=2",
    "gain:x=1e-3,at=3",
]


@given(
    specs=st.lists(st.sampled_from(SPECS), min_size=1, max_size=3, unique=True),
    sizes=st.lists(st.integers(0, 150), max_size=12),
    chunk_samples=st.integers(1, 50),
)
def test_however_the_source_and_the_device_cut_the_same_is_sent(specs, sizes, chunk_samples):
    samples = noise(400)
    whole, marks = sent(samples, *specs)
    rows, others = sent(samples, *specs, sizes=sizes, chunk_samples=chunk_samples)
    assert list(rows) == list(whole)
    np.testing.assert_array_equal(list(rows.values()), list(whole.values()))
    assert sorted(others) == sorted(marks)


def test_another_seed_drops_other_samples_and_the_same_seed_the_same():
    samples = noise(2000)
    first, again, other = (set(sent(samples, "drop:share=0.1", seed=seed)[0]) for seed in (1, 1, 2))
    assert first == again != other
    assert 1700 < len(first) < 1900


def test_without_a_fault_nothing_is_changed():
    samples = noise(100)
    rows, marks = sent(samples)
    np.testing.assert_array_equal(np.stack(list(rows.values())), samples)
    assert marks == []


@pytest.mark.parametrize(
    ("spec", "holds"),
    [
        ("nan:at=1", lambda before, after: np.isnan(after).all()),
        ("inf:at=1", lambda before, after: np.isposinf(after).all()),
        ("flat:at=1,uv=5", lambda before, after: (after == 5).all()),
        ("clip:at=1,uv=10", lambda before, after: np.abs(after).max() == 10),
        ("gain:at=1,x=1e-3", lambda before, after: np.allclose(after, before * 1e-3)),
        ("hum:at=1,uv=80,hz=7", lambda before, after: 75 < np.abs(after - before).max() < 80.001),
        ("blink:at=1", lambda before, after: 100 < (after - before).max() < 200),
        ("chew:at=1", lambda before, after: 30 < (after - before).std() < 100),
        ("motion:at=1", lambda before, after: np.abs(after - before).max() > 250),
    ],
)
def test_each_fault_of_the_signal_begins_at_its_sample(spec, holds):
    samples = noise(1200)
    rows, marks = sent(samples, spec)
    after = column(rows)
    np.testing.assert_array_equal(after[:100], samples[:100, 0])
    assert holds(samples[100:, 0], after[100:])
    assert marks == [(100, f"fault/{parse(spec).kind}")]


def test_a_fault_of_some_electrodes_leaves_the_others_alone_and_blinks_are_frontal():
    samples = noise(800)
    flat, _ = sent(samples, "flat:channels=C3+O1")
    np.testing.assert_array_equal(column(flat), samples[:, 0])
    assert not column(flat, 1).any()
    assert not column(flat, 2).any()
    blinking, _ = sent(samples, "blink")
    np.testing.assert_array_equal(column(blinking, 1), samples[:, 1])
    assert (column(blinking) != samples[:, 0]).any()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpa:at=3", ["'gpa'", "did you mean 'gap'"]),
        ("gap:att=3", ["'att'", "did you mean 'at'"]),
        ("gap:at", ["'at'", "Try: gap:at=20,seconds=3"]),
        ("gap:at=soon", ["at:", "'soon'", "from 0"]),
        ("gap:seconds=-1", ["seconds:", "-1"]),
        ("gap:channels=C3", ["'channels'", "at, seconds"]),
        ("gain", ["x is missing", "gain:at=20,seconds=3,x=1e-3"]),
        ("rate", ["hz is missing", "rate:hz=179"]),
        ("nan:share=nan", ["share:", "nan"]),
        ("", ["expected one of"]),
    ],
)
def test_a_text_that_is_no_fault_says_what_was_meant(text, words):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    for word in words:
        assert word in str(caught.value)


def test_a_channel_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'C3'"):
        inject([], [parse("flat:channels=C2")], labels=("C3", "O1"), rate_hz=RATE_HZ)


def test_the_help_of_simulate_names_every_kind():
    text = " ".join(
        CliRunner().invoke(app, ["simulate", "--help"], env={"COLUMNS": "400"}).output.split()
    )
    for kind in KINDS:
        assert f"{kind}," in text or f"{kind};" in text or f"{kind}." in text


def test_the_command_refuses_a_wrong_fault_and_says_which_was_meant():
    result = CliRunner().invoke(app, ["simulate", "synthetic", "--fault", "gpa:at=1"])
    assert result.exit_code == 2
    assert "did you mean 'gap'" in " ".join(result.output.split())


SCENARIO = '[[part]]\nstate = "background"\nseconds = 5\n'


def test_a_scenario_may_bring_its_faults():
    scenario = parse_scenario(SCENARIO + '[[fault]]\nkind = "flat"\nat = 2\nchannels = ["Cz"]\n')
    (fault,) = scenario.faults
    assert (fault.kind, fault.span(100.0), fault.channels) == ("flat", (200, math.inf), ("Cz",))


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('[[fault]]\nkind = "flta"\n', ["fault 1", "'flta'", "did you mean 'flat'"]),
        ('[[fault]]\nkind = "gap"\nat = "2"\n', ["fault 1: at", "'2'"]),
        ("fault = 3\n", ["[[fault]]", "3"]),
    ],
)
def test_a_wrong_fault_in_a_scenario_says_where_it_is(toml, words):
    with pytest.raises(ConfigError) as caught:
        parse_scenario(toml + SCENARIO if "fault = " in toml else SCENARIO + toml)
    for word in words:
        assert word in str(caught.value)


def transport(*specs):
    return Transport(RATE_HZ, tuple(parse(spec) for spec in specs))


def test_samples_of_a_stall_are_all_held_until_it_ends():
    held = transport("stall:at=2,seconds=3")
    due_s = [(index / RATE_HZ) + held.held_back_s(index) for index in range(190, 510)]
    assert due_s[:10] == [index / RATE_HZ for index in range(190, 200)]
    assert due_s[10:310] == pytest.approx([5.0] * 300)
    assert due_s[310:] == [index / RATE_HZ for index in range(500, 510)]


def pushes(how, first_index):
    piece = Piece(first_index, noise(4))
    return how.pushes(piece, lambda index: 1000 + index / how.true_hz)


def test_a_repeated_piece_is_sent_twice_as_it_is():
    how = transport("repeat:at=1,seconds=1")
    (before,), (first, again), (after,) = (pushes(how, index) for index in (96, 100, 200))
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1] == pytest.approx([1001, 1001.01, 1001.02, 1001.03])
    assert before[1][-1] < first[1][0] < after[1][0]


def test_stamps_go_back_by_as_much_as_asked_and_only_as_long():
    how = transport("backward:at=1,seconds=1,by=0.5")
    ((_, before),), ((_, back),), ((_, after),) = (pushes(how, index) for index in (96, 100, 200))
    assert (before[0], back[0], after[0]) == pytest.approx((1000.96, 1000.5, 1002))


def test_the_true_rate_is_in_the_stamps_and_not_in_what_the_device_says():
    how = transport("rate:hz=102.4")
    assert (how.rate_hz, how.true_hz) == (100.0, 102.4)
    ((_, stamps),) = pushes(how, 1024)
    assert stamps[0] == pytest.approx(1010)


def test_a_piece_without_samples_sends_none():
    assert transport("repeat").pushes(Piece(0, noise(0)), lambda index: 0.0) == []
