"""Everything that can go wrong on purpose, in one tree, grouped by who must act.

* StreamClassifierError              exit code 1
  * MissingExtraError                1  the user installs an extra
  * ConfigError                      3  the user mends a setting
  * DatasetError                     3  the user provides or repairs the data
    * DatasetNotFoundError
    * DatasetInvalidError
    * DownloadError
  * SignalError                      1  the samples are not what was promised
    * ShapeError
    * NotFiniteError
    * SamplesExpiredError
    * CalibrationError               a person looks at the electrodes
  * ReaderError                      1  a stage failed; a service manager starts us again
    * ReaderFailedError
    * ReaderStuckError
  * SourceError                      4  the amplifier, or the network to it
    * StreamNotFoundError
    * AmbiguousStreamError
    * StreamDescriptionError
    * StreamLostError
    * StreamChangedError
    * RecordingError                 4  a file that is to be played
      * RecordingNotFoundError
      * RecordingInvalidError
      * RecordingUnusableError
  * SinkError                        1  the broker, or the network to it
    * BrokerUnavailableError
      * DuplicateIdError
    * BrokerRefusedError             5  wrong credentials
    * OutboxError
  * BundleError                      6  the model
    * BundleInvalidError
    * UnseenDataError                6  asked to score what the model was trained on
    * TimelineNeededError            6  asked for events, alarms or delays of single rows
  * EngineError                      6

Constructors take facts and compose the message: what was expected, what was
found, what to try. Only ``cli`` turns them into a line and an exit code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar


def printable(text: str) -> str:
    """Return a foreign text without what a terminal would obey.

    Names and labels of streams, hosts and what brokers send may hold anything. What cannot be
    printed (escape codes, line breaks, marks that turn the direction of writing, unpaired
    surrogates) becomes U+FFFD.

    Example:
        >>> printable("C3" + chr(27) + "[2J")
        'C3\ufffd[2J'
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class StreamClassifierError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class MissingExtraError(StreamClassifierError, ImportError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, *, feature: str, extra: str, module: str) -> None:
        super().__init__(
            f"{feature} needs the module {module!r}, which is not installed. "
            f"Try: install the extra [{extra}]: pip install '.[{extra}]' in the project's folder"
        )
        self.extra = extra
        self.module = module


