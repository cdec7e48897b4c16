"""Processes as a user starts them, and brokers that can be killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

DEADLINE_S = 40.0


def eventually(condition, *, within_s=DEADLINE_S, what="the condition"):
    """Wait for what another process does; return what the condition returned."""
    deadline_s = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            pytest.fail(f"{what} did not come true within {within_s:g} s")
        time.sleep(0.05)
    return value


class Command:
    """One of our commands in a process of its own."""

    def __init__(self, *arguments, log: Path, environment=None):
        self.log = log
        self.out = log.with_suffix(".out")
        with log.open("ab") as err, self.out.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stream_classifier", *arguments],
                stdout=out,
                stderr=err,
                env={**os.environ, **(environment or {})},
            )

    @property
    def said(self):
        return self.log.read_text(errors="replace")

    @property
    def printed(self):
        return self.out.read_text(errors="replace")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, within_s=10.0):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)


class Mosquitto:
    """A real broker on a port of its own, which can be killed and started again."""

    def __init__(self, folder: Path, *, more: str = ""):
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        # Started by root, mosquitto would become a user who may not read the test's folder.
        user = "user root\n" if os.geteuid() == 0 else ""
        rules = more or "allow_anonymous true"
        self._config.write_text(f"{user}listener {self.port} 127.0.0.1\n{rules}\n")
        self.process = None

    @property
    def url(self):
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen(
            [mosquitto_binary(), "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            eventually(lambda: listens(self.port), within_s=10, what="mosquitto's port")
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()


def mosquitto_binary():
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port):
    with socket.socket() as s:
        s.settimeout(0.2)
        return s.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def source_id():
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def start(tmp_path):
    """Start one of our commands; whatever still runs at the end is killed."""
    commands = []

    def begin(*arguments, environment=None):
        log = tmp_path / f"{len(commands)}-{arguments[0]}.log"
        command = Command(*map(str, arguments), log=log, environment=environment)
        commands.append(command)
        return command

    yield begin
    for command in commands:
        if command.process.poll() is None:
            command.kill()


@pytest.fixture
def mosquitto(tmp_path):
    """A running mosquitto, or a skip that says what is missing."""
    if mosquitto_binary() is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    broker = Mosquitto(tmp_path).start()
    yield broker
    broker.kill()


@pytest.fixture
def mosquitto_with_password(tmp_path):
    """A mosquitto that lets in only nurse with the password "sesame"."""
    if mosquitto_binary() is None or shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "nurse", "sesame"], check=True)
    passwords.chmod(0o644)
    broker = Mosquitto(tmp_path, more=f"allow_anonymous false\npassword_file {passwords}").start()
    yield broker
    broker.kill()
