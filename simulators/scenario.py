"""A timeline of what happens to the wearer, written in TOML, played from data or a model.

::

    title = "One seizure"
    seed = 1                  # of every choice that is left open below; 0 by default
    source = "auto"           # "dataset", "synthetic", or the data set if there is one
    crossfade_s = 0.25        # how softly recordings are joined, 0 to 0.5

    [[part]]
    state = "background"      # background: labels 3, 4, 5 of the data set; or seizure: 1
    seconds = 20

    [[part]]
    label = 1                 # or one label of the data set
    seconds = 10

    [[part]]
    recording = "V1.791"      # or one recording (a list: one a channel), whole by default
    source = "dataset"        # a part may choose for itself

    [[fault]]
    kind = "gap"              # what goes wrong: see faults.py
    at = 12
    seconds = 3
"""

from __future__ import annotations

import difflib
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from simulators.blocks import OFFSET, ONSET, RATE_HZ, Block
from simulators.faults import Fault, from_table, nearest, number
from simulators.neural_mass import BACKGROUND, ICTAL, NeuralMass
from stream_classifier.errors import ConfigError
from stream_classifier.regular_file import read_regular
from stream_classifier.toml_file import MAX_TOML_BYTES, parse_toml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from stream_classifier.datasets import SeizureRows

SCENARIO_FOLDER: Final = Path(__file__).parent / "scenarios"

SourceName = Literal["auto", "dataset", "synthetic"]

RECORDING_SAMPLES: Final = 4_094
"""Of a recording put together from its 23 rows: 23 s."""

_STATES: Final[dict[str, tuple[int, ...]]] = {"background": (3, 4, 5), "seizure": (1,)}
_SEIZURE_LABEL: Final = 1
_NO_MODEL_LABEL: Final = 2
"""The tumour area: the neural mass model has no regime for it."""

