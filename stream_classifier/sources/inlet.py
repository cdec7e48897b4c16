"""One connection to one LSL outlet. The only file that opens an inlet.

liblsl has no call that can be interrupted, so every call has a deadline of 50 ms and is
repeated; that is why attaching is a generator that yields in between.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pylsl
from pylsl.util import InternalError, LostError
from pylsl.util import TimeoutError as LslTimeoutError

from stream_classifier.errors import (
    StreamDescriptionError,
    StreamLostError,
    StreamNotFoundError,
)
from stream_classifier.sources.channels import (
    MAX_CHANNELS,
    MAX_RATE_HZ,
    MAX_TEXT,
    MIN_RATE_HZ,
    ChannelPlan,
    ChannelText,
    listed,
    plan_channels,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from numpy.typing import NDArray

    from stream_classifier.signals import Chunk
    from stream_classifier.sources.discovery import StreamSeen
    from stream_classifier.sources.timeline import Timeline

LOG = logging.getLogger(__name__)
T = TypeVar("T")

CALL_S = 0.05
"""Deadline of one call into liblsl: how soon a request to stop is noticed."""

ANSWER_S = 5.0
"""A device that is announced and does not answer for this long is given up for now."""

CORRECTION_S = 3.0
"""The first clock correction takes 0.6 s; without one by then, arrival times have to do."""

CORRECT_EVERY_S = 5.0
"""How often the clock correction is read again; liblsl measures it in the background."""

BUFFER_S = 5
"""What liblsl keeps for us, and so the longest stall whose samples all arrive in the end. Small,
because a reader that is too slow would work on samples that old."""

PULL_SAMPLES = 256
MAX_PULLS = 16
"""Samples taken from liblsl at once, and how often in a row while there are more: who reads goes
by what is in hand to tell how far behind it is."""

FOREIGN_CLOCK_S = 60.0
"""Stamps this far from now are not of LSL's clock; ``time.time()`` is a common mistake."""

FUTURE_S = 15.0
"""Stamps this far ahead of their arrival are of a clock that was set; no estimate is that bad."""


MOST_SAYINGS = 5
SAYINGS_WITHIN_S = 60.0
"""So many lines in so long may be logged of a device's clock, which may be wild for ever."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a device is and how it is read.

    Attributes:
        device: As found.
        plan: Channels and units.
        simulated: Whether the device says that it invents its samples.
    """

    device: StreamSeen
    plan: ChannelPlan
    simulated: bool

    def reads_like(self, other: Description) -> bool:
        """Whether samples of the one can follow those of the other."""
        return (
            self.device.rate_hz == other.device.rate_hz
            and self.plan.labels == other.plan.labels
            and self.plan.uv_per_unit == other.plan.uv_per_unit
        )

    def __str__(self) -> str:
        units = sorted(set(self.plan.uv_per_unit))
        return (
            f"{len(self.plan.labels)} channels ({listed(self.plan.labels)}), "
            f"{self.device.rate_hz:g} Hz, {' and '.join(f'{unit:g}' for unit in units)} uV a unit"
        )


