"""The disk: a power cut, a file cut anywhere, and no room left."""

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stream_classifier.sinks.outbox import DISK_RETRY_S, Outbox
from tests.live_broker import Mosquitto, event, publisher, subscriber, until
from tests.system.conftest import eventually

pytestmark = [pytest.mark.timeout(300)]

RECORDER = Path(__file__).with_name("write_recorder.c")

# An outbox at work: events one by one and in bursts, deliveries, nonces. What it says on "acks" it
# says before it delivers ("-") and after the outbox has said that it is durable ("+", "n").
WRITER = """
import asyncio, os, sys
from pathlib import Path
from stream_classifier.sinks.outbox import Outbox

folder, n_rounds, synchronous = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

async def main():
    acks = os.open(folder / "acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def put(box, n):
        assert await box.put(f"event-{n}", "topic", b"%d " % n * 200)
        os.write(acks, b"+%d\\n" % n)

    async with Outbox(path=folder / "outbox.sqlite", max_age_s=1e9, max_rows=10**6) as box:
        if synchronous:
            pragma = f"PRAGMA synchronous={synchronous}"
            await box._on_thread(lambda: box._database.execute(pragma) and None)
        n = 0
        for round in range(n_rounds):
            await put(box, n)
            await asyncio.gather(*(put(box, n + 1 + m) for m in range(round % 5)))
            n += 1 + round % 5
            if round % 3 == 0:
                for row in await box.pending(limit=3):
                    os.write(acks, b"-%s\\n" % row.event_id.removeprefix("event-").encode())
                    await box.delivered(row.event_id)
            if round % 4 == 0:
                assert await box.spend(f"nonce-{round}", until=1e12)
                os.write(acks, b"n%d\\n" % round)
        os._exit(0)

asyncio.run(main())
"""


@dataclass
class File:
    """A file as the disk has it, and what it was told since and need not have done."""

    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[str, int, bytes]] = field(default_factory=list)
    is_durable_name: bool = False
    is_unlinked: bool = False

    def after_a_cut(self, chosen=()):
        content = bytearray(self.durable)
        for operation, offset, data in chosen:
            _apply(content, operation, offset, data)
        return bytes(content)

    def sync(self):
        for write in self.unsynced:
            _apply(self.durable, *write)
        self.unsynced.clear()


def _apply(content, operation, offset, data):
    if operation == "T":
        del content[offset:]
        content.extend(bytes(offset - len(content)))
    else:
        content.extend(bytes(max(0, offset + len(data) - len(content))))
        content[offset : offset + len(data)] = data


class Disk:
    """What a folder holds after a power cut, from a record of what was written to it."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.files = {}
        self.ended = []  # unlinked, but perhaps not for the disk
        self.acks = b""

    def take(self, operation, offset, data, path):
        if path == f"{self.folder}/acks":
            self.acks += data
        elif path == self.folder:
            assert operation == "S"
            for file in self.files.values():
                file.is_durable_name = True
            self.ended.clear()
        elif operation == "U":
            file = self.files.pop(path)
            self.ended += [(path, file)] if file.is_durable_name else []
        else:
            file = self.files.setdefault(path, File())
            if operation == "S":
                file.sync()
            else:
                assert operation in "WT", f"{operation} on {path}"
                file.unsynced.append((operation, offset, data))

    def cut_power(self, target, draw=None):
        """Write what is left: without ``draw`` nothing unsynced, else some of it in any order."""
        target.mkdir()
        left = dict(self.ended) | {
            path: file
            for path, file in self.files.items()
            if file.is_durable_name or path.endswith(".sqlite")  # made before it was recorded
        }
        for path, file in left.items():
            chosen = []
            if draw is not None:
                chosen = [write for write in file.unsynced if draw.random() < 0.5]
                draw.shuffle(chosen)
            (target / Path(path).name).write_bytes(file.after_a_cut(chosen))

    def promised(self):
        """Events and nonces that must be there, and events that may be gone again."""
        acked, gone, nonces = [], set(), []
        for line in self.acks.decode().split():
            if line[0] == "-":
                gone.add(int(line[1:]))
            else:
                (acked if line[0] == "+" else nonces).append(int(line[1:]))
        return acked, gone, nonces


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    """A library that records writes, or a skip that says what is missing."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("recording writes needs Linux and a C compiler (apt-get install gcc)")
    library = tmp_path_factory.mktemp("recorder") / "recorder.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, RECORDER, "-ldl", "-lpthread"]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"the recorder does not compile here: {made.stderr.splitlines()[-1:]}")
    return library


