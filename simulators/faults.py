"""What goes wrong with a device, on purpose: faults in what a simulated one plays and sends.

A fault is written as ``kind:key=value,...``, in seconds of signal from the first sample::

    gap:at=20,seconds=3            three seconds are never sent
    flat:at=10,channels=C3+C4      two electrodes come off, for good
    gain:x=1e-3                    millivolts in a stream that says microvolts

Those of the signal are a pure function of blocks (:func:`inject`); those of the sending are what a
device asks its :class:`Transport`. Both depend on the samples' indices alone, never on how the
signal is cut, so that a test can have without LSL exactly what a device sends. The truth goes out
as markers, ``fault/<kind>`` and ``fault/<kind>/end``.
"""

from __future__ import annotations

import difflib
import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from simulators.artefacts import blink, chew, motion
from simulators.blocks import Block
from stream_classifier.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from simulators.blocks import Piece

Range = tuple[float, float, float]
"""Default, lowest, highest; a default of NaN has to be given."""

_AT: Final[Range] = (0.0, 0.0, 86_400.0)
_FOR: Final[Range] = (math.inf, 0.001, math.inf)
_LASTS: Final = {"at": _AT, "seconds": _FOR}
_BRIEF: Final = {"at": _AT, "seconds": (1.0, 0.001, 86_400.0)}
_SHARE: Final[Range] = (1.0, 0.0, 1.0)
_EVERY: Final = (0.2, 3600.0)
_UV: Final = (0.0, 1e9)

KINDS: Final[dict[str, dict[str, Range]]] = {
    # of the signal
    "gap": _BRIEF,
    "drop": {**_LASTS, "share": (0.01, 0.0, 1.0)},
    "nan": {**_LASTS, "share": _SHARE},
    "inf": {**_LASTS, "share": _SHARE},
    "flat": {**_LASTS, "uv": (0.0, -1e9, 1e9)},
    "clip": {**_LASTS, "uv": (100.0, *_UV), "gain": (1.0, 0.0, 1e9)},
    "gain": {**_LASTS, "x": (math.nan, -1e9, 1e9)},
    "hum": {**_LASTS, "hz": (50.0, 1.0, 1000.0), "uv": (50.0, *_UV)},
    "blink": {**_LASTS, "every": (4.0, *_EVERY), "uv": (150.0, *_UV)},
    "chew": {**_LASTS, "every": (0.7, *_EVERY), "uv": (100.0, *_UV)},
    "motion": {**_LASTS, "every": (3.0, *_EVERY), "uv": (500.0, *_UV)},
    # of the sending
    "stall": _BRIEF,
    "repeat": _LASTS,
    "backward": {**_LASTS, "by": (0.02, 0.0, 86_400.0)},
    "rate": {"hz": (math.nan, 1.0, 100_000.0)},
}
"""What each kind may be given, beside ``channels`` for what happens to electrodes."""

_OF_ELECTRODES: Final = frozenset(
    ("nan", "inf", "flat", "clip", "gain", "hum", "blink", "chew", "motion")
)
_LOSSES: Final = frozenset(("gap", "drop"))
_SLOT_S: Final = 1.0
"""Of what is drawn sample by sample."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: One of ``KINDS``.
        values: All that it may be given, by the words of its text.
        channels: Labels of the channels that it happens to; none: all (blinks: the frontal ones).
    """

    kind: str
    values: Mapping[str, float]
    channels: tuple[str, ...] = ()

    def span(self, rate_hz: float) -> tuple[float, float]:
        """Index of its first sample, and of the first one after it (which may be infinite)."""
        start = round(self.values.get("at", 0.0) * rate_hz)
        seconds = self.values.get("seconds", math.inf)
        return start, start + (round(seconds * rate_hz) if math.isfinite(seconds) else math.inf)


