"""Is this machine ready? One finding a check, each with one thing to do if it is not.

Every check has a deadline, and what a check raises is a finding too: a doctor that hangs or
falls over is no help.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import platform
import shutil
import socket
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stream_classifier.errors import (
    BrokerRefusedError,
    BrokerUnavailableError,
    BundleInvalidError,
    SinkError,
    StreamClassifierError,
    StreamNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stream_classifier.config import ModelSettings, MqttSettings, Settings

State = Literal["ok", "warn", "fail"]

DEADLINE_S = 15.0
"""No check takes longer; the slowest, the round trip, takes 2 s where all is well."""

EXTRAS = {
    "torch": ("torch", "sklearn"),
    "demo": ("iotcore",),
    "report": ("matplotlib", "timescoring"),
    "recordings": ("edfio", "pyxdf"),
    "monitor": ("starlette", "uvicorn", "websockets"),
}
"""Modules that each optional extra brings."""

LSL_PORTS = range(16572, 16605)
"""Where LSL puts its streams unless lsl_api.cfg says otherwise; a stream takes one or two."""

FEW_PORTS = 4
MULTICAST_PORT = 16571

CLASSIFIERS_LOOK_S = 3.0

CLOCK_LOOK_S = 0.3
CLOCK_STEP_S = 0.05
BUILT_IN_2026 = 1_767_225_600.0
"""Unix time of 2026-01-01: an earlier wall clock was never set."""

FEW_BYTES = 50_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: Its name.
        state: ``fail`` keeps the classifier from working, ``warn`` does not.
        said: What was found.
        fix: What to do about it; "" if nothing.
    """

    check: str
    state: State
    said: str
    fix: str = ""


def examine(
    settings: Settings,
    *,
    broker_is_chosen: bool,
    debug: bool = False,
    deadline_s: float = DEADLINE_S,
) -> Iterator[Finding]:
    """Run every check, yielding each finding as soon as it is known.

    Args:
        settings: As ``run`` would use them.
        broker_is_chosen: Whether a person named the broker; the default one may be absent.
        debug: Let liblsl talk.
        deadline_s: For each check.
    """
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", _python),
        ("liblsl", lambda: _liblsl(debug=debug)),
        ("ports", _ports),
        ("lsl round trip", _round_trip),
        ("broker", lambda: _broker(settings.mqtt, is_chosen=broker_is_chosen)),
        ("classifiers", lambda: _classifiers(settings.mqtt)),
        ("model", lambda: _model(settings.model.bundle)),
        ("engine", lambda: _engine(settings.model)),
        ("clock", _clock),
        ("state folder", lambda: _state_folder(settings.outbox.path)),
        ("extras", _extras),
    )
    for name, check in checks:
        yield _in_time(name, check, deadline_s)


def _in_time(name: str, check: Callable[[], Finding], deadline_s: float) -> Finding:
    """Run a check on a thread that is left behind if it does not come back."""
    outcome: list[Finding] = []

    def run() -> None:
        try:
            outcome.append(check())
        except StreamClassifierError as error:
            said, _, fix = str(error).partition(" Try: ")
            outcome.append(Finding(name, "fail", said, fix))
        except Exception as error:  # noqa: BLE001 - whatever a check falls over is its finding
            outcome.append(Finding(name, "fail", f"{type(error).__name__}: {error}"))

    thread = threading.Thread(target=run, name=f"check {name}", daemon=True)
    thread.start()
    thread.join(deadline_s)
    if not outcome:
        return Finding(name, "fail", f"no answer within {deadline_s:g} s", "run it again")
    return outcome[0]


def _python() -> Finding:
    said = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 11):  # noqa: UP036 - pip can be told to ignore it
        return Finding("python", "fail", said, "install Python 3.11 or newer")
    return Finding("python", "ok", said)


def _liblsl(*, debug: bool) -> Finding:
    from stream_classifier.sources.lsl_runtime import quiet_liblsl  # noqa: PLC0415

    quiet_liblsl(debug)
    import pylsl  # noqa: PLC0415

    version = pylsl.library_version()
    said = f"liblsl {version // 100}.{version % 100}, pylsl {pylsl.__version__}"
    return Finding("liblsl", "ok", said)


def _ports() -> Finding:
    """Look whether LSL could open streams: a bind tells what no list of ports does."""
    free = [port for port in LSL_PORTS if _can_bind(port)]
    said = f"{len(free)} of {len(LSL_PORTS)} of LSL's ports {LSL_PORTS[0]}-{LSL_PORTS[-1]} are free"
    fix = "end programs that hold them, or set [ports] PortRange=512 in lsl_api.cfg"
    if not _can_bind(MULTICAST_PORT, socket.SOCK_DGRAM, share=True):
        return Finding(
            "ports",
            "warn",
            f"{said}; UDP {MULTICAST_PORT} is held by a program that does not share it",
            "end that program: streams of this machine cannot be found meanwhile",
        )
    if len(free) < FEW_PORTS:
        return Finding("ports", "warn" if free else "fail", said, fix)
    return Finding("ports", "ok", said)


