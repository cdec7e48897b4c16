"""Processes as a user starts them, and brokers that can be killed."""

from __future__ import annotations

import contextlib
import json
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
    """One of our commands in a process of its own, or a module that does as they do."""

    def __init__(
        self, *arguments, log: Path, environment=None, module="stream_classifier", stdin=None
    ):
        self.log = log
        self.out = log.with_suffix(".out")
        with log.open("ab") as err, self.out.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=stdin,
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

    def tell(self, line):
        """Say its last line to a process that was started with ``stdin=subprocess.PIPE``."""
        with self.process.stdin as stdin:
            stdin.write(f"{line}\n".encode())

    def kill(self):
        self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()

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

    def begin(*arguments, **more):
        log = tmp_path / f"{len(commands)}-{arguments[0]}.log"
        command = Command(*map(str, arguments), log=log, **more)
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


SCENARIO = """
title = "short"
seed = 3
[[part]]
state = "background"
seconds = 6
[[part]]
state = "seizure"
seconds = 14
[[part]]
state = "background"
seconds = 8
[[part]]
state = "seizure"
seconds = 14
[[part]]
state = "background"
seconds = 60
"""


class Story:
    """A device, the pipeline on it, and a subscriber."""

    def __init__(self, start, mosquitto, source_id, tmp_path):
        self._start = start
        self.broker = mosquitto
        self.source_id = source_id
        self.scenario = tmp_path / "short.toml"
        self.scenario.write_text(SCENARIO)
        self.outbox = tmp_path / "outbox.sqlite"
        self.subscriber = start("subscribe", "--broker", mosquitto.url, "--json")

    def device(self, *more):
        return self._start(
            *("simulate", "synthetic", "--scenario", self.scenario, "--name", self.source_id),
            *("--source-id", self.source_id, *more),
        )

    def pipeline(self, *more, bundle="bonn", **how):
        """The classifier; the device plays the data set's recordings, so with their bundle."""
        return self._start(
            *("run", "--source-id", self.source_id, "--wait", "30", "--json"),
            *(("--bundle", bundle) if bundle else ()),
            *("--broker", self.broker.url, "--stream", "bed3"),
            *("--set", f"outbox.path={self.outbox}", "--set", "alarm.refractory_s=4", *more),
            **how,
        )

    def received(self, what):
        """What ``subscribe --json`` says of the messages of one topic, in the order they came."""
        lines = []
        for text in self.subscriber.printed.splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line may be half written
                line = json.loads(text)
                if line["topic"] == f"stream_classifier/bed3/{what}":
                    lines.append(line)
        return lines

    def heard(self, what):
        """Messages of one topic, in the order they came: ``status``, ``alert``, ``alert/event``."""
        return [line["message"] for line in self.received(what)]

    def until(self, what, condition, *, within_s=40.0):
        """Wait for a message of a topic that fulfils a condition."""
        return eventually(
            lambda: next((m for m in reversed(self.heard(what)) if condition(m)), None),
            within_s=within_s,
            what=f"a message on {what}; heard {self.heard(what)[-2:]}",
        )

    def until_now(self, what, condition, *, within_s=40.0):
        """Wait until the newest message of a topic fulfils a condition."""
        return eventually(
            lambda: (heard := self.heard(what)) and condition(heard[-1]) and heard[-1],
            within_s=within_s,
            what=f"the newest message on {what}; it was {self.heard(what)[-1:]}",
        )


@pytest.fixture
def story(start, mosquitto, source_id, tmp_path):
    return Story(start, mosquitto, source_id, tmp_path)