def parse(text: str) -> Fault:
    """Read a fault from its text.

    Raises:
        ConfigError: If a word is unknown (names the nearest valid one), or a value is missing, no
            number or out of its range.

    Example:
        >>> fault = parse("gap:at=20,seconds=3")
        >>> fault.kind, fault.span(100.0)
        ('gap', (2000, 2300))
    """
    kind, _, rest = text.partition(":")
    table: dict[str, object] = {"kind": kind.strip()}
    for pair in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not value:
            raise ConfigError(
                f"fault {text!r}: expected key=value, found {pair!r}. Try: {_example(kind.strip())}"
            )
        table[key] = value if key == "channels" else _as_number(value)
    return from_table(table, where=f"fault {text!r}")


def from_table(table: Mapping[str, object], *, where: str) -> Fault:
    """Read a fault from a table of TOML, or of words.

    Args:
        table: ``kind``, and what that kind may be given.
        where: What to call it in an error.

    Raises:
        ConfigError: As for ``parse``.
    """
    kind = table.get("kind", "")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{where}: {nearest(kind, sorted(KINDS))}")
    ranges = KINDS[kind]
    words = [*ranges, "channels"] if kind in _OF_ELECTRODES else list(ranges)
    for key in table:
        if key not in {"kind", *words}:
            raise ConfigError(f"{where}: {nearest(key, words)}")
    values = {}
    for key, (default, low, high) in ranges.items():
        if key not in table and math.isnan(default):
            raise ConfigError(f"{where}: {key} is missing. Try: {_example(kind)}")
        values[key] = number(table.get(key, default), low, high, where=f"{where}: {key}")
    channels = table.get("channels", "")
    labels = channels.split("+") if isinstance(channels, str) else channels
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ConfigError(f"{where}: channels: expected labels as in C3+C4, found {channels!r}")
    return Fault(kind, values, tuple(filter(None, (label.strip() for label in labels))))


def inject(
    blocks: Iterable[Block],
    faults: Sequence[Fault],
    *,
    labels: Sequence[str],
    rate_hz: float,
    seed: int = 0,
) -> Iterator[Block]:
    """Play a source with what goes wrong in its signal, in the order of ``faults``.

    Faults of the sending change nothing here, but are announced. Where samples are lost, what is
    announced in between keeps its place.

    Args:
        blocks: A source.
        faults: What goes wrong, and when.
        labels: Of its channels.
        rate_hz: Nominal samples a second.
        seed: Of every draw; the same gives the same, however the source is cut.

    Raises:
        ConfigError: At once, if a fault names a channel that is not there.
    """
    if not faults:
        return iter(blocks)
    effects = [
        _Effect(fault, labels=labels, rate_hz=rate_hz, seed=(seed, number))
        for number, fault in enumerate(faults)
    ]
    return _inject(blocks, effects)


def _inject(blocks: Iterable[Block], effects: Sequence[_Effect]) -> Iterator[Block]:
    marks = sorted(mark for effect in effects for mark in effect.marks)
    index = n_missing = 0
    for block in blocks:
        index += block.gap_before_samples
        n_missing += block.gap_before_samples
        samples = block.samples.copy()
        lost = np.zeros(len(samples), np.bool_)
        for effect in effects:
            effect.apply(samples, lost, index)
        events = list(block.events)
        while marks and marks[0][0] < index + len(samples):
            at, label = marks.pop(0)
            events.append((max(0, int(at) - index), label))
        events.sort(key=lambda event: event[0])
        n_missing = yield from _apart(samples, lost, events, n_missing)
        index += len(samples)


