"""A broker and our own commands, as processes of their own, for the benchmarks."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from stream_classifier.sinks.embedded_broker import EmbeddedBroker

START_S = 10.0
_COMPILED = Path(gettempdir()) / "stream_classifier-benchmarks-compiled"


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A broker on this machine.

    Attributes:
        name: What it is, with its version.
        port: For clients of MQTT 3.1.1 (mosquitto: of any version).
        url: For this package's own clients.
    """

    name: str
    port: int
    url: str


@contextmanager
def broker() -> Iterator[RunningBroker]:
    """Run mosquitto where it is installed, else the embedded broker."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    with mosquitto(program) if program else _embedded() as running:
        yield running


@contextmanager
def mosquitto(program: str) -> Iterator[RunningBroker]:
    with TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        config = Path(folder) / "mosquitto.conf"
        # TCP_NODELAY as anyone would set it who cares for latency.
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n",
            encoding="utf-8",
        )
        free.close()
        said = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout
        with started(program, "-c", str(config)):
            _await_listener(port)
            version = said.split("\n", 1)[0].removeprefix("mosquitto version ")
            yield RunningBroker(f"mosquitto {version}", port, f"mqtt://127.0.0.1:{port}")


@contextmanager
def _embedded() -> Iterator[RunningBroker]:
    with asyncio.Runner() as runner:
        embedded = EmbeddedBroker()
        runner.run(embedded.__aenter__())
        try:
            yield RunningBroker("embedded (rumqttd)", embedded.port, embedded.url)
        finally:
            runner.run(embedded.__aexit__(None, None, None))


@contextmanager
def started(
    *command: str, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the length of a ``with`` block; it is told to stop at its end."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | (environment or {}),
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def own(*arguments: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of our commands, its files in a folder of the benchmark's."""
    folders = {name: str(home) for name in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    # Compiled files as any installation has them, whatever the environment says.
    folders |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(_COMPILED)}
    command = (sys.executable, "-m", "stream_classifier", *arguments)
    with started(*command, environment=folders) as process:
        yield process


def _await_listener(port: int) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"no broker on port {port} within {START_S:g} s")
        time.sleep(0.01)
