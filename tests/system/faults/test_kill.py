"""The whole process killed again and again: every alert that was committed is delivered, once."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import pytest

from simulators.blocks import Block
from simulators.device import Device
from stream_classifier.bundle import AlarmSpec, load_bundle
from stream_classifier.detection.detector import Detector, DetectorSettings
from stream_classifier.engines import make_engine
from stream_classifier.signals import AlertEvent, StreamSpec
from stream_classifier.sinks.messages import WallClock, standing_alert
from stream_classifier.sinks.outbox import read_latest
from tests.system.conftest import eventually

from .journal import JOURNAL, chunks_of

pytestmark = [pytest.mark.fault(27), pytest.mark.lsl, pytest.mark.broker]

BUNDLE = load_bundle("bonn")
RULE = AlarmSpec(  # so low that a second of signal lives through whole alerts
    raise_threshold=0.3, clear_threshold=0.2, smoothing_s=0.2, persistence_s=0.0, refractory_s=0.1
)
TOPIC = "stream_classifier/bed3/alert/event"
OPEN_S = 2.0
"""What was decided so shortly before a kill may not have reached the disk."""

STARTING_SHARE = 0.2
"""So many are killed while they start, wherever they are; the others while they decide."""

STAMPED = ("published", "seq", "late", "durable")

# The command, with its chunks and its clock written down. It sheds nothing on a busy machine.
CHILD = """
import math, os
from pathlib import Path
from stream_classifier import pipeline
from stream_classifier.cli import main
from stream_classifier.sinks.messages import WallClock
from stream_classifier.sources.lsl import LslSource
from tests.system.faults.journal import JOURNAL, written_down

set_now = WallClock.set_now

def noted(source_now_s):
    clock = set_now(source_now_s)
    Path(os.environ[JOURNAL] + ".clock").write_text(repr(clock.offset_s))
    return clock