def recorded(recorder, tmp_path, n_rounds, *, synchronous=""):
    """Let an outbox work, and return every write, sync and acknowledgement in order."""
    folder, log = tmp_path / "state", tmp_path / "record"
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-c", WRITER, folder, str(n_rounds), synchronous],
        check=True,
        env={
            **os.environ,
            "LD_PRELOAD": str(recorder),
            "RECORD_FOLDER": str(folder),
            "RECORD_LOG": str(log),
        },
    )
    operations, content, at = [], log.read_bytes(), 0
    while at < len(content):
        end = content.index(b"\n", at)
        operation, offset, n, path = content[at:end].decode().split(" ", 3)
        data = content[end + 1 : end + 1 + int(n)]
        operations.append((operation, int(offset), data, path))
        at = end + 1 + int(n)
    if not any(path.endswith("-wal") for *_, path in operations):
        pytest.skip("SQLite's writes cannot be recorded here (it is linked statically)")
    return folder, operations


async def is_as_promised(disk, folder):
    acked, gone, nonces = disk.promised()
    async with Outbox(path=folder / "outbox.sqlite", max_age_s=1e9, max_rows=10**6) as box:
        assert box.set_aside is None
        kept = [int(r.event_id.removeprefix("event-")) for r in await box.pending(limit=10**6)]
        assert kept == sorted(set(kept))
        lost = set(acked) - gone - set(kept)
        assert not lost, f"acknowledged and lost: {sorted(lost)}"
        if nonces:
            is_lost = await box.spend(f"nonce-{nonces[-1]}", until=1e12)
            assert not is_lost, f"acknowledged and lost: nonce {nonces[-1]}"
        assert await box.put("event-999999", "topic", b"new")


async def through_power_cuts(recorder, tmp_path, *, n_points, n_rounds, seed, synchronous=""):
    folder, operations = recorded(recorder, tmp_path, n_rounds, synchronous=synchronous)
    draw = random.Random(seed)
    points = sorted(draw.choices(range(len(operations)), k=n_points))
    n_syncs = sum(operation == "S" for operation, *_ in operations)
    disk = Disk(folder)
    target = tmp_path / "after"
    taken = 0
    for n, point in enumerate(points):
        for operation in operations[taken : point + 1]:
            disk.take(*operation)
        taken = max(taken, point + 1)
        disk.cut_power(target, draw if n % 2 else None)
        await is_as_promised(disk, target)
        shutil.rmtree(target)
    acked, *_ = disk.promised()
    return len(operations), n_syncs, len(acked)


@pytest.mark.fault(29)
async def test_a_power_cut_loses_no_acknowledged_event(recorder, tmp_path, measured):
    n_operations, n_syncs, n_acked = await through_power_cuts(
        recorder, tmp_path, n_points=60, n_rounds=40, seed=1
    )
    assert n_acked > 50
    measured(f"60 cuts among {n_operations} writes, {n_syncs} syncs: acknowledged events lost", 0)


@pytest.mark.fault(29)
@pytest.mark.slow
async def test_a_thousand_power_cuts_lose_no_acknowledged_event(recorder, tmp_path, measured):
    n_operations, n_syncs, n_acked = await through_power_cuts(
        recorder, tmp_path, n_points=1000, n_rounds=500, seed=2
    )
    assert n_acked > 1000
    measured(
        f"1,000 cuts among {n_operations:,} writes, {n_syncs} syncs, {n_acked:,} events: lost", 0
    )


async def test_the_replay_notices_a_database_that_does_not_sync(recorder, tmp_path):
    with pytest.raises(AssertionError, match="acknowledged and lost"):
        await through_power_cuts(
            recorder, tmp_path, n_points=40, n_rounds=20, seed=3, synchronous="OFF"
        )


