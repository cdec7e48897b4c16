# ruff: noqa: S107 - a test may block its own event loop, and its passwords are none
"""A real broker, a sink on it and a subscriber: what the tests of the way to the broker share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from stream_classifier.signals import (
    AlertEvent,
    ChannelQuality,
    ChannelState,
    EventType,
    Prediction,
    State,
    StreamSpec,
)
from stream_classifier.sinks.broker import BrokerSettings
from stream_classifier.sinks.connection import Incoming
from stream_classifier.sinks.messages import (
    AlertMessage,
    EventMessage,
    MessageBuilder,
    ModelRef,
    PredictionMessage,
    QualityMessage,
    Signal,
    WallClock,
)
from stream_classifier.sinks.mqtt import MqttSink
from stream_classifier.sinks.outbox import Outbox
from stream_classifier.sinks.subscriber import Received, watch
from stream_classifier.sinks.topics import Topics

PATIENCE_S = 15.0
"""How long a busy machine may take for what takes milliseconds."""

STREAM = "Bed 3 / left"
TOPICS = Topics(STREAM)
CLOCK = WallClock.set_now(time.monotonic())
BUILDER = MessageBuilder(
    spec=StreamSpec(STREAM, "amp-1", rate_hz=256.0, labels=("C3", "T7")),
    model=ModelRef("bonn", "ab" * 32, raise_threshold=0.8, clear_threshold=0.5),
    clock=CLOCK,
)

# A classifier's sink in a process of its own, for killing.
PUBLISHER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.live_broker import alert, publisher, step
from stream_classifier.sinks.broker import parse_broker_url

async def main():
    standing = alert("ok", latest=step(0))
    async with publisher(parse_broker_url(sys.argv[2]), Path(sys.argv[3]), first=standing) as sink:
        while not sink.connected or sink.counters.published < 3:
            await asyncio.sleep(0.01)
        print("online", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def publisher_process(url: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a sink with a standing alert; it prints ``online``, and lives until it is killed."""
    root = Path(__file__).parents[1]
    arguments = [sys.executable, "-c", PUBLISHER, str(root), url, str(folder)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE)


def mosquitto_binary() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(0.2)
        return s.connect_ex(("127.0.0.1", port)) == 0


class Mosquitto:
    """A mosquitto that can be killed, frozen and started again on the same port.

    Args:
        folder: For its files.
        config: Lines of its configuration file, besides the listener.
        whole: The whole configuration file instead; ``{port}`` is the port.
    """

    def __init__(
        self, folder: Path, *, config: str = "allow_anonymous true\n", whole: str = ""
    ) -> None:
        program = mosquitto_binary()
        if program is None:
            pytest.skip("mosquitto is not installed. Try: apt-get install mosquitto")
        self.port = free_port()
        folder.mkdir(exist_ok=True)
        self._config = folder / "mosquitto.conf"
        # Started by root, it would become a user who may not read the test's folder.
        user = "user root\n" if os.geteuid() == 0 else ""
        # TCP_NODELAY as anyone would set it who cares for latency.
        listener = f"listener {self.port} 127.0.0.1\nset_tcp_nodelay true\n{config}\n"
        self._config.write_text(user + (whole.replace("{port}", str(self.port)) or listener))
        self._command = [program, "-c", str(self._config)]
        self._log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> BrokerSettings:
        return BrokerSettings(host="127.0.0.1", port=self.port)

    @property
    def url(self) -> str:
        return str(self.settings)

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self) -> Mosquitto:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if listens(self.port):
                return self
            if self._process.poll() is not None:
                break
            time.sleep(0.01)
        self.kill()
        pytest.fail(f"mosquitto did not start: {self.said}")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Inbox:
    """Everything a subscriber received, and waiting for more of it."""

    def __init__(self) -> None:
        self.all: list[Received] = []
        self._more = asyncio.Event()

    def take(self, received: Received) -> None:
        self.all.append(received)
        self._more.set()

    def of(self, what: str) -> list[Received]:
        return [received for received in self.all if received.what == what]

    @property
    def statuses(self) -> list[str]:
        return [received.text for received in self.of("status")]

    @property
    def event_ids(self) -> list[str]:
        return [received.fields["event_id"] for received in self.of("event")]

    async def until(self, holds: Callable[[], object], *, within_s: float = PATIENCE_S) -> None:
        async with asyncio.timeout(within_s):
            while not holds():
                self._more.clear()
                await self._more.wait()


@contextlib.asynccontextmanager
async def subscriber(
    settings: BrokerSettings, *, stream: str | None = STREAM
) -> AsyncIterator[Inbox]:
    inbox, listening = Inbox(), asyncio.Event()

    async def listen() -> None:
        async with contextlib.aclosing(
            watch(settings, stream=stream, on_listening=listening.set)
        ) as messages:
            async for received in messages:
                inbox.take(received)

    task = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await listening.wait()
        yield inbox
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def now() -> datetime:
    return CLOCK.utc(time.monotonic())