def _apart(
    samples: NDArray[np.float32],
    lost: NDArray[np.bool_],
    events: Sequence[tuple[int, str]],
    n_missing: int,
) -> Generator[Block, None, int]:
    """Leave out what is lost; an event in it becomes a block without a sample.

    Args:
        samples: Shape ``(n_samples, n_channels)``.
        lost: Shape ``(n_samples,)``.
        events: As in a block.
        n_missing: How many samples are missing before these.

    Returns:
        How many are missing before the next ones.
    """
    borders = [0, *(np.flatnonzero(np.diff(lost)) + 1).tolist(), len(samples)]
    done = -n_missing  # up to where everything was handed on
    for start, stop in itertools.pairwise(borders):
        is_last = stop == len(samples)
        mine = [event for event in events if start <= event[0] < stop + is_last]
        if start < stop and lost[start]:
            for at, label in mine:
                yield Block(samples[:0], at - done, ((0, label),))
                done = at
        else:
            here = tuple((at - start, label) for at, label in mine)
            yield Block(samples[start:stop], start - done, here)
            done = stop
    return len(samples) - done


class _Effect:
    """One fault at work on one signal."""

    def __init__(
        self, fault: Fault, *, labels: Sequence[str], rate_hz: float, seed: tuple[int, int]
    ) -> None:
        for label in fault.channels:
            if label not in labels:
                raise ConfigError(f"fault {fault.kind!r}: channels: {nearest(label, labels)}")
        self.fault = fault
        self._rate_hz = rate_hz
        self._seed = seed
        self._start, self._stop = fault.span(rate_hz)
        chosen = fault.channels or (_frontal(labels) if fault.kind == "blink" else tuple(labels))
        self._columns = [labels.index(label) for label in chosen]
        self._slot: tuple[int, NDArray[np.float32]] = (-1, np.empty((0, 0), np.float32))

    @property
    def marks(self) -> list[tuple[float, str]]:
        """What is announced, and at which index."""
        name = f"fault/{self.fault.kind}"
        ends = [(self._stop, f"{name}/end")] if math.isfinite(self._stop) else []
        return [(self._start, name), *ends]

    def apply(self, samples: NDArray[np.float32], lost: NDArray[np.bool_], index: int) -> None:
        """Do it to consecutive samples, in place; ``index`` is that of the first."""
        start = int(max(self._start - index, 0))
        stop = int(min(self._stop - index, len(samples)))
        if stop <= start:
            return
        since = index + start - int(self._start)
        if self.fault.kind in _LOSSES:
            lost[start:stop] |= self._is_lost(since, stop - start)
        elif self.fault.kind in _OF_ELECTRODES:
            piece = samples[start:stop, self._columns]  # a copy
            samples[start:stop, self._columns] = self._changed(piece, since)

    def _is_lost(self, since: int, n_samples: int) -> NDArray[np.bool_]:
        if self.fault.kind == "gap":
            return np.ones(n_samples, np.bool_)
        return self._drawn(since, n_samples)[:, 0]

    def _changed(self, samples: NDArray[np.float32], since: int) -> NDArray[np.float32]:
        kind, values, n_samples = self.fault.kind, self.fault.values, len(samples)
        if kind in {"nan", "inf"}:
            wild = np.float32(math.nan if kind == "nan" else math.inf)
            return np.where(self._drawn(since, n_samples), wild, samples)
        if kind == "flat":
            return np.full_like(samples, values["uv"])
        if kind == "clip":
            loud = samples * np.float32(values["gain"])
            return np.asarray(np.clip(loud, -values["uv"], values["uv"]), np.float32)
        if kind == "gain":
            return np.asarray(samples * np.float32(values["x"]))
        if kind == "hum":
            turns = (since + np.arange(n_samples)) * values["hz"] / self._rate_hz
            wave = values["uv"] * np.sin(2 * np.pi * turns)
            return np.asarray(samples + wave.astype(np.float32)[:, np.newaxis])
        make = {"blink": blink, "chew": chew, "motion": motion}[kind]
        shape = partial(make, rate_hz=self._rate_hz, uv=values["uv"])
        return np.asarray(samples + self._in_slots(since, n_samples, values["every"], shape))

    def _drawn(self, since: int, n_samples: int) -> NDArray[np.bool_]:
        """Where a sample is one of those that are drawn; shape ``(n_samples, n_chosen)``."""

        def draw(rng: np.random.Generator, n: int, n_channels: int) -> NDArray[np.float32]:
            del n_channels  # an instant is lost or wild on all of them
            return rng.random((n, 1)).astype(np.float32)

        return np.asarray(
            self._in_slots(since, n_samples, _SLOT_S, draw) < self.fault.values["share"]
        )

    def _in_slots(
        self,
        since: int,
        n_samples: int,
        every_s: float,
        make: Callable[[np.random.Generator, int, int], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Samples from ``since`` the fault began, of what is made slot by slot."""
        length = max(1, round(every_s * self._rate_hz))
        parts = []
        at, stop = since, since + n_samples
        while at < stop:
            slot = at // length
            if self._slot[0] != slot:
                rng = np.random.default_rng([*self._seed, slot])
                self._slot = (slot, make(rng, length, len(self._columns)))
            part = self._slot[1][at % length :][: stop - at]
            parts.append(part)
            at += len(part)
        return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class Transport:
    """How a device sends what it plays.

    Attributes:
        rate_hz: What the device says its rate is.
        faults: What goes wrong; those of the signal change nothing here.
    """

    rate_hz: float
    faults: tuple[Fault, ...] = ()

    @property
    def true_hz(self) -> float:
        """Samples that it really takes a second."""
        rates = [fault.values["hz"] for fault in self.faults if fault.kind == "rate"]
        return rates[-1] if rates else self.rate_hz

    def held_back_s(self, index: int) -> float:
        """How long after it is due a sample is sent: a stall ends for all its samples at once."""
        left = [stop - index for start, stop in self._spans("stall") if start <= index < stop]
        return max(left, default=0.0) / self.rate_hz

    def pushes(
        self, piece: Piece, stamp_of: Callable[[int], float]
    ) -> list[tuple[NDArray[np.float32], list[float]]]:
        """Samples and stamps of a piece as they leave, once or twice.

        Args:
            piece: What is due.
            stamp_of: Stamp of a sample by its index, seconds.
        """
        if not len(piece.samples):
            return []
        indices = range(piece.first_index, piece.last_index + 1)
        push = (piece.samples, [stamp_of(index) - self._back_s(index) for index in indices])
        again = any(start <= piece.first_index < stop for start, stop in self._spans("repeat"))
        return [push, push] if again else [push]

    def _back_s(self, index: int) -> float:
        back_s = 0.0
        for fault in self.faults:
            start, stop = fault.span(self.rate_hz)
            if fault.kind == "backward" and start <= index < stop:
                back_s += fault.values["by"]
        return back_s

    def _spans(self, kind: str) -> list[tuple[float, float]]:
        return [fault.span(self.rate_hz) for fault in self.faults if fault.kind == kind]


def nearest(value: object, valid: Sequence[str] | Mapping[str, Any]) -> str:
    """Say what was expected and found, and what was probably meant."""
    near = difflib.get_close_matches(str(value), valid, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"expected one of {', '.join(valid)}, found {value!r}{hint}"


def number(value: object, low: float, high: float, *, where: str) -> float:
    """Return a number that is in its range.

    Raises:
        ConfigError: If it is none, or out of it.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        found = "nothing" if value is None else repr(value)
        raise ConfigError(f"{where}: expected a number from {low:g} to {high:g}, found {found}")
    return float(value)  # type: ignore[arg-type]


def _as_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _example(kind: str) -> str:
    """A text that is valid."""
    ranges = KINDS.get(kind, _BRIEF)
    word = kind if kind in KINDS else "gap"
    given = {"at": "20", "seconds": "3", "x": "1e-3", "hz": "179"}
    words = [f"{key}={given[key]}" for key in ranges if key in given]
    return f"{word}:{','.join(words)}"


def _frontal(labels: Sequence[str]) -> tuple[str, ...]:
    """Channels near the eyes; all, where no label says so."""
    return tuple(label for label in labels if label.startswith(("Fp", "AF"))) or tuple(labels)
