"""``stream-classifier simulate``: an EEG device that does not exist, on a real LSL stream."""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
import threading
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from simulators.blocks import Block
    from simulators.faults import Fault
    from stream_classifier.datasets import SeizureRows


class Played(StrEnum):
    """What the device plays."""

    ROWS = "rows"
    RECORDING = "recording"
    SCENARIO = "scenario"
    SYNTHETIC = "synthetic"
    MIXTURE = "mixture"


def simulate(
    ctx: typer.Context,
    played: Annotated[
        Played,
        typer.Argument(
            help="rows: all rows of the data set, a gap of 1 s between them; recording: whole "
            "recordings of 23 s, or a file; scenario: a timeline, from recordings the model has "
            "not seen (from a neural mass model where there is no data set); synthetic: the same, "
            "always from the model; mixture: a recording of a head (--background) with a seizure "
            "of the data set added to some of its channels."
        ),
    ] = Played.SCENARIO,
    name: Annotated[str, typer.Option(help="Name of the LSL stream.")] = "simulated-eeg",
    source_id: Annotated[
        str | None, typer.Option(help="Its source_id. Default: the name.", show_default=False)
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            help="A count (1 to 64, named as in the 10-20 system) or labels: C3,C4. "
            "Default: one channel, or one for each --recording.",
            show_default=False,
        ),
    ] = None,
    chunk: Annotated[int, typer.Option(min=1, max=10_000, help="Samples sent at once.")] = 4,
    speed: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1000,
            help="Seconds of signal a second. Stamps stay those of the signal (178 a second), "
            "so at other speeds than 1 the age of a sample means nothing.",
        ),
    ] = 1.0,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, help="Stop after that much signal.", show_default=False),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end.")] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Of every choice. Default: the scenario's; else 0.", show_default=False
        ),
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            help="A shipped scenario (demo, quiet) or a TOML file. Default: demo.",
            show_default=False,
        ),
    ] = None,
    recording: Annotated[
        list[str] | None,
        typer.Option(
            help="Key of a recording, as 'dataset recordings' lists them; repeat it for more "
            "channels. Or a file (EDF, BDF, XDF, CSV), played at its own rate with its own labels. "
            "Default: one that the model has not seen, chosen by --seed.",
            show_default=False,
        ),
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="Unit of a file that says none.", show_default=False)
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Sampling rate of a text file that says none.", show_default=False),
    ] = None,
    background: Annotated[
        Path | None,
        typer.Option(
            help="A recording (EDF, BDF, XDF, CSV) to mix a seizure into, played at its own rate "
            "with its own labels.",
            show_default=False,
        ),
    ] = None,
    channels_involved: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Neighbouring channels that the seizure of a mixture is on. Default: 2.",
            show_default=False,
        ),
    ] = None,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Rows in random order.")] = False,
    join: Annotated[
        bool, typer.Option("--join", help="No gap between rows, or repetitions.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data folder. Default: STREAM_CLASSIFIER_DATA, then the user's cache.",
            show_default=False,
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="What goes wrong, as gap:at=20,seconds=3 or gain:x=1e-3; repeat it for more. "
            "Kinds: gap, drop, nan, inf, flat, clip, gain, hum, blink, chew, motion; stall, "
            "repeat, backward, rate. What each takes: docs/simulators.md.",
            show_default=False,
        ),
    ] = None,
    wait_for_consumer: Annotated[
        float, typer.Option(min=0, help="Wait up to that many seconds for a reader.")
    ] = 0.0,
) -> None:
    """Stream simulated EEG, and the truth about it on a second stream of markers."""
    from stream_classifier.sources.lsl_runtime import quiet_liblsl  # noqa: PLC0415

    quiet_liblsl(debug=bool((ctx.obj or {}).get("debug")))

    from simulators import montage  # noqa: PLC0415
    from simulators.blocks import take  # noqa: PLC0415
    from simulators.device import Device, already_there  # noqa: PLC0415
    from stream_classifier.sinks.messages import shown  # noqa: PLC0415

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    is_file = played is Played.RECORDING and any(Path(name).is_file() for name in recording or ())
    has_labels = is_file or played is Played.MIXTURE
    labels = _named(channels) if channels and not has_labels else None
    _refuse_meaningless(
        played,
        shuffle=shuffle,
        join=join,
        recording=bool(recording),
        scenario=scenario is not None,
        unit=unit is not None,
        rate=rate is not None,
        background=background is not None,
        channels_involved=channels_involved is not None,
    )
    wearer = _Wearer(data=data, seed=seed, n_channels=len(labels) if labels else None)
    if is_file:
        blocks = wearer.file(
            recording or (), channels=channels, unit=unit, rate_hz=rate, join=join, loop=loop
        )
        labels = wearer.labels
    elif played is Played.MIXTURE:
        blocks = wearer.mixture(
            background, n_involved=channels_involved or 2, channels=channels, loop=loop
        )
        labels = wearer.labels
    elif played is Played.ROWS:
        blocks = wearer.rows(shuffle=shuffle, join=join, loop=loop)
    elif played is Played.RECORDING:
        blocks = wearer.recording(recording or (), join=join, loop=loop)
    else:
        blocks = wearer.scenario(
            scenario or "demo", synthetic=played is Played.SYNTHETIC, loop=loop
        )
    labels = labels or (
        montage.labels("1") if wearer.is_synthetic else montage.numbered(wearer.n_channels)
    )
    if seconds is not None:
        blocks = take(blocks, math.ceil(seconds * wearer.rate_hz))
    blocks, faults = wearer.with_faults(blocks, fault or (), labels=labels)

    stop = threading.Event()
    device = Device(
        name=name,
        source_id=source_id or name,
        labels=labels,
        played=wearer.says,
        rate_hz=wearer.rate_hz,
        chunk_samples=chunk,
        faults=faults,
        speed=speed,
        stop=stop,
        on_marker=_tell_state,
    )
    for other in already_there(device.source_id):
        console.print(
            f"warning: a stream with source_id {device.source_id!r} is running already "
            f"({shown(other, max_bytes=120)}); consumers will mix them up. Try: another --name"
        )
    before = _stop_on_signals(stop)
    try:
        with device:
            console.print(
                f"streaming {name!r} (source_id {device.source_id!r}): {len(labels)} channel(s) "
                f"at {device.rate_hz:g} Hz, {wearer.says}; markers on '{name}-markers'"
            )
            if wait_for_consumer and not device.wait_for_consumer(wait_for_consumer):
                console.print(f"nobody reads it after {wait_for_consumer:g} s; starting")
            finished = device.stream(blocks)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not finished:
        raise typer.Exit(130)