def alert(signal: Signal = "starting", *, latest: AlertEvent | None = None) -> AlertMessage:
    return BUILDER.alert(
        at_s=time.monotonic(), prediction=None, latest=latest, signal=signal, decided=None
    )


def step(seq: int, kind: EventType = EventType.UPDATED) -> AlertEvent:
    at_s = time.monotonic()
    return AlertEvent(kind, "alert-1", seq, at_s, at_s, at_s, None, 0.9, 0.95, ("C3",))


def event(seq: int, *, decided_ago_s: float = 0.0) -> EventMessage:
    return BUILDER.event(
        step(seq, EventType.UPDATED if seq else EventType.RAISED),
        state=State.ALERT,
        signal="ok",
        decided=now() - timedelta(seconds=decided_ago_s),
    )


def prediction(p: float = 0.3) -> PredictionMessage:
    made = Prediction(
        end_index=0,
        at_s=time.monotonic(),
        probabilities=np.full((2, 3), p, np.float32),
        smoothed=np.full(2, p, np.float32),
        reasons=("", ""),
        p=p,
        state=State.OK,
    )
    return BUILDER.prediction(made, signal="ok", decided=now())


def quality(state: str = "good", *, rms_uv: float = 12.0) -> QualityMessage:
    channel = ChannelQuality("C3", ChannelState(state), (), rms_uv, 0.0, 0.0, 0.0, 1.0)
    return BUILDER.quality([channel], at_s=time.monotonic(), signal="ok")


@contextlib.asynccontextmanager
async def publisher(
    settings: BrokerSettings,
    folder: Path,
    *,
    first: AlertMessage | None = None,
    on_command: Callable[[Incoming], None] | None = None,
    now: Callable[[], datetime] = now,
) -> AsyncIterator[MqttSink]:
    info = BUILDER.info(at=now(), topics=TOPICS.by_name(), versions={}, card={})
    async with (
        Outbox(path=folder / "outbox.sqlite", max_age_s=1e6, max_rows=10_000) as outbox,
        MqttSink(
            settings=settings,
            outbox=outbox,
            topics=TOPICS,
            info=info,
            on_command=on_command,
            now=now,
        ) as sink,
    ):
        sink.alert_state(first or alert())
        yield sink


async def until(holds: Callable[[], object], *, within_s: float = PATIENCE_S) -> None:
    """Wait for what tells nobody when it changes."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def retained(settings: BrokerSettings, *, n: int = 3) -> dict[str, Received]:
    """Return what a subscriber that comes now is told of the past."""
    async with subscriber(settings) as inbox:
        await inbox.until(lambda: len([r for r in inbox.all if r.retained]) >= n)
        return {received.what: received for received in inbox.all if received.retained}


def as_user(broker: Mosquitto, name: str, password: str = "hunter2") -> BrokerSettings:
    return replace(broker.settings, username=name, password=SecretStr(password))


class Certificates:
    """An authority and what it signs, made with the openssl command."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("openssl")
        if program is None:
            pytest.skip("openssl is not installed")
        self._openssl = program
        self._folder = folder
        folder.mkdir()
        self.ca = self._authority("ca")
        self.other_ca = self._authority("other-ca")

    def _run(self, *arguments: str) -> None:
        subprocess.run(
            [self._openssl, *arguments], check=True, capture_output=True, cwd=self._folder
        )

    def _authority(self, name: str) -> Path:
        self._run(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *(
                "-keyout",
                f"{name}.key",
                "-out",
                f"{name}.pem",
                "-days",
                "2",
                "-subj",
                f"/CN={name}",
            ),
            *("-addext", "basicConstraints=critical,CA:TRUE"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )
        return self._folder / f"{name}.pem"

    def sign(self, name: str, *, host: str = "IP:127.0.0.1", days: int = 2) -> tuple[Path, Path]:
        """Return a certificate for a host, and its key."""
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(
            f"subjectAltName={host}\nbasicConstraints=CA:FALSE\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        self._run(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"),
        )
        self._run(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", str(days), "-extfile", extensions.name),
            *("-out", f"{name}.pem"),
        )
        return self._folder / f"{name}.pem", self._folder / f"{name}.key"


def password_file(path: Path, **users: str) -> Path:
    """Write a mosquitto password file."""
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed. Try: apt-get install mosquitto")
    path.touch(mode=0o600)
    for user, password in users.items():
        subprocess.run([tool, "-b", str(path), user, password], check=True)
    return path


@contextlib.contextmanager
def tls_broker(
    folder: Path, certificates: Certificates, pair: Sequence[Path], *, clients: bool = False
) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(
        folder,
        config=(
            f"allow_anonymous true\ncafile {certificates.ca}\ncertfile {pair[0]}\n"
            f"keyfile {pair[1]}\nrequire_certificate {'true' if clients else 'false'}\n"
        ),
    )
    mosquitto.start()
    try:
        yield mosquitto
    finally:
        mosquitto.kill()
