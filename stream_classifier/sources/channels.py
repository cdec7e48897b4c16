"""Which columns of a stream are EEG channels, what they are called, and in which unit."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stream_classifier.errors import StreamDescriptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_CHANNELS = 512
MAX_TEXT = 256
"""A description beyond these is not from an amplifier."""

MAX_RATE_HZ = 100_000.0
MIN_RATE_HZ = 60.0
"""Half of it is the fastest oscillation that is left; EEG is read up to 30 Hz at the least."""

EEG_TYPES = frozenset({"", "eeg", "ieeg", "seeg", "ecog", "dbs"})
"""Channel types taken for EEG (lower case; the usual names of BIDS), and none given."""

_UV_PER_UNIT = {
    1e6: ("V", "v", "volt", "volts"),
    1e3: ("mV", "mv", "millivolt", "millivolts", "-3"),
    1.0: ("uV", "uv", "UV", "µV", "µv", "microV", "microv", "microvolt", "microvolts", "-6"),
    1e-3: ("nV", "nv", "nanovolt", "nanovolts", "-9"),
}
_UV_PER_NAME = {name: factor for factor, names in _UV_PER_UNIT.items() for name in names}


@dataclass(frozen=True, slots=True)
class ChannelText:
    """What a stream's description says of one channel; "" where it says nothing."""

    label: str = ""
    unit: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True)
class ChannelPlan:
    """How to read a stream.

    Attributes:
        labels: One a channel that is used.
        columns: Their columns in the stream.
        uv_per_unit: What each is multiplied by to become microvolts.
        notes: What a person should know: channels left out, labels made up.
    """

    labels: tuple[str, ...]
    columns: tuple[int, ...]
    uv_per_unit: tuple[float, ...]
    notes: tuple[str, ...] = ()


def uv_per_unit(unit: str) -> float | None:
    """Microvolts in one of ``unit``, or None if it is not a unit of voltage we know.

    Upper and lower case matter where they mean something: ``MV`` is not millivolts. Numbers are
    exponents of ten against the volt, as pylsl and MNE write them.

    Example:
        >>> uv_per_unit("mV"), uv_per_unit("Microvolts"), uv_per_unit("MV")
        (1000.0, 1.0, None)
    """
    name = unit.strip().replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}")
    if len(name) > 2:
        name = name.lower()
    return _UV_PER_NAME.get(name)


def plan_channels(
    stream: str,
    *,
    described: Sequence[ChannelText],
    n_channels: int,
    wanted: Sequence[str] | None = None,
    unit: str | None = None,
    kind: str = "LSL stream",
) -> ChannelPlan:
    """Decide how to read a stream from what its description says.

    Args:
        stream: Its name, for messages.
        described: The channels of its description, in order; empty if it has none.
        n_channels: Columns of its samples.
        wanted: Labels to use, in this order; None for every EEG channel.
        unit: Unit of all channels; goes over the description's.
        kind: What it is, for messages.

    Raises:
        StreamDescriptionError: If a wanted label is not there or not unique, if nothing is
            left to read, or if a unit is missing or unknown.
    """
    if unit is not None and uv_per_unit(unit) is None:
        raise StreamDescriptionError(f"unit {unit!r} is not known. Try: --unit uV, mV or V")
    name = f"{kind} {stream!r}"
    notes = []
    if described and len(described) != n_channels:
        notes.append(
            f"the description lists {len(described)} channels, but a sample has {n_channels} "
            "values: it is not used"
        )
        described = ()
    texts = list(described) or [ChannelText()] * n_channels
    labels = [text.label or f"ch{n}" for n, text in enumerate(texts, start=1)]
    if unnamed := [label for label, text in zip(labels, texts, strict=True) if not text.label]:
        notes.append(f"channels without a label are called {listed(unnamed)}")
    if wanted is not None:
        columns = [_column(label, labels, name) for label in wanted]
    else:
        columns = [n for n, text in enumerate(texts) if text.type.strip().lower() in EEG_TYPES]
        left_out = [
            f"{labels[n]} ({text.type})" for n, text in enumerate(texts) if n not in set(columns)
        ]
        if left_out:
            notes.append(f"channels left out, not EEG: {listed(left_out)}")
    if not columns:
        raise StreamDescriptionError(
            f"{name} has no EEG channel. {'; '.join(notes)}. Try: --channels with the labels to use"
        )
    if unit is not None:
        said = {texts[n].unit for n in columns} - {""}
        if any(uv_per_unit(other) != uv_per_unit(unit) for other in said):
            notes.append(f"read as {unit}, though it says {listed(sorted(said))}")
    return ChannelPlan(
        labels=tuple(labels[n] for n in columns),
        columns=tuple(columns),
        uv_per_unit=tuple(_factor(texts[n], labels[n], unit, name) for n in columns),
        notes=tuple(notes),
    )


def _column(label: str, labels: Sequence[str], name: str) -> int:
    times = Counter(labels)[label]
    if times == 1:
        return labels.index(label)
    if times > 1:
        raise StreamDescriptionError(
            f"{name} has {times} channels labelled {label!r}, so the label does not "
            "say which. Try: unique labels at the device"
        )
    near = difflib.get_close_matches(label.lower(), [known.lower() for known in labels], n=1)
    meant = next((known for known in labels if near and known.lower() == near[0]), None)
    hint = f"Did you mean {meant!r}? " if meant else ""
    raise StreamDescriptionError(f"{name} has no channel {label!r}. {hint}It has: {listed(labels)}")


def _factor(text: ChannelText, label: str, unit: str | None, name: str) -> float:
    factor = uv_per_unit(text.unit if unit is None else unit)
    if factor is None:
        said = f"gives the unit {text.unit!r}" if text.unit else "gives no unit"
        raise StreamDescriptionError(
            f"{name} {said} for channel {label!r}; it must be V, mV or uV, because "
            "a wrong guess would hide or invent seizures. Try: --unit uV if you know that it is"
        )
    return factor


def listed(labels: Sequence[str]) -> str:
    """Return labels for a message, not more of them than a person reads."""
    shown = ", ".join(labels[:16])
    return shown if len(labels) <= 16 else f"{shown} and {len(labels) - 16} more"