async def through_cut_files(tmp_path, *, n_cuts, seed):
    """Cut the file and its log at any byte, or put other bytes there; return what became of it."""
    draw = random.Random(seed)
    whole, n_events = tmp_path / "whole", 60
    path = tmp_path / "state" / "outbox.sqlite"
    async with Outbox(path=path, max_age_s=1e9, max_rows=1000) as box:
        for n in range(n_events // 2):
            await box.put(f"event-{n}", "topic", b"x" * 500)
        await box._on_thread(lambda: box._database.execute("PRAGMA wal_checkpoint").fetchall())
        for n in range(n_events // 2, n_events):
            await box.put(f"event-{n}", "topic", b"x" * 500)
        shutil.copytree(path.parent, whole)  # half of it in the file, half in the log
    n_aside = 0
    for n in range(n_cuts):
        folder = tmp_path / "cut"
        shutil.copytree(whole, folder)
        for file in draw.sample(sorted(folder.iterdir()), k=draw.choice([1, 1, 2])):
            length = draw.randrange(file.stat().st_size + 1)
            with file.open("r+b") as opened:
                if n % 4 == 3:
                    opened.seek(length)
                    opened.write(draw.randbytes(draw.randrange(1, 2000)))
                else:
                    opened.truncate(length)
        async with Outbox(path=folder / path.name, max_age_s=1e9, max_rows=1000) as box:
            kept = [row.event_id for row in await box.pending(limit=1000)]
            if n % 4 != 3:
                assert kept == [f"event-{m}" for m in range(len(kept))]  # a prefix, none torn
            assert (box.fault is not None) == (box.set_aside is not None)
            assert await box.put("new", "topic", b"new") is True
            n_aside += box.set_aside is not None
        shutil.rmtree(folder)
    return n_aside


@pytest.mark.fault(29)
async def test_a_file_cut_anywhere_opens_or_is_set_aside_and_said(tmp_path, measured):
    n_aside = await through_cut_files(tmp_path, n_cuts=60, seed=1)
    measured("60 files cut or overwritten at any byte: set aside, and a fault", n_aside)


@pytest.mark.fault(29)
@pytest.mark.slow
async def test_a_thousand_files_cut_anywhere_open_or_are_set_aside(tmp_path, measured):
    n_aside = await through_cut_files(tmp_path, n_cuts=1000, seed=2)
    measured("1,000 files cut or overwritten at any byte: set aside, and a fault", n_aside)
    measured("events taken after that, of 1,000", 1000)


# 37: disk full


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB, with a way to fill it and to make room again."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting a disk of 1 MB needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk):
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with contextlib.suppress(OSError), (disk / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(b"x")


def make_room(disk):
    (disk / "filler").unlink()


@pytest.fixture
def broker(tmp_path):
    mosquitto = Mosquitto(tmp_path / "mosquitto").start()
    yield mosquitto
    mosquitto.kill()


@pytest.mark.fault(37)
@pytest.mark.broker
async def test_events_go_out_while_the_disk_is_full_and_say_that_they_are_not_durable(
    broker, small_disk, measured
):
    async with (
        subscriber(broker.settings) as inbox,
        publisher(broker.settings, small_disk) as sink,
    ):
        await inbox.until(lambda: inbox.statuses)
        await sink.event(event(0))
        fill(small_disk)
        # What is left of the log's last page may still take one or two.
        for seq in range(1, 30):
            await sink.event(event(seq))
        await inbox.until(lambda: len(inbox.event_ids) == 30)
        assert sink.condition.outbox_fault is not None
        durable = [received.fields["durable"] for received in inbox.of("event")]
        assert durable[0] is True
        assert durable[-20:] == [False] * 20
        make_room(small_disk)
        freed_s = time.monotonic()
        await until(lambda: sink.condition.outbox_fault is None)
        took_s = time.monotonic() - freed_s
        assert took_s < DISK_RETRY_S + 1.0
        await sink.event(event(30))
        await inbox.until(lambda: len(inbox.event_ids) == 31)
        assert inbox.of("event")[-1].fields["durable"] is True
    assert inbox.event_ids == [f"alert-1.{seq}" for seq in range(31)]
    measured("disk full: events lost", 0)
    measured("room again: fault over after", took_s, "s")


@pytest.mark.fault(37)
async def test_what_was_only_in_memory_comes_to_disk_once_there_is_room(small_disk):
    path = small_disk / "outbox.sqlite"
    async with Outbox(path=path, max_age_s=1e9, max_rows=1000) as box:
        await box.put("a", "topic", b"a")
        fill(small_disk)
        await box.put("b", "topic", b"b" * 9000)
        assert [row.durable for row in await box.pending()] == [True, False]
        make_room(small_disk)
        await until(lambda: box.fault is None)
    async with Outbox(path=path, max_age_s=1e9, max_rows=1000) as box:
        assert [row.event_id for row in await box.pending()] == ["a", "b"]


@pytest.mark.fault(37)
@pytest.mark.lsl
@pytest.mark.broker
@pytest.mark.slow
def test_detection_goes_on_while_the_disk_is_full_and_health_says_so(story, small_disk, measured):
    def outbox_rung(message):
        return next(rung for rung in message["rungs"] if rung["rung"] == "outbox")

    story.outbox = small_disk / "outbox.sqlite"
    story.device()
    pipeline = story.pipeline()
    story.until_now("health", lambda m: outbox_rung(m)["state"] == "ok")
    fill(small_disk)
    # A first event may still find room in the log's last page.
    event_heard = story.until("alert/event", lambda m: not m["durable"])
    assert event_heard["test"] is False
    fault = outbox_rung(story.until_now("health", lambda m: outbox_rung(m)["state"] == "fault"))
    assert "takes no events" in fault["reason"]
    n_heard = len(story.heard("alert/event"))
    make_room(small_disk)
    freed_s = time.monotonic()
    story.until_now("health", lambda m: outbox_rung(m)["state"] == "ok")
    measured("health: fault of the outbox; ok again after", time.monotonic() - freed_s, "s")
    eventually(
        lambda: any(m["durable"] for m in story.heard("alert/event")[n_heard:]),
        what="a durable event",
    )
    assert pipeline.stop() == 0
    with contextlib.closing(sqlite3.connect(story.outbox)) as database:
        assert database.execute("PRAGMA quick_check").fetchone() == ("ok",)