class ConfigError(StreamClassifierError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 3


class DatasetError(StreamClassifierError):
    """The data set is absent or not what it should be."""

    exit_code = 3


class DatasetNotFoundError(DatasetError):
    """No copy of the data set was found in any of the places looked at."""

    def __init__(self, *, what: str, looked_at: Sequence[str]) -> None:
        places = "; ".join(looked_at)
        super().__init__(
            f"{what} was not found. Looked at: {places}. "
            "Try: stream-classifier dataset fetch, or set --data or STREAM_CLASSIFIER_DATA"
        )
        self.looked_at = tuple(looked_at)


class DatasetInvalidError(DatasetError):
    """A data set file is there but has the wrong shape, labels or digest."""

    def __init__(self, *, path: str, expected: str, found: str) -> None:
        super().__init__(
            f"{path}: expected {expected}, found {found}. "
            "Try: stream-classifier dataset fetch --force"
        )
        self.expected = expected
        self.found = found


class DownloadError(DatasetError):
    """A download could not be finished; what arrived is kept for the next try."""


class SignalError(StreamClassifierError):
    """The samples are not what the pipeline was configured for."""


class ShapeError(SignalError, ValueError):
    """An array has the wrong number of axes or channels."""

    def __init__(self, *, expected: str, actual: tuple[int, ...]) -> None:
        super().__init__(f"expected samples of shape {expected}, got {actual}")
        self.expected = expected
        self.actual = actual


class NotFiniteError(SignalError, ValueError):
    """A sample is NaN or infinite where only numbers may be."""

    def __init__(self, *, where: str, found: str) -> None:
        super().__init__(
            f"{where}: expected a finite number, found {found}. Try: put a number in its place and "
            "decide on no window that holds it, or reset the stream as after a gap"
        )


class SamplesExpiredError(SignalError, LookupError):
    """The samples asked for were overwritten, or have not arrived."""

    def __init__(self, *, asked: range, held: range) -> None:
        super().__init__(
            f"asked for samples {asked.start}..{asked.stop}, "
            f"but the buffer holds {held.start}..{held.stop}"
        )
        self.asked = asked
        self.held = held


class CalibrationError(SignalError):
    """There was not enough good signal to measure a gain on."""

    def __init__(self, *, share: float, poor: Mapping[str, str]) -> None:
        channels = "; ".join(f"{printable(name)}: {why}" for name, why in poor.items())
        super().__init__(
            f"the best channel has {share:.0%} of the good signal that a gain is measured on"
            + (f"; poor now: {channels}" if channels else "")
            + ". Try: look at the electrodes, sit still, and a longer --at-most"
        )


class ReaderError(StreamClassifierError):
    """The thread that reads and classifies does not work any more."""


class ReaderFailedError(ReaderError):
    """It failed again and again, for a reason that is a defect of the program."""

    def __init__(self, *, n_times: int, reason: str) -> None:
        super().__init__(
            f"the reader failed {n_times} times in a row, the last time with: {reason}. This is a "
            "defect. Try: --engine reference; and report it with the log"
        )


class ReaderStuckError(ReaderError):
    """It hangs inside a library, where nothing can end it but the end of the process."""

    def __init__(self, *, silent_s: float) -> None:
        super().__init__(
            f"the reader has given no sign of life for {silent_s:g} s; ending, so that a service "
            "manager starts the program again. Try: look at the LSL network and at the engine"
        )


class SourceError(StreamClassifierError):
    """The source of samples failed."""

    exit_code = 4


class StreamNotFoundError(SourceError):
    """No stream that matches appeared in time."""

    def __init__(self, *, wanted: str, waited_s: float, seen: Sequence[str]) -> None:
        there = "; ".join(seen) if seen else "no LSL stream at all"
        super().__init__(
            f"no LSL stream with {wanted} appeared within {round(waited_s, 1):g} s. Seen: {there}. "
            "Try: stream-classifier streams; or --wait forever; or stream-classifier doctor"
        )
        self.wanted = wanted
        self.waited_s = waited_s


class AmbiguousStreamError(SourceError):
    """More than one stream matches; guessing would mix up two people."""

    def __init__(self, *, wanted: str, candidates: Sequence[str]) -> None:
        listed = "".join(f"\n  {candidate}" for candidate in candidates)
        super().__init__(
            f"{len(candidates)} LSL streams match {wanted}:{listed}\n"
            "Try: --source-id with one of them"
        )
        self.candidates = tuple(candidates)


class StreamDescriptionError(SourceError):
    """The stream does not say what is needed to read it safely (unit, labels, rate)."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))  # it quotes the stream's own labels


class StreamLostError(SourceError):
    """The stream vanished while it was being read."""

    def __init__(self, name: str) -> None:
        super().__init__(f"LSL stream {name!r} was lost")
        self.name = name


class StreamChangedError(SourceError):
    """The stream came back with other channels, rate or units."""

    def __init__(self, name: str, *, before: str, now: str) -> None:
        super().__init__(
            f"LSL stream {name!r} came back different: "
            f"it was {printable(before)}, it is {printable(now)}. "
            "Try: restart the classifier if that is intended"
        )


class RecordingError(SourceError):
    """A recording cannot be played."""


class RecordingNotFoundError(RecordingError):
    """There is no such file, and no recording of the data set of that name."""

    def __init__(self, name: str, *, looked_for: str, fix: str) -> None:
        super().__init__(f"no recording {printable(name)!r}: {looked_for}. Try: {fix}")


class RecordingInvalidError(RecordingError):
    """A recording is damaged, cut off, too large, or not what its name says."""

    def __init__(
        self, *, path: str, expected: str, found: str, fix: str = "the original file"
    ) -> None:
        super().__init__(printable(f"{path}: expected {expected}, found {found}. Try: {fix}"))


class RecordingUnusableError(RecordingError):
    """A recording was played to its end, and no window of it could be classified."""

    def __init__(self, *, path: str, why: str) -> None:
        super().__init__(printable(f"{path}: no usable signal: {why}"))


class SinkError(StreamClassifierError):
    """Results could not be handed on."""


class BrokerUnavailableError(SinkError):
    """The MQTT broker does not answer."""


class DuplicateIdError(BrokerUnavailableError):
    """Another client came to the broker under our name, and the broker let go of us for it."""

    def __init__(self, client_id: str, *, broker: str) -> None:
        super().__init__(
            f"duplicate_id: another client called {client_id!r} has taken our place at {broker}. "
            "Try: stop it, such as a second classifier on this stream, or give it a name of its "
            "own (mqtt.client_id)"
        )


class BrokerRefusedError(SinkError):
    """The MQTT broker answered and refused the credentials."""

    exit_code = 5


class OutboxError(SinkError):
    """The durable outbox cannot be opened or written."""


class BundleError(StreamClassifierError):
    """The model cannot be used."""

    exit_code = 6


class BundleInvalidError(BundleError):
    """A bundle is absent, damaged, or its parts do not belong together."""

    def __init__(
        self, *, path: str, expected: str, found: str, fix: str = "make it or copy it again"
    ) -> None:
        super().__init__(f"model bundle {path}: expected {expected}, found {found}. Try: {fix}")


class UnseenDataError(BundleError):
    """Scoring was asked for on data that the bundle was trained on."""


class TimelineNeededError(BundleError):
    """Events, alarms or delays were asked for where there are only single rows."""

    def __init__(self) -> None:
        super().__init__(
            "events are scored on a timeline: expected held-out recordings, found single rows of "
            "one second, which have neither a before nor an after. Try: a bundle trained with "
            "--protocol recordings, such as bonn"
        )


class EngineError(BundleError):
    """No engine can run this bundle as asked (engine name, device, hop)."""
