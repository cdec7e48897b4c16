"""Scenarios: read strictly, played exactly, joined softly."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from simulators import scenario as scenarios
from simulators.blocks import OFFSET, ONSET, Block, cut, take
from simulators.scenario import Scenario, parse, play
from stream_classifier.datasets import SeizureRows
from stream_classifier.errors import ConfigError

RATE_HZ = 178
FADE_SAMPLES = 44  # 0.25 s


@pytest.fixture(scope="module")
def table() -> SeizureRows:
    """Thirty recordings, six a label; each a slow sine on an offset that names it."""
    keys = [f"V{n}" for n in range(30)]
    time = np.arange(23 * 178)
    signals = [
        np.round(100 * np.sin(time / 20 + n) + 30 * n - 450).reshape(23, 178) for n in range(30)
    ]
    return SeizureRows(
        values=np.concatenate(signals).astype(np.int16),
        labels=np.repeat(np.arange(30) % 5 + 1, 23).astype(np.int8),
        recordings=np.repeat(np.array(keys), 23),
        chunks=np.tile(np.arange(1, 24, dtype=np.int8), 30),
        digest="",
    )


def write(*parts: str, head: str = "") -> Scenario:
    return parse(head + "".join(f"\n[[part]]\n{part}\n" for part in parts))


def signal(blocks: list[Block]) -> np.ndarray:
    return np.concatenate([block.samples for block in blocks])


def events(blocks: list[Block]) -> list[tuple[int, str]]:
    return [event for piece in cut(blocks, chunk_samples=4) for event in piece.events]


def marks(blocks: list[Block]) -> list[tuple[int, str]]:
    return [(index, label) for index, label in events(blocks) if label in {ONSET, OFFSET}]


BACKGROUND = 'state = "background"\nseconds = 5'
SEIZURE = 'state = "seizure"\nseconds = 4'


# -- reading ------------------------------------------------------------------------------------


def test_the_shipped_scenarios_are_valid() -> None:
    names = [path.stem for path in scenarios.SCENARIO_FOLDER.glob("*.toml")]
    assert {"demo", "quiet"} <= set(names)
    for name in names:
        assert scenarios.load(name).parts


def test_the_demo_has_its_first_seizure_after_20_s() -> None:
    demo = scenarios.load("demo")
    assert [(part.name, part.seconds) for part in demo.parts] == [
        ("background", 20),
        ("seizure", 23),
        ("background", 30),
        ("seizure", 23),
        ("background", 60),
    ]


def test_a_file_is_read_and_an_absent_one_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[[part]]\nlabel = 2\nseconds = 1.5\n")
    assert scenarios.load(file).seconds == 1.5
    with pytest.raises(ConfigError, match="demo, quiet"):
        scenarios.load(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("part = 3", "at least one"),
        ("not toml", "not valid TOML"),
        ('titel = "x"\n[[part]]\nlabel = 1\nseconds = 1', "did you mean 'title'"),
        ("[[part]]\nlabel = 1\nsecond = 1", "part 1.*did you mean 'seconds'"),
        ('[[part]]\nstate = "seizur"\nseconds = 1', "did you mean 'seizure'"),
        ('[[part]]\nstate = ["seizure"]\nseconds = 1', "state"),
        ("[[part]]\nlabel = 6\nseconds = 1", "label: expected 1 to 5, found 6"),
        ("[[part]]\nlabel = true\nseconds = 1", "label"),
        ("[[part]]\nlabel = 1\nseconds = 0.5", "seconds: expected a number from 1"),
        ("[[part]]\nlabel = 1", "seconds: .*found nothing"),
        ('[[part]]\nlabel = 1\nseconds = "9"', "seconds"),
        ("[[part]]\nseconds = 1", "one of state, label, recording, found none"),
        ('[[part]]\nlabel = 1\nstate = "seizure"\nseconds = 1', "found state and label"),
        ('[[part]]\nlabel = 1\nseconds = 1\nsource = "syntetic"', "did you mean 'synthetic'"),
        ('[[part]]\nrecording = "V1"\nseconds = 24', "from 1 to 23"),
        ("[[part]]\nrecording = 3", "recording: expected a key"),
        ("[[part]]\nrecording = []", "recording: expected a key"),
        ("seed = -1\n[[part]]\nlabel = 1\nseconds = 1", "seed"),
        ("title = 1\n[[part]]\nlabel = 1\nseconds = 1", "title"),
        ("crossfade_s = 3\n[[part]]\nlabel = 1\nseconds = 1", "crossfade_s"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_remedy(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(text)


# -- playing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["dataset", "synthetic"])
def test_parts_last_exactly_as_long_as_written_and_markers_stand_at_their_borders(
    table: SeizureRows, source: str
) -> None:
    timeline = write(BACKGROUND, SEIZURE, SEIZURE, BACKGROUND, head=f'source = "{source}"')
    blocks = list(play(timeline, n_channels=2, table=table, keys=table.keys))
    assert signal(blocks).shape == (18 * RATE_HZ, 2)
    assert signal(blocks).dtype == np.float32
    assert marks(blocks) == [(5 * RATE_HZ, ONSET), (13 * RATE_HZ, OFFSET)]
    states = [event for event in events(blocks) if event[1].startswith("state")]
    assert states == [
        (0, "state/background"),
        (5 * RATE_HZ, "state/seizure"),
        (9 * RATE_HZ, "state/seizure"),
        (13 * RATE_HZ, "state/background"),
    ]


def test_a_seizure_at_the_end_ends(table: SeizureRows) -> None:
    blocks = list(play(write(SEIZURE), table=table, keys=table.keys))
    assert marks(blocks) == [(0, ONSET), (4 * RATE_HZ, OFFSET)]


@pytest.mark.parametrize("source", ["dataset", "synthetic"])
def test_the_seed_decides_everything(table: SeizureRows, source: str) -> None:
    def samples(seed: int) -> np.ndarray:
        timeline = write(BACKGROUND, SEIZURE, head=f'seed = {seed}\nsource = "{source}"')
        return signal(list(play(timeline, n_channels=2, table=table, keys=table.keys)))

    np.testing.assert_array_equal(samples(1), samples(1))
    assert not np.array_equal(samples(1), samples(2))


def test_only_recordings_that_may_be_used_are_used_and_each_part_keeps_to_one_label(
    table: SeizureRows,
) -> None:
    allowed = table.keys[:20]
    timeline = write('state = "background"\nseconds = 120', 'state = "seizure"\nseconds = 60')
    used: dict[int, set[int]] = {}
    for index, label in events(list(play(timeline, n_channels=3, table=table, keys=allowed))):
        if label.startswith("recording"):
            _, key, _, kind, _, _ = label.split("/")
            assert key in allowed
            assert table.class_of(key) == int(kind)
            used.setdefault(index >= 120 * RATE_HZ, set()).add(table.label_of(key))
    assert used[True] == {1}
    assert len(used[False]) == 1
    assert used[False] < {3, 4, 5}


def test_channels_get_different_recordings_and_none_comes_twice_before_all_came(
    table: SeizureRows,
) -> None:
    timeline = write("label = 4\nseconds = 69")  # three whole recordings long
    blocks = list(play(timeline, n_channels=2, table=table, keys=table.keys))
    keys = [label.split("/")[1] for _, label in events(blocks) if label.startswith("recording")]
    assert len(keys) == 6
    assert len(set(keys)) == 6


def test_a_join_is_a_raised_cosine_that_begins_at_the_marker(table: SeizureRows) -> None:
    timeline = write('recording = "V0"\nseconds = 3', 'recording = "V27"\nseconds = 3')
    samples = signal(list(play(timeline, table=table, keys=table.keys)))[:, 0]
    border = 3 * RATE_HZ
    old = table.recording("V0")[border : border + FADE_SAMPLES]
    new = table.recording("V27")[:FADE_SAMPLES]
    assert abs(new[0] - table.recording("V0")[border - 1]) > 500  # µV: what a hard cut would do
    share = 0.5 - 0.5 * np.cos(np.pi * (np.arange(FADE_SAMPLES) + 0.5) / FADE_SAMPLES)
    np.testing.assert_allclose(
        samples[border : border + FADE_SAMPLES], old + share * (new - old), atol=0.01
    )
    assert np.abs(np.diff(samples)).max() < 60


def test_where_a_recording_ends_at_a_join_it_turns_back_instead_of_stopping(
    table: SeizureRows,
) -> None:
    timeline = write('recording = "V0"', 'recording = "V27"')  # all 23 s: nothing is left over
    samples = signal(list(play(timeline, table=table, keys=table.keys)))[:, 0]
    assert np.abs(np.diff(samples)).max() < 60


def test_before_a_join_the_samples_are_those_of_the_recording(table: SeizureRows) -> None:
    timeline = write('recording = "V5"', 'recording = "V2"')
    samples = signal(list(play(timeline, table=table, keys=table.keys)))[:, 0]
    np.testing.assert_array_equal(samples[:4094], table.recording("V5"))
    np.testing.assert_array_equal(samples[4094 + 44 :], table.recording("V2")[44:])


def test_a_named_recording_for_each_channel(table: SeizureRows) -> None:
    timeline = write('recording = ["V0", "V3"]\nseconds = 3')
    blocks = list(play(timeline, n_channels=2, table=table, keys=table.keys))
    np.testing.assert_array_equal(signal(blocks)[:, 1], table.recording("V3")[: 3 * RATE_HZ])
    assert marks(blocks)[0] == (0, ONSET)  # V0 is a seizure


def test_without_a_data_set_the_model_plays(table: SeizureRows) -> None:
    timeline = write(BACKGROUND, SEIZURE, BACKGROUND)
    samples = signal(list(play(timeline, n_channels=2, table=None)))
    seizure = samples[7 * RATE_HZ : 9 * RATE_HZ].std(axis=0)
    assert (seizure > 3 * samples[: 5 * RATE_HZ].std(axis=0)).all()


def test_data_and_model_may_take_turns_without_a_jump(table: SeizureRows) -> None:
    synthetic = BACKGROUND + '\nsource = "synthetic"'
    timeline = write(BACKGROUND, synthetic, BACKGROUND, synthetic)
    blocks = list(play(timeline, table=table, keys=table.keys))
    samples = signal(blocks)[:, 0]
    assert len(samples) == 20 * RATE_HZ
    for border in (5, 10, 15):
        around = np.diff(samples[border * RATE_HZ - 2 : border * RATE_HZ + 60])
        assert np.abs(around).max() < 100


def test_a_loop_goes_round_without_a_gap_or_a_jump(table: SeizureRows) -> None:
    timeline = write(BACKGROUND, SEIZURE)
    blocks = list(take(play(timeline, table=table, keys=table.keys, loop=True), 30 * RATE_HZ))
    assert len(signal(blocks)) == 30 * RATE_HZ
    assert all(block.gap_before_samples == 0 for block in blocks)
    assert [index / RATE_HZ for index, _ in marks(blocks)] == [5, 9, 14, 18, 23, 27]


def test_an_endless_synthetic_scenario_is_made_little_by_little() -> None:
    timeline = write('state = "background"\nseconds = 86400')
    blocks = list(itertools.islice(play(timeline), 20))
    assert max(len(block.samples) for block in blocks[1:]) <= 16


@pytest.mark.parametrize(
    ("part", "keys", "told"),
    [
        ("label = 2\nseconds = 3", None, "cannot be synthetic"),
        ('recording = "V1"', None, "cannot be synthetic"),
        ('label = 1\nseconds = 3\nsource = "dataset"', None, "needs the data set"),
        ('label = 2\nseconds = 3\nsource = "synthetic"', ["V1"], "cannot be synthetic"),
        ('recording = "V2"', ["V1"], "the model was trained on"),
        ('recording = ["V1", "V1"]', ["V1"], "2 recordings for 1 channels"),
        ("label = 1\nseconds = 3", ["V1"], "no recording is at hand"),
    ],
)
def test_what_cannot_be_played_is_refused_before_the_first_sample(
    table: SeizureRows, part: str, keys: list[str] | None, told: str
) -> None:
    timeline = write(BACKGROUND if keys is None else "label = 2\nseconds = 3", part)
    with pytest.raises(ConfigError, match=told):
        play(timeline, table=None if keys is None else table, keys=keys or ())
