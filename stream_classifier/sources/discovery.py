"""What Lab Streaming Layer shows on the network, and which of it is meant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import pylsl

if TYPE_CHECKING:
    import types

FORMATS = ("undefined", "float32", "double64", "string", "int32", "int16", "int8", "int64")
"""LSL's channel formats, by its numbers."""

SETTLE_S = 1.0
"""How long to look: answers to a query trickle in for up to half a second."""


@dataclass(frozen=True, slots=True)
class StreamSeen:
    """One LSL stream, as announced.

    Attributes:
        name: May hold any character.
        type: Content type, usually ``EEG``.
        source_id: The device's own identity, or "".
        n_channels: Values a sample.
        rate_hz: Nominal rate; 0 if irregular.
        format: One of ``FORMATS``.
        host: Name of the machine it runs on.
        uid: Identity of this very outlet; a restarted device has another.
        created_s: When it was made, by that machine's ``local_clock()``.
        info: pylsl's own description, to open an inlet with.
    """

    name: str
    type: str
    source_id: str
    n_channels: int
    rate_hz: float
    format: str
    host: str
    uid: str
    created_s: float
    info: pylsl.StreamInfo = field(repr=False, compare=False)

    def __str__(self) -> str:
        # repr: names may hold line breaks and terminal codes.
        return (
            f"name {_short(self.name)}, type {_short(self.type)}, "
            f"source_id {_short(self.source_id)}, {self.n_channels} channels, "
            f"{self.rate_hz:g} Hz, host {_short(self.host)}"
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which stream is meant. What is None is not compared; a type in any case."""

    name: str | None = None
    type: str | None = None
    source_id: str | None = None
    host: str | None = None

    def matches(self, seen: StreamSeen) -> bool:
        """Whether a stream is one of those meant.

        Compared here, not by a query to the network: a query is an XPath expression, and a
        name with quotes in it would become part of it.
        """
        return (
            self.name in (None, seen.name)
            and (self.type is None or self.type.casefold() == seen.type.casefold())
            and self.source_id in (None, seen.source_id)
            and self.host in (None, seen.host)
        )

    def __str__(self) -> str:
        asked = (("name", self.name), ("type", self.type), ("source_id", self.source_id))
        said = [f"{key} {_short(value)}" for key, value in asked if value is not None]
        return " and ".join(said) or "any name"


class Lookout:
    """Watches which streams are there, in the background (liblsl's own thread, 1% of a core).

    A stream is forgotten 5 s after its last sign of life, so only a new lookout knows nothing
    of a device that just went away. Use it as a context manager, or ``close`` it.
    """

    def __init__(self) -> None:
        self._resolver: pylsl.ContinuousResolver | None = pylsl.ContinuousResolver()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    def ask_again(self) -> None:
        """Forget what was seen and ask at once; liblsl itself asks about once a second."""
        self._resolver = pylsl.ContinuousResolver()

    def close(self) -> None:
        """Stop watching. May be called twice."""
        self._resolver = None  # destroying it is what stops it

    def streams(self) -> list[StreamSeen]:
        """What is there now, each outlet once, sorted by name. Returns at once."""
        if self._resolver is None:
            return []
        found: dict[str, StreamSeen] = {}
        for info in self._resolver.results():
            seen = _read(info)
            found[seen.uid] = seen
        return sorted(found.values(), key=lambda seen: (seen.name, seen.source_id, seen.uid))


def _read(info: pylsl.StreamInfo) -> StreamSeen:
    number = info.channel_format()
    return StreamSeen(
        name=info.name(),
        type=info.type(),
        source_id=info.source_id(),
        n_channels=info.channel_count(),
        rate_hz=info.nominal_srate(),
        format=FORMATS[number] if 0 <= number < len(FORMATS) else FORMATS[0],
        host=info.hostname(),
        uid=info.uid(),
        created_s=info.created_at(),
        info=info,
    )


def _short(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}..."