_SHORTEST_S, _LONGEST_S = 1.0, 86_400.0
_CROSSFADE_MAX_S: Final = 0.5
_MODEL_BLOCK_SAMPLES: Final = 16
"""Computed at once: little, so that a device is never kept waiting for the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One stretch of a scenario.

    Attributes:
        name: What it is called in the markers: ``background``, ``seizure`` or ``label-2``.
        seconds: How long it lasts.
        labels: Labels of the data set from which one is chosen for the part.
        recordings: Or these recordings, one a channel.
        source: Where the samples come from.
    """

    name: str
    seconds: float
    labels: tuple[int, ...]
    recordings: tuple[str, ...]
    source: SourceName


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A timeline.

    Attributes:
        title: For people.
        seed: Of every choice left open.
        crossfade_s: How long a join of two recordings takes.
        parts: In the order of time, at least one.
        faults: What goes wrong meanwhile; for the device, not for ``play``.
    """

    title: str
    seed: int
    crossfade_s: float
    parts: tuple[Part, ...]
    faults: tuple[Fault, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return sum(part.seconds for part in self.parts)


def load(name: str | Path) -> Scenario:
    """Read a scenario.

    Args:
        name: Of a shipped one (``demo``), or the path of a TOML file.

    Raises:
        ConfigError: If there is none, or it is not valid.
    """
    path = Path(name)
    if path.name == str(name) in _shipped():
        path = SCENARIO_FOLDER / f"{name}.toml"
    try:
        text = read_regular(path, limit_bytes=MAX_TOML_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = "" if isinstance(error, FileNotFoundError) else f" ({_reason(error)})"
        raise ConfigError(
            f"scenario {str(name)!r}: no readable file{why}, and none of the shipped ones "
            f"({', '.join(_shipped())})"
        ) from error
    return parse(text, name=str(path))


def _shipped() -> list[str]:
    return sorted(file.stem for file in SCENARIO_FOLDER.glob("*.toml"))


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)


def parse(text: str, *, name: str = "scenario") -> Scenario:
    """Read a scenario from TOML.

    Args:
        text: The TOML document.
        name: What to call it in an error.

    Raises:
        ConfigError: If a key is unknown (names the nearest valid one), or a value is of the
            wrong type or out of its range.
    """
    try:
        document = parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error
    known = {"title", "seed", "source", "crossfade_s", "part", "fault"}
    _refuse_unknown(document, known, where=name)
    raw_parts = document.get("part", [])
    if not isinstance(raw_parts, list) or not raw_parts:
        raise ConfigError(f"{name}: expected at least one [[part]], found none")
    source = _source(document.get("source", "auto"), where=name)
    parts = tuple(
        _part(raw, default_source=source, where=f"{name}, part {number}")
        for number, raw in enumerate(raw_parts, start=1)
    )
    title = document.get("title", Path(name).stem)
    if not isinstance(title, str):
        raise ConfigError(f"{name}: title: expected a text, found {title!r}")
    seed = document.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"{name}: seed: expected a whole number from 0, found {seed!r}")
    crossfade_s = number(
        document.get("crossfade_s", 0.25), 0.0, _CROSSFADE_MAX_S, where=f"{name}: crossfade_s"
    )
    return Scenario(
        title=title,
        seed=seed,
        crossfade_s=crossfade_s,
        parts=parts,
        faults=_faults(document.get("fault", []), where=name),
    )


def play(
    scenario: Scenario,
    *,
    n_channels: int = 1,
    table: SeizureRows | None = None,
    keys: Sequence[str] = (),
    loop: bool = False,
) -> Iterator[Block]:
    """Turn a scenario into samples.

    Every channel gets recordings of its own, all of one label. Recordings are joined by a
    raised-cosine crossfade that begins where the new state does, at the marker; the model
    changes its parameters along the same curve instead. The same seed gives the same
    samples. Markers: ``state/<name>`` for each part, ``seizure/onset`` and
    ``seizure/offset``, and ``recording/<key>/class/<class>/channel/<number>``.

    Args:
        scenario: The timeline.
        n_channels: 1 to 64.
        table: The data set, or None if there is none.
        keys: Recordings that may be used, in practice those the model has not seen.
        loop: Begin again at the end, joined like any other part.

    Raises:
        ConfigError: At once, if a part needs the data set and there is none, or a recording that is
            not among ``keys``.
    """
    rng = np.random.default_rng(scenario.seed)
    library = None if table is None else _Library(table, keys, n_channels, rng)
    resolved = [_resolve(part, library, n_channels) for part in scenario.parts]
    timeline = itertools.cycle(resolved) if loop else resolved
    return _play(scenario, timeline, library, n_channels)


def _play(
    scenario: Scenario,
    timeline: Iterable[tuple[Part, bool]],
    library: _Library | None,
    n_channels: int,
) -> Iterator[Block]:
    n_fade = round(scenario.crossfade_s * RATE_HZ)
    model: NeuralMass | None = None
    onward: NDArray[np.float32] | None = None  # how what came before would have gone on
    model_was_on = in_seizure = False
    for part, is_seizure in timeline:
        n_samples = round(part.seconds * RATE_HZ)
        events = [f"state/{part.name}"]
        if is_seizure != in_seizure:
            events.append(ONSET if is_seizure else OFFSET)
            in_seizure = is_seizure
        if part.source == "synthetic" or library is None:
            regime = ICTAL if is_seizure else BACKGROUND
            if model is None:
                model = NeuralMass(
                    n_channels=n_channels,
                    seed=scenario.seed,
                    ramp_s=scenario.crossfade_s,
                    regime=regime,
                )
            model.set_regime(regime)
            stretches = _from_model(model, n_samples, first_samples=n_fade)
            model_was_on, n_onward = True, 0
        else:
            if model is not None and model_was_on:
                onward, model_was_on = model.run(n_fade), False
            stretches = library.pieces(part, n_samples, extra_samples=n_fade)
            n_onward = n_fade
        for samples, labels in stretches:
            if onward is not None and n_fade:
                samples[:n_fade] = _crossfade(onward, samples[:n_fade])
            onward = samples[len(samples) - n_onward :] if n_onward else None
            played = samples[: len(samples) - n_onward]
            yield Block(played, events=tuple((0, label) for label in (*events, *labels)))
            events = []
    if in_seizure:
        yield Block(np.empty((0, n_channels), np.float32), events=((0, OFFSET),))


class _Library:
    """Draws recordings from the data set, none twice before all were drawn."""

    def __init__(
        self,
        table: SeizureRows,
        keys: Sequence[str],
        n_channels: int,
        rng: np.random.Generator,
    ) -> None:
        self.keys = frozenset(keys)
        self._table = table
        self._n_channels = n_channels
        self._rng = rng
        self._by_label: dict[int, list[str]] = {}
        for key in sorted(self.keys):
            self._by_label.setdefault(table.label_of(key), []).append(key)
        self._decks: dict[int, list[str]] = {label: [] for label in self._by_label}

    def has(self, label: int) -> bool:
        """Whether there is any recording of that label."""
        return label in self._by_label

    def label_of(self, key: str) -> int:
        """Label of a recording."""
        return self._table.label_of(key)

    def pieces(
        self, part: Part, n_samples: int, *, extra_samples: int
    ) -> Iterator[tuple[NDArray[np.float32], list[str]]]:
        """Stretches of recordings that make up one part, and their markers.

        Each stretch has ``extra_samples`` more than it is to last: how it would go on.
        """
        at_hand = [label for label in part.labels if self.has(label)]
        label = int(self._rng.choice(at_hand)) if at_hand else 0  # 0: the part names recordings
        n_pieces = math.ceil(n_samples / RECORDING_SAMPLES)
        borders = np.linspace(0, n_samples, n_pieces + 1).round().astype(int)
        for n_piece in np.diff(borders).tolist():
            keys = part.recordings or self._draw(label)
            columns = [self._stretch(key, n_piece + extra_samples, part) for key in keys]
            markers = [
                f"recording/{key}/class/{self._table.class_of(key)}/channel/{channel}"
                for channel, key in enumerate(keys)
            ]
            yield np.stack(columns, axis=1), markers  # (n_piece + extra, n_channels)

    def _draw(self, label: int) -> list[str]:
        deck = self._decks[label]
        while len(deck) < self._n_channels:
            deck += self._rng.permutation(self._by_label[label]).tolist()
        drawn, self._decks[label] = deck[: self._n_channels], deck[self._n_channels :]
        return drawn

    def _stretch(self, key: str, n_samples: int, part: Part) -> NDArray[np.float32]:
        """A stretch of a recording; where that is too short, it turns back at its end."""
        samples = self._table.recording(key)
        room = len(samples) - n_samples
        start = int(self._rng.integers(room + 1)) if room > 0 and not part.recordings else 0
        stretch = samples[start : start + n_samples]
        return np.pad(stretch, (0, n_samples - len(stretch)), mode="reflect")


def _from_model(
    model: NeuralMass, n_samples: int, *, first_samples: int
) -> Iterator[tuple[NDArray[np.float32], list[str]]]:
    """A stretch of the model in small steps, the first long enough for a crossfade."""
    step = max(first_samples, _MODEL_BLOCK_SAMPLES)
    while n_samples:
        step = min(step, n_samples)
        yield model.run(step), []
        n_samples -= step
        step = _MODEL_BLOCK_SAMPLES


def _crossfade(old: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.float32]:
    """From one signal to another along a raised cosine; both ``(n_samples, n_channels)``."""
    phase = (np.arange(len(new)) + 0.5) / len(new)
    share = (0.5 - 0.5 * np.cos(np.pi * phase)).astype(np.float32)[:, np.newaxis]
    mixed: NDArray[np.float32] = old + share * (new - old)
    return mixed


def _resolve(part: Part, library: _Library | None, n_channels: int) -> tuple[Part, bool]:
    """Check that a part can be played, and say whether it is a seizure."""
    synthetic = part.source == "synthetic" or (part.source == "auto" and library is None)
    if part.source == "dataset" and library is None:
        raise ConfigError(
            f"the scenario's part {part.name!r} needs the data set. Try: --data, "
            'stream-classifier dataset fetch, or source = "synthetic"'
        )
    if synthetic or library is None:
        if part.recordings or _NO_MODEL_LABEL in part.labels:
            raise ConfigError(
                f"the scenario's part {part.name!r} cannot be synthetic: the model knows "
                "background and seizure only. Try: --data"
            )
        return part, _SEIZURE_LABEL in part.labels
    if part.recordings:
        if len(part.recordings) != n_channels:
            raise ConfigError(
                f"the scenario names {len(part.recordings)} recordings for {n_channels} "
                "channels. Try: one recording for each channel"
            )
        for key in part.recordings:
            if key not in library.keys:
                near = difflib.get_close_matches(key, library.keys, n=3)
                hint = f"; near: {', '.join(near)}" if near else ""
                raise ConfigError(
                    f"recording {key!r} is not in the data set, or the model was trained on "
                    f"it{hint}"
                )
        return part, any(library.label_of(key) == _SEIZURE_LABEL for key in part.recordings)
    if not any(library.has(label) for label in part.labels):
        raise ConfigError(
            f"no recording is at hand for the scenario's part {part.name!r} "
            f"(labels {', '.join(map(str, part.labels))})"
        )
    return part, _SEIZURE_LABEL in part.labels


def _part(raw: object, *, default_source: SourceName, where: str) -> Part:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a table, found {raw!r}")
    _refuse_unknown(raw, {"state", "label", "recording", "seconds", "source"}, where=where)
    chosen = [key for key in ("state", "label", "recording") if key in raw]
    if len(chosen) != 1:
        found = " and ".join(chosen) or "none"
        raise ConfigError(f"{where}: expected one of state, label, recording, found {found}")
    labels: tuple[int, ...] = ()
    recordings: tuple[str, ...] = ()
    value = raw[chosen[0]]
    name = str(value)
    if chosen == ["state"]:
        if not isinstance(value, str) or value not in _STATES:
            raise ConfigError(f"{where}: state: {nearest(value, _STATES)}")
        labels = _STATES[value]
    elif chosen == ["label"]:
        if value not in range(1, 6) or isinstance(value, bool):
            raise ConfigError(f"{where}: label: expected 1 to 5, found {value!r}")
        labels, name = (value,), f"label-{value}"
    else:
        given = value if isinstance(value, list) else [value]
        if not given or not all(isinstance(key, str) for key in given):
            raise ConfigError(f"{where}: recording: expected a key or a list, found {value!r}")
        recordings = tuple(given)
        name = "recording"
    longest_s = RECORDING_SAMPLES / RATE_HZ if recordings else _LONGEST_S
    seconds = raw.get("seconds", longest_s if recordings else None)
    return Part(
        name=name,
        seconds=number(seconds, _SHORTEST_S, longest_s, where=f"{where}: seconds"),
        labels=labels,
        recordings=recordings,
        source=_source(raw.get("source", default_source), where=where),
    )


def _faults(raw: object, *, where: str) -> tuple[Fault, ...]:
    if not isinstance(raw, list) or not all(isinstance(table, dict) for table in raw):
        raise ConfigError(f"{where}: expected tables [[fault]], found {raw!r}")
    return tuple(
        from_table(table, where=f"{where}, fault {n}") for n, table in enumerate(raw, start=1)
    )


def _source(value: object, *, where: str) -> SourceName:
    for name in get_args(SourceName):
        if value == name:
            return name  # type: ignore[no-any-return]
    raise ConfigError(f"{where}: source: {nearest(value, get_args(SourceName))}")


def _refuse_unknown(table: Mapping[str, Any], valid: set[str], *, where: str) -> None:
    for key in table:
        if key not in valid:
            raise ConfigError(f"{where}: {nearest(key, sorted(valid))}")
