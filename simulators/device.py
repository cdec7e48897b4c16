"""A device that does not exist, on a Lab Streaming Layer that does."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Self

import pylsl

from simulators.blocks import RATE_HZ, cut
from simulators.faults import Transport
from simulators.pacer import Pacer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from simulators.blocks import Block, Piece
    from simulators.faults import Fault

LINGER_S: Final = 0.5
"""How long a finished device stays, so that consumers have its last samples."""

_BUFFER_S: Final = 60
_LOOK_S: Final = 1.0
_WAIT_STEP_S: Final = 0.2


def already_there(source_id: str) -> list[str]:
    """Hosts on which a stream of that ``source_id`` is running. Looks around for a second.

    Args:
        source_id: Of the device that is about to start.
    """
    return [
        f"{stream.name()} on {stream.hostname()}"
        for stream in pylsl.resolve_streams(_LOOK_S)
        if stream.source_id() == source_id
    ]


class Device:
    """An EEG amplifier with its truth on a second stream.

    The stream is of type ``EEG``, regular, float32, in microvolts, described as the XDF
    conventions ask (``desc/channels/channel/{label,unit,type}``); it says
    ``desc/simulated = true`` and what it plays. Sample *i* is stamped ``start + i / rate``
    exactly, a chunk is sent when its last sample is due, and gaps are holes in the stamps.

    The second stream is of type ``Markers``, irregular, string, ``<name>-markers`` with
    the source_id ``<source_id>-markers``. A marker carries the stamp of the first sample
    of what it announces.

    Use it as a context manager; the outlets exist inside.

    Args:
        name: Of the stream.
        source_id: Stable identity, so that consumers find the device again.
        labels: One a channel, at least one.
        played: What it plays, for the description.
        rate_hz: Samples a second.
        chunk_samples: Samples sent at once, at least 1.
        faults: What goes wrong in the sending: stalls, repeats, stamps, the true rate.
        speed: Seconds of signal a second. At other speeds than 1 stamps are those of the
            signal: see :class:`~simulators.pacer.Pacer`.
        stop: Ends everything within a chunk; may be set by a signal handler.
        on_marker: Called with each marker right after it was sent: its time in seconds from
            the first sample, and its text. Has to return at once.
        clock: Says the time; the one of LSL.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        *,
        name: str,
        source_id: str,
        labels: tuple[str, ...],
        played: str,
        rate_hz: float = RATE_HZ,
        chunk_samples: int = 4,
        faults: Sequence[Fault] = (),
        speed: float = 1.0,
        stop: threading.Event | None = None,
        on_marker: Callable[[float, str], None] = lambda _at_s, _marker: None,
        clock: Callable[[], float] = pylsl.local_clock,
    ) -> None:
        if chunk_samples < 1 or not labels:
            raise ValueError(
                f"expected chunk_samples >= 1 and a channel, got {chunk_samples}, {labels}"
            )
        self.name = name
        self.source_id = source_id
        self.labels = labels
        self.played = played
        self.chunk_samples = chunk_samples
        self.stop = stop or threading.Event()
        self.rate_hz = rate_hz
        self._transport = Transport(rate_hz, tuple(faults))
        self.pacer = Pacer(
            rate_hz=self._transport.true_hz, speed=speed, clock=clock, sleep=self.stop.wait
        )
        self._on_marker = on_marker
        self._eeg: pylsl.StreamOutlet | None = None
        self._markers: pylsl.StreamOutlet | None = None

    def __enter__(self) -> Self:
        self._markers = pylsl.StreamOutlet(self._describe_markers())
        self._eeg = pylsl.StreamOutlet(self._describe_eeg(), self.chunk_samples, _BUFFER_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._eeg = self._markers = None  # pylsl ends an outlet with its last reference

    def wait_for_consumer(self, timeout_s: float) -> bool:
        """Wait until somebody reads the EEG, then a second for a reader of the markers.

        Returns:
            Whether somebody does. Without, the device may start all the same.
        """
        eeg, markers = self._outlets()
        came = _wait(eeg, timeout_s, self.stop)
        if came:
            _wait(markers, 1.0, self.stop)
        return came

    def stream(self, blocks: Iterable[Block]) -> bool:
        """Send everything, in time.

        Args:
            blocks: What to send. The next chunk is computed right after one was sent, so a
                source may take up to a chunk's time without being heard.

        Returns:
            Whether all was sent; False if stopped.
        """
        pieces = cut(blocks, chunk_samples=self.chunk_samples)
        piece = next(pieces, None)  # before the clock starts: a source may have to warm up
        self.pacer.start()
        while piece is not None:
            held_back_s = self._transport.held_back_s(piece.last_index)
            self.pacer.wait_for(piece.last_index, later_s=held_back_s)
            if self.stop.is_set():
                return False
            self._send(piece)
            piece = next(pieces, None)
        return not self.stop.wait(LINGER_S)

    def _send(self, piece: Piece) -> None:
        eeg, markers = self._outlets()
        for samples, stamps in self._transport.pushes(piece, self.pacer.stamp_of):
            eeg.push_chunk(samples, stamps)
        for index, label in piece.events:
            markers.push_sample([label], self.pacer.stamp_of(index))
            self._on_marker(index / self.rate_hz, label)

    def _outlets(self) -> tuple[pylsl.StreamOutlet, pylsl.StreamOutlet]:
        if self._eeg is None or self._markers is None:
            raise RuntimeError("the device is not open: use it in a with statement")
        return self._eeg, self._markers

    def _describe_eeg(self) -> pylsl.StreamInfo:
        info = pylsl.StreamInfo(
            self.name, "EEG", len(self.labels), self.rate_hz, pylsl.cf_float32, self.source_id
        )
        self._describe(info)
        channels = info.desc().append_child("channels")
        for label in self.labels:
            channel = channels.append_child("channel")
            channel.append_child_value("label", label)
            channel.append_child_value("unit", "microvolts")
            channel.append_child_value("type", "EEG")
        return info

    def _describe_markers(self) -> pylsl.StreamInfo:
        info = pylsl.StreamInfo(
            f"{self.name}-markers",
            "Markers",
            1,
            pylsl.IRREGULAR_RATE,
            pylsl.cf_string,
            f"{self.source_id}-markers",
        )
        self._describe(info)
        return info

    def _describe(self, info: pylsl.StreamInfo) -> None:
        desc = info.desc()
        desc.append_child_value("simulated", "true")
        desc.append_child_value("played", self.played)
        desc.append_child_value("speed", f"{self.pacer.speed:g}")
        acquisition = desc.append_child("acquisition")
        acquisition.append_child_value("manufacturer", "stream_classifier")
        acquisition.append_child_value("model", "simulated device")


def _wait(outlet: pylsl.StreamOutlet, timeout_s: float, stop: threading.Event) -> bool:
    """Wait for a consumer in small steps, since liblsl cannot be interrupted."""
    deadline_s = pylsl.local_clock() + timeout_s
    while not stop.is_set():
        left_s = deadline_s - pylsl.local_clock()
        if outlet.wait_for_consumers(max(0.0, min(_WAIT_STEP_S, left_s))):
            return True
        if left_s <= 0:
            return False
    return False
