"""``stream-classifier calibrate``: measure a stream's gains again, show them, forget them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stream_classifier.cli.config import ConfigOption
from stream_classifier.errors import CalibrationError, ConfigError, printable

if TYPE_CHECKING:
    from pathlib import Path

    from stream_classifier.config import Settings
    from stream_classifier.detection.detector import Detector
    from stream_classifier.gain_store import StreamGains
    from stream_classifier.signals import Calibrated, Source, StreamSpec


def calibrate(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Option(help="LSL stream name.")] = None,
    stream_type: Annotated[str | None, typer.Option("--type", help="LSL stream type.")] = None,
    source_id: Annotated[str | None, typer.Option(help="LSL source_id: the surest.")] = None,
    channels: Annotated[str | None, typer.Option(help="Labels to use, e.g. C3,C4.")] = None,
    unit: Annotated[str | None, typer.Option(help="Unit, where the stream says none.")] = None,
    wait: Annotated[
        str | None, typer.Option(help='Seconds to wait for the stream, or "forever".')
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="Model bundle: a name or a folder.")] = None,
    at_most: Annotated[
        float, typer.Option(min=1, help="Seconds to try until there is enough good signal.")
    ] = 600.0,
    show: Annotated[bool, typer.Option("--show", help="Print what is stored, and end.")] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Remove what is stored of a stream, and end.")
    ] = False,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the gain of each channel on a minute of good signal, and keep it.

    The wearer sits still, eyes open or closed.

    A classifier that is running takes the gains up at its next start.
    """
    if show and forget:
        raise ConfigError("--show and --forget exclude each other. Try: --show first")
    if show or forget:
        from stream_classifier.gain_store import find_gains  # noqa: PLC0415

        if forget and name is None and source_id is None:
            raise ConfigError("--forget: of which stream? Try: --name or --source-id, and --show")
        found = find_gains(name=name, source_id=source_id)
        if forget:
            _forget(found)
        else:
            _show(found, as_json=as_json)
        return
    from stream_classifier.config import load  # noqa: PLC0415

    flags = {
        "source": {
            "name": name,
            "type": stream_type,
            "source_id": source_id,
            "channels": channels,
            "unit": unit,
            "wait_s": wait,
        },
        "model": {"bundle": bundle},
    }
    debug = bool(ctx.obj and ctx.obj["debug"])
    _measure_live(load(config, flags), at_most_s=at_most, debug=debug, as_json=as_json)


def _measure_live(settings: Settings, *, at_most_s: float, debug: bool, as_json: bool) -> None:
    from stream_classifier.sources.lsl_runtime import quiet_liblsl  # noqa: PLC0415

    quiet_liblsl(debug)
    from stream_classifier.bundle import default_bundle, load_bundle  # noqa: PLC0415
    from stream_classifier.detection.detector import Detector  # noqa: PLC0415
    from stream_classifier.engines import make_engine  # noqa: PLC0415
    from stream_classifier.gain_store import GainStore  # noqa: PLC0415
    from stream_classifier.service import detector_settings  # noqa: PLC0415
    from stream_classifier.sources.lsl import LslSource  # noqa: PLC0415

    model = load_bundle(settings.model.bundle or default_bundle("live"))
    if model.gain is None:
        raise ConfigError(
            f"bundle {model.name!r} takes signals as they come: it has no gain to measure. "
            "Try: --bundle with one that is meant for heads; stream-classifier model list"
        )
    source = LslSource(
        name=settings.source.name,
        type=settings.source.type,
        source_id=settings.source.source_id,
        channels=settings.source.channels,
        unit=settings.source.unit,
        wait_s=settings.source.wait_s,
        stop=threading.Event(),
    )

    def make_detector(spec: StreamSpec) -> Detector:
        return Detector(
            bundle=model,
            spec=spec,
            engine=make_engine(model, name=settings.model.engine, device=settings.model.device),
            settings=detector_settings(model, settings.alarm, mains_hz=settings.source.mains_hz),
        )

    detector, calibrated = measure(source, make_detector, at_most_s=at_most_s)
    store = GainStore(detector.spec)
    store.save(calibrated.gains, model.gain)
    if as_json:
        gains = dict(zip(detector.spec.labels, calibrated.gains, strict=True))
        print(json.dumps({"path": str(store.path), "gains": gains}))
        return
    print(f"gains of {printable(detector.spec.name)!r}, kept in {store.path}")
    for quality, gain in zip(detector.quality, calibrated.gains, strict=True):
        why = ", ".join(quality.reasons) or "too little good signal"
        said = f"not measured: {why}" if gain is None else f"{gain:.2f}"
        print(f"  {printable(quality.label):<12} {said}")


def measure(
    source: Source,
    make_detector: Callable[[StreamSpec], Detector],
    *,
    at_most_s: float,
    clock_s: Callable[[], float] = time.monotonic,
) -> tuple[Detector, Calibrated]:
    """Read a source until its gains are measured, and show how far it is.

    Args:
        source: Opened, read and closed here.
        make_detector: Called once the stream is known; measures all gains.
        at_most_s: How long to try.
        clock_s: Seconds, for that.

    Raises:
        CalibrationError: If there was not enough good signal by then, or the source ended.
    """
    from stream_classifier.signals import Calibrated  # noqa: PLC0415

    detector = None
    columns = (TextColumn("good signal"), BarColumn(), TextColumn("{task.percentage:3.0f}%"),
               TimeElapsedColumn(), TextColumn("{task.description}"))  # fmt: skip
    try:
        detector = make_detector(source.open())
        ends_s = clock_s() + at_most_s
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task("", total=1.0)
            for chunk in source:
                for item in detector.feed(chunk) if chunk is not None else ():
                    if isinstance(item, Calibrated):
                        progress.update(bar, completed=1.0)
                        return detector, item
                poor = [printable(q.label) for q in detector.quality if q.state == "poor"]
                said = f"poor: {', '.join(poor)}" if poor else ""
                progress.update(bar, completed=detector.calibration_progress, description=said)
                if clock_s() >= ends_s:
                    break
        raise CalibrationError(
            share=detector.calibration_progress,
            poor={q.label: ", ".join(q.reasons) for q in detector.quality if q.state == "poor"},
        )
    finally:
        source.close()
        if detector is not None:
            detector.close()


def _show(found: list[tuple[Path, StreamGains | None]], *, as_json: bool) -> None:
    if as_json:
        stored = [
            {"path": str(path), **(gains.model_dump(mode="json") if gains else {"damaged": True})}
            for path, gains in found
        ]
        print(json.dumps(stored, indent=2))
        return
    if not found:
        print("no gains are stored. Try: stream-classifier calibrate, or run: it measures them")
    for path, gains in found:
        if gains is None:
            print(f"{path}: damaged")
            continue
        title = f"{gains.name}, source_id {gains.source_id or '(none)'}\n{path}"
        table = Table("channel", "gain", "to µV", "measured", title=title, title_justify="left")
        for label, channel in gains.channels.items():
            at = channel.measured.astimezone()
            table.add_row(
                label, f"{channel.gain:.2f}", f"{channel.target_uv:g}", f"{at:%Y-%m-%d %H:%M}"
            )
        Console(highlight=False, markup=False).print(table)


def _forget(found: list[tuple[Path, StreamGains | None]]) -> None:
    if not found:
        print("no gains of such a stream are stored. Try: stream-classifier calibrate --show")
        raise typer.Exit(1)
    for path, _ in found:
        path.unlink(missing_ok=True)
        print(f"removed {path}")