def attach(
    device: StreamSeen, *, channels: tuple[str, ...] | None, unit: str | None
) -> Generator[None, None, Session]:
    """Connect to a device, yielding at least every 50 ms.

    Args:
        device: As found.
        channels: Labels to use, in this order; None for every EEG channel.
        unit: Unit of all channels; None believes the description.

    Raises:
        StreamNotFoundError: If it does not answer, or goes away.
        StreamDescriptionError: If it cannot be read safely.
    """
    _refuse_unreadable(device)
    try:
        # recover=False, so that a loss is heard; no processing: dejittering hides gaps.
        inlet = pylsl.StreamInlet(device.info, max_buflen=BUFFER_S, recover=False)
        info = yield from _answer(device, inlet.info)
        texts, simulated = _read_description(info)
        plan = plan_channels(
            device.name,
            described=texts,
            n_channels=device.n_channels,
            wanted=channels,
            unit=unit,
        )
        yield from _answer(device, inlet.open_stream)
    except (LostError, InternalError) as error:
        raise StreamNotFoundError(
            wanted=str(device), waited_s=0.0, seen=["it went away while it was attached to"]
        ) from error
    return Session(inlet, Description(device=device, plan=plan, simulated=simulated))


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a stream says of itself when asked, for a list of streams.

    Attributes:
        channels: As described; empty if it describes none.
        age_s: How long it has been running; None if its clock cannot be compared.
    """

    channels: tuple[ChannelText, ...]
    age_s: float | None


def introduce(device: StreamSeen, *, within_s: float) -> Introduction | None:
    """Ask a stream for its description and age. Blocks, at most twice ``within_s``.

    Returns:
        None if it does not answer, or has more channels than EEG can have.
    """
    if device.n_channels > MAX_CHANNELS:
        return None
    inlet = pylsl.StreamInlet(device.info, max_buflen=1, recover=False)
    try:
        texts, _ = _read_description(inlet.info(timeout=within_s))
    except (LslTimeoutError, LostError, InternalError):
        return None
    try:
        started_s = device.created_s + inlet.time_correction(timeout=within_s)
    except (LslTimeoutError, LostError, InternalError):
        return Introduction(tuple(texts), age_s=None)
    return Introduction(tuple(texts), age_s=max(0.0, pylsl.local_clock() - started_s))


class Session:
    """An open connection. Ends when the last reference to it goes.

    Attributes:
        description: What it is connected to.
        last_s: When samples last arrived (or it was opened), on LSL's clock.
    """

    def __init__(self, inlet: pylsl.StreamInlet, description: Description) -> None:
        device, plan = description.device, description.plan
        self.description = description
        self.last_s = self._opened_s = float(pylsl.local_clock())
        self._inlet = inlet
        self._columns = np.array(plan.columns, dtype=np.intp)
        self._uv_per_unit = np.array(plan.uv_per_unit, dtype=np.float64)
        self._as_it_is = (
            device.format == "float32"
            and plan.columns == tuple(range(device.n_channels))
            and set(plan.uv_per_unit) == {1.0}
        )
        self._correction_s = math.nan  # from the device's clock to ours
        self._correct_at_s = self._opened_s
        self._by_arrival = False
        self._has_read = False
        self._sayings: list[float] = []
        self._ahead_s = 0.0  # by which the device's clock was set forward, taken off its stamps

    def read(self, timeline: Timeline) -> list[Chunk] | None:
        """Wait at most 50 ms for samples and place them.

        Returns:
            Chunks whose place is known, or None if no sample arrived.

        Raises:
            StreamLostError: If the device went away.
        """
        try:
            if not self._update_correction():
                return None
            raw, stamps = self._pull()
        except (LostError, InternalError) as error:
            raise StreamLostError(self.description.device.name) from error
        if not len(stamps):
            return None
        received_s = self.last_s = float(pylsl.local_clock())
        if not self._has_read:
            self._has_read = True
            self._check_clock(stamps, received_s)
        stamps = self._from_the_past(stamps, received_s)
        n_clock_steps = timeline.n_clock_steps
        chunks = timeline.place(
            self._in_uv(raw), stamps, correction_s=self._correction_s, received_s=received_s
        )
        if timeline.n_clock_steps > n_clock_steps:
            self._go_by_arrival(stamps, received_s, "the device's clock was set")
        return chunks

    def _pull(self) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
        """Wait for samples, and take all that are there."""
        pulls: list[tuple[NDArray[np.generic], NDArray[np.float64]]] = [
            self._inlet.pull_chunk(
                timeout=CALL_S, min_samples=1, max_samples=PULL_SAMPLES, as_numpy=True
            )
        ]
        with contextlib.suppress(LostError):  # said again by the next pull
            while len(pulls[-1][1]) == PULL_SAMPLES and len(pulls) < MAX_PULLS:
                pulls.append(self._inlet.pull_chunk(max_samples=PULL_SAMPLES, as_numpy=True))
        if len(pulls) == 1:
            return pulls[0]
        return np.concatenate([raw for raw, _ in pulls]), np.concatenate([at for _, at in pulls])

    def _in_uv(self, raw: NDArray[np.generic]) -> NDArray[np.float32]:
        """Pick the channels and bring them to microvolts; ``(n_samples, n_channels)``."""
        if self._as_it_is:
            return raw.astype(np.float32, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):  # what is beyond float32 becomes Inf
            picked = raw[:, self._columns].astype(np.float64)
            return (picked * self._uv_per_unit).astype(np.float32)

    def _update_correction(self) -> bool:
        """Keep the clock correction fresh; False while the first one is awaited."""
        now_s = float(pylsl.local_clock())
        if self._by_arrival or now_s < self._correct_at_s:
            return True
        known = not math.isnan(self._correction_s)
        try:
            self._correction_s = self._inlet.time_correction(timeout=0.0 if known else CALL_S)
        except LslTimeoutError:
            if not known and now_s - self._opened_s < CORRECTION_S:
                return False
            self._by_arrival = not known
        self._correct_at_s = now_s + CORRECT_EVERY_S
        return True

    def _check_clock(self, stamps: NDArray[np.float64], received_s: float) -> None:
        if self._by_arrival:
            self._go_by_arrival(stamps, received_s, "its clock cannot be compared (UDP blocked?)")
            return
        late_s = received_s - (float(np.median(stamps)) + self._correction_s)
        if not abs(late_s) <= FOREIGN_CLOCK_S:  # True for NaN
            self._go_by_arrival(stamps, received_s, f"its stamps are {late_s:.0f} s away from now")

    def _from_the_past(self, stamps: NDArray[np.float64], received_s: float) -> NDArray[np.float64]:
        """Bring back stamps that lie in the future: somebody set the device's clock forward.

        Without that it would look like a loss of as many samples. A simulated device may run
        faster than time, so its stamps are left alone.

        One that is put right again, or had a single wild stamp, is taken as it is: what is taken
        off its stamps could make all of them negative, which are none.
        """
        if self._ahead_s and float(stamps[-1]) + self._correction_s - received_s <= FUTURE_S:
            self._say("its clock is right again")
            self._ahead_s = 0.0
        stamps = stamps - self._ahead_s
        ahead_s = float(stamps[-1]) + self._correction_s - received_s
        if not FUTURE_S < ahead_s < math.inf or self.description.simulated:  # True for NaN
            return stamps
        self._say(f"its clock was set forward by {ahead_s:.1f} s")
        if not stamps[0] > ahead_s:  # the first ones were wild, not these: go by these
            stamps = stamps + self._ahead_s
            self._ahead_s = 0.0
            self._go_by_arrival(stamps, received_s, "its first stamps were of no clock")
            return stamps
        self._ahead_s += ahead_s
        return stamps - ahead_s

    def _go_by_arrival(self, stamps: NDArray[np.float64], received_s: float, why: str) -> None:
        self._say(f"{why}; times are those of arrival, a little late")
        newest = float(stamps[-1])
        self._by_arrival = True
        self._correction_s = received_s - newest if math.isfinite(newest) else 0.0

    def _say(self, words: str) -> None:
        """Log what its clock did; of a device whose clock does it all the time, only some of it."""
        now_s = time.monotonic()
        self._sayings = [at_s for at_s in self._sayings if at_s > now_s - SAYINGS_WITHIN_S]
        if len(self._sayings) < MOST_SAYINGS:
            self._sayings.append(now_s)
            LOG.warning("LSL stream %r: %s", self.description.device.name, words)


def _answer(device: StreamSeen, call: Callable[..., T]) -> Generator[None, None, T]:
    """Repeat a call that takes a timeout until it succeeds."""
    deadline_s = pylsl.local_clock() + ANSWER_S
    while True:
        try:
            return call(timeout=CALL_S)
        except LslTimeoutError as error:
            if pylsl.local_clock() > deadline_s:
                raise StreamNotFoundError(
                    wanted=str(device),
                    waited_s=ANSWER_S,
                    seen=["it is announced, but does not answer (a firewall on TCP 16572-16604?)"],
                ) from error
        yield


def _refuse_unreadable(device: StreamSeen) -> None:
    """Refuse what cannot be EEG, before anything is allocated for it."""
    if device.format in {"string", "undefined"}:
        raise StreamDescriptionError(
            f"LSL stream {device} holds {device.format} values; EEG must be numbers. "
            "Try: another stream, see stream-classifier streams"
        )
    if not 0 < device.rate_hz <= MAX_RATE_HZ:  # False for NaN
        raise StreamDescriptionError(
            f"LSL stream {device} has no regular sampling rate; EEG needs one. "
            "Try: a nominal rate in the device's driver, or another stream"
        )
    if device.rate_hz < MIN_RATE_HZ:
        raise StreamDescriptionError(
            f"LSL stream {device} is too slow: expected at least {MIN_RATE_HZ:g} Hz, since a "
            "seizure's discharges would be lost. Try: another stream, or a higher rate"
        )
    if not 1 <= device.n_channels <= MAX_CHANNELS:
        raise StreamDescriptionError(
            f"LSL stream {device} has {device.n_channels} channels; expected 1 to {MAX_CHANNELS}"
        )


def _read_description(info: pylsl.StreamInfo) -> tuple[list[ChannelText], bool]:
    """Read what matters of a description, and no more of it than an amplifier would say.

    liblsl's parser (pugixml) knows no entities but XML's own five, so none can expand.

    Returns:
        The channels described, and whether the device says that it is simulated.
    """
    desc = info.desc()
    texts: list[ChannelText] = []
    channel = desc.child("channels").child("channel")
    while not channel.empty() and len(texts) <= MAX_CHANNELS:
        label, unit, kind = (
            channel.child_value(key)[:MAX_TEXT].strip() for key in ("label", "unit", "type")
        )
        texts.append(ChannelText(label=label, unit=unit, type=kind))
        channel = channel.next_sibling("channel")
    simulated = desc.child_value("simulated")[:MAX_TEXT].strip().lower() in {"true", "yes", "1"}
    return texts, simulated
