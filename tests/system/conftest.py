"""Processes as a user starts them, and brokers that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.live_broker import Mosquitto, password_file

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
    broker = Mosquitto(tmp_path / "mosquitto").start()
    yield broker
    broker.kill()


@pytest.fixture
def mosquitto_with_password(tmp_path):
    """A mosquitto that lets in only nurse with the password "sesame"."""
    passwords = password_file(tmp_path / "passwords", nurse="sesame")
    config = f"allow_anonymous false\npassword_file {passwords}\n"
    broker = Mosquitto(tmp_path / "mosquitto", config=config).start()
    yield broker
    broker.kill()