WallClock.set_now = staticmethod(noted)
LslSource.__iter__ = written_down(LslSource.__iter__)
pipeline.MOST_BEHIND_S = math.inf
main()
"""


class Lives:
    """A device that goes on, a broker, a subscriber, and processes that come and go."""

    def __init__(self, folder, broker, source_id):
        self.folder, self.broker, self.source_id = folder, broker, source_id
        self.outbox = folder / "outbox.sqlite"
        self.heard = []
        self.expected = []  # steps that were committed, as a replay has them
        self.n_lives = self.n_open = 0
        self.latest = None
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self.client.on_message = lambda _c, _u, m: self.heard.append(json.loads(m.payload))
        self.client.on_connect = lambda *_: self.client.subscribe(TOPIC, qos=1)
        self.listening = threading.Event()
        self.client.on_subscribe = lambda *_: self.listening.set()
        self.device = Device(name=source_id, source_id=source_id, labels=("Cz",), played="a test")
        self.playing = threading.Thread(target=self.device.stream, args=(_signal(),))

    def __enter__(self):
        self.client.connect("127.0.0.1", self.broker.port)
        self.client.loop_start()
        assert self.listening.wait(10)
        self.device.__enter__()
        self.playing.start()
        return self

    def __exit__(self, *_):
        self.device.stop.set()
        self.playing.join(10)
        self.device.__exit__()
        self.client.disconnect()
        self.client.loop_stop()

    @property
    def heard_ids(self):
        return list(dict.fromkeys(message["event_id"] for message in list(self.heard)))

    @property
    def expected_ids(self):
        return [f"{event.alert_id}.{event.seq}" for event in self.expected]

    def begin(self):
        self.journal = self.folder / f"journal-{self.n_lives}"
        self.n_lives += 1
        rule = {name: getattr(RULE, name) for name in AlarmSpec.__dataclass_fields__}
        command = [
            *(sys.executable, "-c", CHILD, "run", "--source-id", self.source_id),
            *("--wait", "30", "--bundle", "bonn", "--broker", self.broker.url),
            *("--stream", "bed3", "--set", f"outbox.path={self.outbox}"),
            *(word for k, v in rule.items() for word in ("--set", f"alarm.{k}={v}")),
        ]
        with (self.folder / "said.log").open("ab") as log:
            return subprocess.Popen(
                command,
                env={**os.environ, JOURNAL: str(self.journal)},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def look_back(self):
        """Add what the process that ended had committed, of all that it must have decided."""
        clock = Path(f"{self.journal}.clock")
        if not self.journal.exists() or not clock.exists():
            assert self.committed() == self.latest
            return
        chunks = chunks_of(self.journal)
        standing = self.latest and standing_alert(
            self.latest, clock=WallClock(float(clock.read_text()))
        )
        decided = self.replay(chunks, standing)
        latest = self.committed()
        n_committed = 0
        if latest != self.latest:
            ids = [f"{event.alert_id}.{event.seq}" for event in decided]
            assert json.loads(latest)["event_id"] in ids, "no replay has what was committed"
            n_committed = ids.index(json.loads(latest)["event_id"]) + 1
        for event in decided[n_committed:]:
            assert chunks[-1].received_s - event.at_s < OPEN_S, "decided, and never committed"
        self.n_open += len(decided) - n_committed
        self.expected += decided[:n_committed]
        self.latest = latest

    def replay(self, chunks, standing):
        detector = Detector(
            bundle=BUNDLE,
            spec=StreamSpec(self.source_id, self.source_id, 178.0, ("Cz",), simulated=True),
            engine=make_engine(BUNDLE),
            settings=DetectorSettings(rule=RULE),
            standing=standing,
        )
        items = [item for chunk in chunks for item in detector.feed(chunk)]
        return [item for item in items if isinstance(item, AlertEvent)]

    def committed(self):
        """The newest event on disk; looked at in a copy, so that the next process recovers."""
        copy = self.folder / "copy.sqlite"
        for suffix in ("", "-wal"):
            file = Path(f"{self.outbox}{suffix}")
            Path(f"{copy}{suffix}").unlink(missing_ok=True)
            if file.exists():
                shutil.copy(file, f"{copy}{suffix}")
        return read_latest(copy, TOPIC)


def _signal():
    """Real EEG, a seizure every two or three seconds."""
    rng = np.random.default_rng(27)
    p = BUNDLE.selftest_probabilities[:, 0]
    seizure, rest = BUNDLE.selftest_windows[p > 0.9], BUNDLE.selftest_windows[p < 0.1]
    while True:
        for windows in (seizure, seizure, rest, rest):
            yield Block(np.float32(windows[rng.integers(len(windows))])[:, None])


@pytest.mark.parametrize(
    "n_kills", [3, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_no_committed_alert_is_lost_or_doubled_however_often_the_process_is_killed(
    n_kills, mosquitto, source_id, tmp_path, measured
):
    chance = random.Random(27)
    with Lives(tmp_path, mosquitto, source_id) as lives:
        for _ in range(n_kills):
            process = lives.begin()
            if chance.random() > STARTING_SHARE:
                eventually(lives.journal.exists, what="the first samples")
            time.sleep(chance.uniform(0.0, 2.0))
            process.kill()
            process.wait()
            lives.look_back()
        process = lives.begin()
        n_heard = len(lives.heard_ids)
        eventually(lambda: len(lives.heard_ids) > n_heard, what="alerts of the last process")
        process.terminate()
        assert process.wait(10) == 0
        lives.look_back()
        eventually(lambda: len(lives.heard_ids) >= len(lives.expected), what="all alerts")
        assert lives.heard_ids == lives.expected_ids
        _are_the_same(lives.heard, lives.expected)
    n_raised = sum(event.type == "raised" for event in lives.expected)
    measured("SIGKILLs", n_kills)
    measured("alert events committed", len(lives.expected))
    measured("of them alerts raised", n_raised)
    measured("lost", 0)
    measured("sent again after a kill, under the same id", len(lives.heard) - len(lives.expected))
    measured("decided, but not on disk at a kill", lives.n_open)
    assert n_raised >= n_kills / 10  # else hardly any was there to be lost


def _are_the_same(heard, expected):
    """Each step is what the replay has, and a second copy is the first one again."""
    steps = {f"{event.alert_id}.{event.seq}": event for event in expected}
    first = {}
    for message in heard:
        event = steps[message["event_id"]]
        assert (message["event_type"], message["on"]) == (str(event.type), event.on)
        gist = {name: value for name, value in message.items() if name not in STAMPED}
        assert first.setdefault(message["event_id"], gist) == gist
    ended = [event.alert_id for event in expected if event.type == "ended"]
    assert len(ended) == len(set(ended))