def _can_bind(
    port: int, kind: socket.SocketKind = socket.SOCK_STREAM, *, share: bool = False
) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if share:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _round_trip() -> Finding:
    """Find an own stream the way any stream is found, and read a sample from it."""
    import pylsl  # noqa: PLC0415

    from stream_classifier.sources.lsl import LslSource, lsl_clock  # noqa: PLC0415

    name = f"doctor-{uuid.uuid4()}"
    info = pylsl.StreamInfo(name, "EEG", 1, 100.0, "float32", name)
    info.set_channel_labels(["test"])
    info.set_channel_units("uV")
    outlet = pylsl.StreamOutlet(info)
    with contextlib.closing(LslSource(name=name, wait_s=4.0, stop=threading.Event())) as source:
        try:
            source.open()
        except StreamNotFoundError as error:
            return Finding(
                "lsl round trip",
                "fail",
                f"a stream of this very machine was not found ({error})",
                "allow UDP 16571 and TCP and UDP 16572-16604, and multicast (VPN, Docker and "
                "Hyper-V often block it); or name hosts in lsl_api.cfg: [lab] KnownPeers",
            )
        pushed_s = lsl_clock()
        outlet.push_sample([1.0], pushed_s)
        for chunk in source:
            if chunk is not None:
                break
            if lsl_clock() - pushed_s > 5.0:
                return Finding(
                    "lsl round trip",
                    "fail",
                    "a stream was found but its sample did not arrive",
                    "allow TCP 16572-16604",
                )
    return Finding(
        "lsl round trip",
        "ok",
        "a stream of this machine was found and read; other hosts may still be blocked",
    )


def _broker(mqtt: MqttSettings, *, is_chosen: bool) -> Finding:
    if mqtt.broker == "embedded":
        if importlib.util.find_spec("iotcore") is None:
            fix = "pip install '.[demo]' in the project's folder"
            return Finding("broker", "fail", "the embedded broker is not installed", fix)
        return Finding("broker", "ok", "embedded, installed; for trying out only")
    from stream_classifier.sinks.broker import broker_settings  # noqa: PLC0415
    from stream_classifier.sinks.connection import (  # noqa: PLC0415
        Connector,
        event_loop_factory,
        passing_client_id,
    )

    broker = broker_settings(mqtt.broker, **mqtt.transport())

    async def connect() -> str:
        connector = Connector(broker, client_id=passing_client_id("doctor"))
        async with asyncio.timeout(DEADLINE_S - 3), connector.connect() as connection:
            return connection.protocol

    try:
        with asyncio.Runner(loop_factory=event_loop_factory) as runner:
            protocol = runner.run(connect())
    except BrokerRefusedError as error:
        return Finding("broker", "fail", str(error), "mend user name, password or certificate")
    except (BrokerUnavailableError, TimeoutError) as error:
        said = str(error) or f"{broker} does not answer"
        if is_chosen:
            return Finding("broker", "fail", said, "start the broker, or mend --broker")
        fix = "start one (mosquitto), name yours with --broker, or try --broker embedded"
        return Finding("broker", "warn", f"{said}; detection runs without it", fix)
    return Finding("broker", "ok", f"{broker} lets us in and speaks MQTT {protocol}")


def _classifiers(mqtt: MqttSettings) -> Finding:
    """Look how the classifiers stand that the broker knows of."""
    if mqtt.broker == "embedded":
        return Finding("classifiers", "ok", "an embedded broker lives with its classifier only")
    from stream_classifier.sinks.broker import broker_settings  # noqa: PLC0415
    from stream_classifier.sinks.connection import event_loop_factory  # noqa: PLC0415
    from stream_classifier.sinks.overview import look  # noqa: PLC0415

    broker = broker_settings(mqtt.broker, **mqtt.transport())
    try:
        with asyncio.Runner(loop_factory=event_loop_factory) as runner:
            found = runner.run(look(broker, within_s=CLASSIFIERS_LOOK_S))
    except SinkError:  # the check of the broker says why
        return Finding("classifiers", "ok", "none were looked for: the broker is not reached")
    if not found:
        return Finding("classifiers", "ok", f"{broker} knows of none")
    well = {"ok", "starting", "stopped"}
    ill = [standing for standing in found if standing.verdict not in well]
    said = [f"{standing.name}: {standing.why or 'ok'}" for standing in found]
    if not ill:
        return Finding("classifiers", "ok", "\n".join(said))
    fix = "; ".join(f"{standing.name}: {standing.remedy}" for standing in ill if standing.remedy)
    return Finding("classifiers", "warn", "\n".join(said), fix or "stream-classifier status")