def _named(channels: str) -> tuple[str, ...]:
    from simulators import montage  # noqa: PLC0415

    try:
        return montage.labels(channels)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--channels") from error


def _tell_state(at_s: float, marker: str) -> None:
    """Say when another part of a scenario, or a fault, begins."""
    kind, _, state = marker.partition("/")
    if kind in {"state", "fault"}:
        minutes, whole_s = divmod(int(at_s), 60)
        print(f"{minutes:02d}:{whole_s:02d}  {state}", file=sys.stderr)


_MEANINGFUL = {
    Played.ROWS: {"shuffle", "join"},
    Played.RECORDING: {"recording", "join", "unit", "rate"},
    Played.SCENARIO: {"scenario"},
    Played.SYNTHETIC: {"scenario"},
    Played.MIXTURE: {"background", "channels_involved"},
}


def _refuse_meaningless(played: Played, **given: bool) -> None:
    """Refuse options that would be ignored."""
    for option, is_given in given.items():
        if is_given and option not in _MEANINGFUL[played]:
            others = ", ".join(kind for kind, options in _MEANINGFUL.items() if option in options)
            raise typer.BadParameter(
                f"--{option.replace('_', '-')} has no meaning for {played.value}, only for {others}"
            )


class _Wearer:
    """Finds what is to be played, and says what it found.

    Attributes:
        n_channels: As asked for, else as many as there are recordings.
        rate_hz: Samples a second.
        labels: Of a file's channels, and of a mixture's; empty for all else.
        faults: What goes wrong, by the scenario.
        is_synthetic: Whether nothing of it is recorded.
        says: What is played, in a few words.
    """

    def __init__(self, *, data: Path | None, seed: int | None, n_channels: int | None) -> None:
        from simulators.blocks import RATE_HZ  # noqa: PLC0415

        self.n_channels = n_channels or 1
        self.rate_hz = RATE_HZ
        self.labels: tuple[str, ...] = ()
        self.faults: tuple[Fault, ...] = ()
        self.is_synthetic = False
        self.says = ""
        self._asked_channels = n_channels
        self._data = data
        self._seed = seed

    def rows(self, *, shuffle: bool, join: bool, loop: bool) -> Iterator[Block]:
        from simulators import blocks, rows  # noqa: PLC0415

        if self.n_channels != 1:
            raise typer.BadParameter(
                "a row is one channel. Try: scenario, or recording with --recording for each",
                param_hint="--channels",
            )
        table = self._table()
        self.says = f"rows of the data set{', shuffled' if shuffle else ''}"

        def make() -> Iterator[Block]:
            return rows.rows(table, shuffle=shuffle, seed=self._seed or 0, join=join)

        gap = 0 if join else rows.GAP_SAMPLES
        return blocks.loop(make, gap_samples=gap) if loop else make()

    def recording(self, keys: Sequence[str], *, join: bool, loop: bool) -> Iterator[Block]:
        import numpy as np  # noqa: PLC0415

        from simulators import blocks, rows  # noqa: PLC0415

        table = self._table()
        if not keys:
            held_out = _held_out()
            n_keys = min(self.n_channels, len(held_out))
            keys = (
                np.random.default_rng(self._seed or 0)
                .choice(held_out, n_keys, replace=False)
                .tolist()
            )
        unknown = [key for key in keys if key not in table.keys]
        if unknown:
            raise typer.BadParameter(
                f"the data set has no recording {unknown[0]!r}. A key is what follows the first "
                f"dot of a row's id, such as {table.keys[0]}. Try: stream-classifier dataset "
                "recordings lists all of them",
                param_hint="--recording",
            )
        if self._asked_channels not in {None, len(keys)}:
            raise typer.BadParameter(
                f"{len(keys)} recording(s) for {self._asked_channels} channels: expected one each",
                param_hint="--channels",
            )
        self.n_channels = len(keys)
        self.says = f"recording(s) {', '.join(keys)} of the data set"

        def make() -> Iterator[Block]:
            return rows.recording(table, keys)

        gap = 0 if join else rows.GAP_SAMPLES
        return blocks.loop(make, gap_samples=gap) if loop else make()

    def file(
        self,
        names: Sequence[str],
        *,
        channels: str | None,
        unit: str | None,
        rate_hz: float | None,
        join: bool,
        loop: bool,
    ) -> Iterator[Block]:
        from simulators import blocks, file  # noqa: PLC0415
        from stream_classifier.sources.recording import annotated, open_recording  # noqa: PLC0415
        from stream_classifier.sources.recordings.marks import merged  # noqa: PLC0415
        from stream_classifier.sources.recordings.material import Ask  # noqa: PLC0415

        if len(names) != 1:
            raise typer.BadParameter(
                "a file is played alone: expected one --recording", param_hint="--recording"
            )
        wanted = tuple(label.strip() for label in channels.split(",")) if channels else None
        recording = open_recording(names[0], Ask(channels=wanted, unit=unit, rate_hz=rate_hz))
        seizures = merged(annotated(recording) or (), until_s=math.inf)
        self.rate_hz, self.labels = recording.rate_hz, recording.labels
        self.n_channels = len(recording.labels)
        self.says = f"recording {recording.name!r}"

        def make() -> Iterator[Block]:
            return file.play(recording, seizures)

        gap = 0 if join else round(recording.rate_hz)
        return blocks.loop(make, gap_samples=gap) if loop else make()

    def mixture(
        self, background: Path | None, *, n_involved: int, channels: str | None, loop: bool
    ) -> Iterator[Block]:
        import numpy as np  # noqa: PLC0415

        from simulators import blocks, mixture  # noqa: PLC0415
        from stream_classifier.evaluation.playing import read_head  # noqa: PLC0415

        if background is None:
            raise typer.BadParameter(
                "a mixture needs the recording of a head. Try: --background FILE.edf",
                param_hint="--background",
            )
        if channels is not None:
            raise typer.BadParameter(
                "a mixture has its background's channels", param_hint="--channels"
            )
        table = self._table()
        head = read_head(background)
        keys = [key for key in _held_out() if table.class_of(key) == 0]
        try:
            drawn = mixture.draw(
                np.random.default_rng(self._seed or 0),
                background=head.name,
                labels=head.labels,
                seizures=keys,
                n_channels=n_involved,
                onsets_s=mixture.onsets(head.duration_s),
            )
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--background") from error
        self.rate_hz, self.labels, self.n_channels = head.rate_hz, head.labels, len(head.labels)
        self.says = (
            f"{head.name} with seizure {drawn.seizure} of {drawn.rms_uv:.0f} µV rms on "
            f"{', '.join(drawn.channels)} from {drawn.onset_s:g} s on"
        )

        def make() -> Iterator[Block]:
            return mixture.play(
                head.samples,
                [drawn],
                {drawn.seizure: table.recording(drawn.seizure)},
                labels=head.labels,
                rate_hz=head.rate_hz,
            )

        return blocks.loop(make, gap_samples=round(head.rate_hz)) if loop else make()

    def scenario(self, name: str, *, synthetic: bool, loop: bool) -> Iterator[Block]:
        from simulators import scenario as scenarios  # noqa: PLC0415
        from stream_classifier.errors import DatasetNotFoundError  # noqa: PLC0415

        timeline = scenarios.load(name)
        if self._seed is not None:
            timeline = dataclasses.replace(timeline, seed=self._seed)
        self.faults = timeline.faults
        table = None
        if not synthetic and any(part.source != "synthetic" for part in timeline.parts):
            try:
                table = self._table()
            except DatasetNotFoundError:
                if self._data is not None:
                    raise
        self.is_synthetic = table is None
        origin = "a neural mass model" if table is None else "recordings the model has not seen"
        self.says = f"scenario {timeline.title!r} from {origin}"
        return scenarios.play(
            timeline,
            n_channels=self.n_channels,
            table=table,
            keys=() if table is None else _held_out(),
            loop=loop,
        )

    def with_faults(
        self, blocks: Iterator[Block], texts: Sequence[str], *, labels: Sequence[str]
    ) -> tuple[Iterator[Block], tuple[Fault, ...]]:
        """What is played, with what goes wrong in it; and all that goes wrong."""
        from simulators.faults import inject, parse  # noqa: PLC0415
        from stream_classifier.errors import ConfigError  # noqa: PLC0415

        seed = self._seed or 0
        try:
            faults = (*self.faults, *map(parse, texts))
            return inject(blocks, faults, labels=labels, rate_hz=self.rate_hz, seed=seed), faults
        except ConfigError as error:
            raise typer.BadParameter(str(error), param_hint="--fault") from error

    def _table(self) -> SeizureRows:
        from stream_classifier.datasets import load_rows  # noqa: PLC0415

        return load_rows(self._data)


def _held_out() -> Sequence[str]:
    """Recordings that the shipped model was neither trained nor chosen on."""
    from stream_classifier.bundle import load_bundle  # noqa: PLC0415

    return tuple(str(key) for key in load_bundle("bonn").split.test)


def _stop_on_signals(stop: threading.Event) -> dict[signal.Signals, Any]:
    """End cleanly on SIGINT and SIGTERM; returns what was done before."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    return {number: signal.signal(number, handle) for number in numbers}
