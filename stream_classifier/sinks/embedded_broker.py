"""A real MQTT broker for the demo, for where none is installed (extra ``[demo]``).

rumqttd, as packed by ``iotcore``. It keeps everything in memory and lets everybody in, so it
listens on this machine only; for real use take mosquitto or EMQX. It has no way to stop, so it
runs in a process of its own, which also ends by itself when its parent is gone.

Three of its traps are avoided here. It speaks MQTT 3.1.1 and 5 on different ports only, and a
client of the wrong version hangs: so the address says which. It cuts off a subscriber of version
3.1.1 when a message with properties of version 5 is due to it: so we ourselves speak 3.1.1 to it,
and everybody can subscribe, with any version. By default it also cuts off who sends more than
20 kB.
"""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from stream_classifier.errors import BrokerUnavailableError, MissingExtraError

HOST = "127.0.0.1"
START_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 2.0
POLL_S = 0.02

_CONFIG = """\
id = 0

[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
"""
_LISTENER = """
[{version}.1]
name = "{version}"
listen = "{host}:{port}"
next_connection_delay_ms = 1

[{version}.1.connections]
connection_timeout_ms = 5000
max_payload_size = 1048576
max_inflight_count = 100
"""


class EmbeddedBroker:
    """An MQTT broker on this machine for the length of an ``async with`` block.

    Takes about 0.2 s to start.

    Args:
        port: For MQTT 3.1.1 (what ``mosquitto_sub`` and most others speak unless told
            otherwise); None: any free one.
        port_v5: For MQTT 5; None: any free one.

    Attributes:
        port: The one in use.
        port_v5: The one in use.

    Raises:
        MissingExtraError: If iotcore is not installed.

    Example:
        async with EmbeddedBroker() as broker:
            print(broker.url)
    """

    def __init__(self, *, port: int | None = None, port_v5: int | None = None) -> None:
        if importlib.util.find_spec("iotcore") is None:
            raise MissingExtraError(feature="the embedded broker", extra="demo", module="iotcore")
        self.port = port or 0
        self.port_v5 = port_v5 or 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address for this package's own clients."""
        return f"mqtt://{HOST}:{self.port}?protocol=3.1.1"

    @property
    def url_v5(self) -> str:
        """Address for subscribers that insist on MQTT 5."""
        return f"mqtt://{HOST}:{self.port_v5}?protocol=5"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return None if self._process is None else self._process.pid

    async def __aenter__(self) -> Self:
        """Start the broker and wait until it takes connections.

        Raises:
            BrokerUnavailableError: If a port is taken or it does not start.
        """
        self.port, self.port_v5 = _reserve(self.port, self.port_v5)
        # Not asyncio's: that one cannot on the event loop that MQTT needs on Windows.
        self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - milliseconds; our own module
            [sys.executable, "-m", __name__, str(self.port), str(self.port_v5)],
            stdin=subprocess.PIPE,  # held open: its end tells the child that we are gone
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            await self._await_ready(self._process)
        except BaseException:
            self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the broker; its ports are free afterwards."""
        self._stop()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    async def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(map(_listens, (self.port, self.port_v5))):
            if process.poll() is not None:
                said = process.stderr.read().decode(errors="replace") if process.stderr else ""
                last = said.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
                raise BrokerUnavailableError(f"the embedded broker did not start: {last[0]}")
            if time.monotonic() > deadline:
                raise BrokerUnavailableError(
                    f"the embedded broker did not start within {START_TIMEOUT_S:g} s"
                )
            await asyncio.sleep(POLL_S)


def _reserve(*ports: int) -> list[int]:
    """Return the ports, with a free one for each 0, after a look whether they are free."""
    probes = []
    try:
        for port in ports:
            probe = socket.socket()
            probes.append(probe)
            if os.name == "posix":  # elsewhere this would let two listen on one port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                taken = error.errno in {errno.EADDRINUSE, errno.EACCES}
                why = "is taken" if taken else f"cannot be used: {error.strerror}"
                raise BrokerUnavailableError(
                    f"embedded broker: port {port} on {HOST} {why}. Try: another port, or "
                    f"the broker that listens there: --broker mqtt://{HOST}:{port}"
                ) from error
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # returns when the parent's end of the pipe closes
    os._exit(0)


def _serve(port: int, port_v5: int) -> None:
    """Run the broker in this process, until it is killed or its parent is gone."""
    import iotcore  # noqa: PLC0415 - only the child needs it

    # Ctrl-C goes to the whole terminal; the broker must outlive the publisher's farewell.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)  # rumqttd reports every packet as an error
    threading.Thread(target=_end_with_parent, daemon=True).start()
    listeners = [("v4", port), ("v5", port_v5)]  # rumqttd calls 3.1.1 by its level, 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "broker.toml"
        path.write_text(
            _CONFIG + "".join(_LISTENER.format(version=v, host=HOST, port=p) for v, p in listeners),
            encoding="utf-8",
        )
        broker = iotcore.IotCoreBroker(config_path=str(path))
    broker.run_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