def _model(name: str | None) -> Finding:
    from stream_classifier.bundle import default_bundle, load_bundle  # noqa: PLC0415
    from stream_classifier.engines.selftest import (  # noqa: PLC0415
        TOLERANCE,
        selftest_deviation,
    )

    bundle = load_bundle(name or default_bundle("live"))
    deviation = selftest_deviation(bundle)
    said = f"{bundle.name} {bundle.version} {bundle.digest[:12]}, self-test off by {deviation:.1e}"
    if not deviation <= TOLERANCE:
        return Finding("model", "fail", said, "install numpy and the package again")
    return Finding("model", "ok", said)


def _engine(model: ModelSettings) -> Finding:
    """Run the self-test on the engine that ``run`` would use."""
    from stream_classifier.bundle import default_bundle, load_bundle  # noqa: PLC0415
    from stream_classifier.engines import instruction_sets, make_engine  # noqa: PLC0415
    from stream_classifier.engines.native import MAX_BFLOAT16_ERROR  # noqa: PLC0415
    from stream_classifier.engines.selftest import (  # noqa: PLC0415
        TOLERANCE,
        selftest_deviation,
    )

    bundle = load_bundle(default_bundle("live"))
    with contextlib.suppress(BundleInvalidError):  # the check of the model says what is wrong
        bundle = load_bundle(model.bundle or bundle.name)
    build = functools.partial(
        make_engine, name=model.engine, device=model.device, precision=model.precision
    )
    tolerance = TOLERANCE if model.precision == "float32" else MAX_BFLOAT16_ERROR
    name = build(bundle, hop_samples=model.hop_samples).name
    deviation = selftest_deviation(bundle, build=build)
    said = f"{name}, self-test off by {deviation:.1e}"
    if not deviation <= tolerance:
        return Finding("engine", "fail", said, "--engine reference, and tell us")
    if model.engine == "auto" and model.device == "cpu" and not instruction_sets():
        return Finding(
            "engine",
            "warn",
            f"{said}; the native engine, many times as fast, was not built",
            "install a C++ compiler (Debian: sudo apt-get install g++ python3-dev), then the "
            "package again",
        )
    return Finding("engine", "ok", said)


def _clock() -> Finding:
    """Watch the wall clock for a moment: it only labels alerts, but with the time of day."""
    before = time.time(), time.monotonic()
    time.sleep(CLOCK_LOOK_S)
    step_s = (time.time() - before[0]) - (time.monotonic() - before[1])
    if before[0] < BUILT_IN_2026:
        said = f"the wall clock says {time.strftime('%Y-%m-%d', time.gmtime(before[0]))}"
        return Finding("clock", "fail", said, "set the clock: alerts carry the time of day")
    if abs(step_s) > CLOCK_STEP_S:
        said = f"the wall clock moved by {step_s:+.2f} s within {CLOCK_LOOK_S:g} s"
        return Finding("clock", "warn", said, "look at the time service (NTP) of this machine")
    return Finding("clock", "ok", f"wall clock steady, {time.strftime('%Y-%m-%d %H:%M:%S %Z')}")


def _state_folder(outbox: Path | None) -> Finding:
    """Write where alerts are kept until the broker has them."""
    import platformdirs  # noqa: PLC0415

    folder = outbox.parent if outbox else platformdirs.user_state_path("stream_classifier")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        said = f"{folder} cannot be written: {error.strerror}"
        return Finding("state folder", "fail", said, "mend its permissions, or set outbox.path")
    said = f"{folder} can be written, {free / 1e9:.1f} GB free"
    if free < FEW_BYTES:
        return Finding("state folder", "warn", said, "make room: alerts could not be kept")
    return Finding("state folder", "ok", said)


def _extras() -> Finding:
    have = {
        extra: all(importlib.util.find_spec(module) for module in modules)
        for extra, modules in EXTRAS.items()
    }
    absent = [extra for extra, there in have.items() if not there]
    said = f"installed: {', '.join(extra for extra, there in have.items() if there) or 'none'}"
    if not absent:
        return Finding("extras", "ok", said)
    fix = f"only if you need them: pip install '.[{','.join(absent)}]' in the project's folder"
    return Finding("extras", "ok", f"{said}; absent: {', '.join(absent)}", fix)
