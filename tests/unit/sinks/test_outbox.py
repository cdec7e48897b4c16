# ruff: noqa: ASYNC220, ASYNC221, ASYNC240 - a test may block its own event loop
"""The durable outbox: what was acknowledged is never lost, whatever happens to the process."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from stream_classifier.errors import OutboxError
from stream_classifier.sinks import outbox as outbox_module
from stream_classifier.sinks.outbox import HELD_ROWS, MEMORY_ROWS, Outbox, read_latest

TOPIC = "stream_classifier/bed3/alert/event"

# Puts events until it is killed, and says which are on disk.
WRITER = """
import asyncio, sys
from pathlib import Path
from stream_classifier.sinks.outbox import Outbox

async def main(path, first):
    async with Outbox(path=Path(path), max_age_s=1e9, max_rows=10**6) as outbox:
        print("open", flush=True)
        for n in range(first, 10**9):
            if await outbox.put(f"event-{n}", "topic", b"x" * 900):
                print(n, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def outbox(
    path: Path, *, max_age_s: float = 1e9, max_rows: int = 1000, now: float | None = None
) -> Outbox:
    clock = time.time if now is None else lambda: now
    return Outbox(path=path, max_age_s=max_age_s, max_rows=max_rows, now=clock)


async def put(box: Outbox, *ids: str, expendable: bool = False) -> list[bool]:
    return [await box.put(i, TOPIC, i.encode(), expendable=expendable) for i in ids]


async def waiting(box: Outbox) -> list[str]:
    rows = await box.pending()
    assert len(rows) == box.n_pending
    return [row.event_id for row in rows]


def pragma(box: Outbox, text: str) -> int:
    """Tell SQLite something, on the outbox's own thread."""

    def work() -> int:
        assert box._database is not None
        row = box._database.execute(f"PRAGMA {text}").fetchone()
        return row[0] if row else 0

    return box._thread.submit(work).result()


def refuse_growth(box: Outbox) -> None:
    """Make the disk full, as far as SQLite can tell."""
    pragma(box, f"max_page_count={pragma(box, 'page_count')}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outbox.sqlite"


async def test_events_wait_in_the_order_they_came(path: Path) -> None:
    async with outbox(path) as box:
        assert await put(box, "b", "a", "c") == [True, True, True]
        assert await waiting(box) == ["b", "a", "c"]
        rows = await box.pending(limit=2)
        assert [(row.topic, row.payload, row.durable) for row in rows] == [
            (TOPIC, b"b", True),
            (TOPIC, b"a", True),
        ]


async def test_the_same_event_twice_is_one(path: Path) -> None:
    async with outbox(path) as box:
        await put(box, "a", "b", "a")
        assert await waiting(box) == ["a", "b"]


async def test_delivered_events_wait_no_more(path: Path) -> None:
    async with outbox(path) as box:
        await put(box, "a", "b")
        await box.delivered("a")
        await box.delivered("never seen")
        assert await waiting(box) == ["b"]


async def test_an_event_that_comes_again_after_delivery_is_news(path: Path) -> None:
    """A recording that is played again has the same alerts under the same ids."""
    async with outbox(path) as box:
        await put(box, "a")
        await box.delivered("a")
        await put(box, "a")
        assert await waiting(box) == ["a"]


async def test_events_outlive_the_process_and_keep_their_order(path: Path) -> None:
    async with outbox(path) as box:
        await put(box, "a", "b", "c")
        await box.delivered("b")
    async with outbox(path) as box:
        assert box.n_pending == 2
        await put(box, "d", "c")
        assert await waiting(box) == ["a", "c", "d"]


@pytest.mark.parametrize("seed", range(4))
async def test_no_acknowledged_event_is_lost_by_a_kill(path: Path, seed: int) -> None:
    acknowledged: list[int] = []
    for n_kill in range(2):
        first = len(acknowledged)
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(first)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            timer = time.monotonic() + random.Random(seed * 10 + n_kill).uniform(0.0, 0.15)
            while time.monotonic() < timer:
                acknowledged.append(int(writer.stdout.readline()))
            writer.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout.read().split()]
    async with outbox(path, max_rows=10**6) as box:
        assert box.set_aside is None
        kept = [row.event_id for row in await box.pending(limit=10**6)]
    # One more may have been committed just before the kill, and not been acknowledged.
    assert kept[: len(acknowledged)] == [f"event-{n}" for n in acknowledged]
    assert len(kept) == len(set(kept))
    assert len(kept) - len(acknowledged) <= 2


async def test_a_second_process_is_refused_and_says_why(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), "0"], stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            started = time.monotonic()
            with pytest.raises(OutboxError, match="in use by another process"):
                async with outbox(path):
                    pass
            assert time.monotonic() - started < 2
        finally:
            holder.kill()
    async with outbox(path):  # the dead process's lock is gone
        pass


async def test_the_file_is_for_its_owner_only(path: Path) -> None:
    path.parent.mkdir()
    path.touch(mode=0o644)
    async with outbox(path) as box:
        await put(box, "a")
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


async def test_a_file_that_is_no_database_is_set_aside(path: Path) -> None:
    path.parent.mkdir()
    garbage = random.Random(0).randbytes(10_000)
    path.write_bytes(garbage)
    async with outbox(path) as box:
        assert box.set_aside is not None
        assert box.set_aside.name.startswith("outbox.sqlite.corrupt-")
        assert box.set_aside.read_bytes() == garbage
        assert await put(box, "a") == [True]


async def test_every_damaged_file_is_kept(path: Path) -> None:
    path.parent.mkdir()
    for n in range(3):
        path.write_bytes(b"no database %d" % n)
        async with outbox(path, now=0.0):
            pass
    kept = sorted(path.parent.glob("*.corrupt-*"))
    assert [file.read_bytes() for file in kept] == [b"no database %d" % n for n in range(3)]


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_a_file_cut_anywhere_opens_or_is_set_aside(path: Path, suffix: str) -> None:
    whole = path.with_name("whole")
    async with outbox(path) as box:
        await put(box, *(f"event-{n}" for n in range(30)))
        shutil.copytree(path.parent, whole.parent / "copy")
    if suffix == "":  # the closed file holds everything; the copy of the open one does not
        shutil.rmtree(path.parent / "copy", ignore_errors=True)
        (path.parent / "copy").mkdir()
        shutil.copy(path, path.parent / "copy" / path.name)
    source = path.parent / "copy" / f"{path.name}{suffix}"
    size = source.stat().st_size
    for n, length in enumerate([0, 1, 15, 16, 99, *random.Random(1).sample(range(size), 10)]):
        folder = path.parent / f"cut{n}"
        shutil.copytree(path.parent / "copy", folder)
        with (folder / source.name).open("r+b") as file:
            file.truncate(length)
        async with outbox(folder / path.name) as box:
            kept = await waiting(box)
            assert kept == [f"event-{n}" for n in range(len(kept))]  # a prefix, none torn
            assert await put(box, "new") == [True]


async def test_a_file_of_a_later_version_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version=99")
    before = path.read_bytes()
    with pytest.raises(OutboxError, match=r"expected schema 1, found 99"):
        async with outbox(path):
            pass
    assert path.read_bytes() == before


async def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutboxError, match="cannot be written"):
        async with outbox(tmp_path / "file" / "outbox.sqlite"):
            pass


async def test_too_many_events_drop_updates_first_and_then_the_oldest(path: Path) -> None:
    async with outbox(path, max_rows=4) as box:
        await put(box, "raised-1")
        await put(box, "update-1", "update-2", expendable=True)
        await put(box, "ended-1", "raised-2")
        assert await waiting(box) == ["raised-1", "update-2", "ended-1", "raised-2"]
        await put(box, "ended-2", "raised-3")
        assert await waiting(box) == ["ended-1", "raised-2", "ended-2", "raised-3"]
        assert box.dropped == 3


async def test_events_that_are_too_old_are_dropped(path: Path) -> None:
    async with outbox(path, now=1000.0) as box:
        await put(box, "old")
    async with outbox(path, max_age_s=3600, now=1000.0 + 3601) as box:
        assert await waiting(box) == ["old"]  # until there is a newer one
        await put(box, "new")
        assert await waiting(box) == ["new"]
        assert box.dropped == 1


async def test_a_full_disk_loses_no_event_and_says_so(path: Path) -> None:
    big = b"x" * 50_000
    async with outbox(path) as box:
        await put(box, "a")
        refuse_growth(box)
        assert await box.put("b", TOPIC, big) is False
        assert await box.put("b", TOPIC, big) is False
        assert box.fault is not None
        assert [(row.event_id, row.durable) for row in await box.pending()] == [
            ("a", True),
            ("b", False),
        ]
        pragma(box, "max_page_count=1000000")
        assert await box.put("c", TOPIC, big) is True
        assert box.fault is None
        assert await waiting(box) == ["a", "b", "c"]  # in order, disk or not
        await box.delivered("b")
        assert await waiting(box) == ["a", "c"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting needs root")
async def test_a_disk_that_is_full_from_the_start_stops_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        async with Outbox(path=disk / "outbox.sqlite", max_age_s=1e6, max_rows=1000) as box:
            assert await box.put("a.0", "t", b"1") is False
            assert box.fault is not None
            assert [(r.event_id, r.durable) for r in await box.pending()] == [("a.0", False)]
            filler.unlink()
            assert await box.put("a.1", "t", b"2") is True
            assert [r.event_id for r in await box.pending()] == ["a.0", "a.1"]
            assert box.fault is None
    finally:
        subprocess.run(["umount", str(disk)], check=True)


async def test_memory_is_bounded_while_the_disk_is_full(path: Path) -> None:
    async with outbox(path) as box:
        refuse_growth(box)
        big = b"x" * 50_000
        await box.put("raised", TOPIC, big)
        for n in range(MEMORY_ROWS + 5):
            await box.put(f"update-{n}", TOPIC, big, expendable=True)
        assert box.n_pending == MEMORY_ROWS
        assert [row.event_id for row in await box.pending(limit=2)] == ["raised", "update-6"]


async def test_a_disk_that_takes_no_deletion_does_not_bring_events_back(path: Path) -> None:
    async with outbox(path) as box:
        await put(box, "a", "b")
        pragma(box, "query_only=1")
        await box.delivered("a")
        assert await waiting(box) == ["b"]
        pragma(box, "query_only=0")
        await put(box, "c")
        assert await waiting(box) == ["b", "c"]
    async with outbox(path) as box:
        assert await waiting(box) == ["b", "c"]


async def test_a_put_that_is_cancelled_is_carried_out(path: Path) -> None:
    async with outbox(path) as box:
        tasks = [asyncio.ensure_future(put(box, f"event-{n}")) for n in range(5)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await waiting(box) == [f"event-{n}" for n in range(5)]


async def test_the_event_loop_is_not_blocked_by_the_disk(path: Path) -> None:
    async with outbox(path) as box:
        await asyncio.to_thread(lambda: None)  # threads are warm
        held = box._thread.submit(time.sleep, 0.3)
        putting = asyncio.ensure_future(put(box, "a"))
        started = time.monotonic()
        await asyncio.sleep(0)
        assert time.monotonic() - started < 0.1
        assert not putting.done()
        held.result()
        assert await putting == [True]


async def test_the_newest_event_of_a_topic_is_remembered_even_when_it_is_delivered(
    path: Path,
) -> None:
    async with Outbox(path=path, max_age_s=1e6, max_rows=1000) as box:
        for n in range(3):
            await box.put(f"a.{n}", TOPIC, f"payload {n}".encode())
            await box.delivered(f"a.{n}")
        await box.put("b.0", "another/topic", b"another")
        assert read_latest(path, TOPIC) is None  # in use: whoever opens it next says so
    assert read_latest(path, TOPIC) == b"payload 2"
    assert read_latest(path, "no/topic") is None
    assert read_latest(path.with_name("none.sqlite"), TOPIC) is None


async def test_more_events_than_are_held_in_memory_keep_their_order(path: Path) -> None:
    ids = [f"event-{n}" for n in range(HELD_ROWS + 20)]
    async with outbox(path) as box:
        await put(box, *ids)
        assert await waiting_all(box) == ids
        for event_id in ids:
            assert (await box.pending(limit=1))[0].event_id == event_id
            await box.delivered(event_id)
        assert await waiting(box) == []
        await put(box, "next")
        assert await waiting(box) == ["next"]


async def test_a_delivered_event_is_deleted_without_another_one_and_by_closing(path: Path) -> None:
    def on_disk(box: Outbox) -> int:
        assert box._database is not None
        return int(box._database.execute("SELECT count(*) FROM outbox").fetchone()[0])

    async with outbox(path) as box:
        await put(box, "a")
        await box.delivered("a")
        async with asyncio.timeout(10):
            while box._thread.submit(on_disk, box).result():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        await put(box, "b")
        await box.delivered("b")
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM outbox").fetchone() == (0,)


async def test_events_that_wait_for_the_disk_are_committed_together_and_in_order(
    path: Path,
) -> None:
    def count_commits(box: Outbox, n: list[int]) -> None:
        assert box._database is not None
        box._database.set_trace_callback(lambda sql: n.append(1) if sql == "COMMIT" else None)

    commits: list[int] = []
    ids = [f"event-{n}" for n in range(HELD_ROWS + 100)]
    async with outbox(path) as box:
        box._thread.submit(count_commits, box, commits).result()
        held = box._thread.submit(time.sleep, 0.1)
        assert all(await asyncio.gather(*(put(box, i) for i in ids)))
        assert held.done()
        assert len(commits) <= 2
        assert await waiting_all(box) == ids
        assert box.n_pending == len(ids)
    async with outbox(path) as box:
        assert await waiting_all(box) == ids


async def test_a_batch_that_does_not_fit_is_kept_as_far_as_it_fits(path: Path) -> None:
    async with outbox(path) as box:
        await put(box, "a")
        refuse_growth(box)
        box._thread.submit(time.sleep, 0.1)
        sizes = {"small": 1, "big": 100_000, "small-too": 1}
        kept = await asyncio.gather(*(box.put(i, TOPIC, b"x" * n) for i, n in sizes.items()))
        assert kept == [True, False, True]
        assert [(r.event_id, r.durable) for r in await box.pending()] == [
            ("a", True), ("small", True), ("big", False), ("small-too", True),
        ]  # fmt: skip
        pragma(box, "max_page_count=1000000")
        await box._on_thread(box._recover)
        assert await waiting(box) == ["a", "small", "big", "small-too"]
    assert read_latest(path, TOPIC) == b"x"  # the newest, not the one that came to disk last


async def test_a_disk_that_has_room_again_is_noticed_without_a_new_event(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "DISK_RETRY_S", 0.02)
    async with outbox(path) as box:
        await put(box, "a")
        pragma(box, "query_only=1")
        assert await put(box, "b", "c") == [False, False]
        await asyncio.sleep(0.1)
        assert box.fault is not None
        pragma(box, "query_only=0")
        async with asyncio.timeout(10):
            while box.fault is not None:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        assert [(r.event_id, r.durable) for r in await box.pending()] == [
            ("a", True), ("b", True), ("c", True),
        ]  # fmt: skip
        await box.delivered("b")
        await put(box, "d")
        assert await waiting(box) == ["a", "c", "d"]
    async with outbox(path) as box:
        assert await waiting(box) == ["a", "c", "d"]


async def test_a_damaged_file_is_a_fault_for_ten_minutes(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database")
    clock = [1000.0]
    async with Outbox(path=path, max_age_s=1e9, max_rows=9, now=lambda: clock[0]) as box:
        assert box.set_aside is not None
        assert box.set_aside.name in str(box.fault)
        assert await put(box, "a") == [True]
        clock[0] += 601
        assert box.fault is None


async def test_a_nonce_is_good_once_and_that_outlives_the_process(path: Path) -> None:
    async with outbox(path, now=1000.0) as box:
        assert await box.spend("n1", until=1060.0)
        assert not await box.spend("n1", until=1060.0)
        assert await box.spend("n2", until=1060.0)
    async with outbox(path, now=1059.0) as box:
        assert not await box.spend("n1", until=1060.0)
    async with outbox(path, now=1061.0) as box:  # void by now, whoever sends it
        assert await box.spend("n1", until=1090.0)


async def test_a_nonce_that_cannot_be_noted_is_not_good(path: Path) -> None:
    async with outbox(path) as box:
        pragma(box, "query_only=1")
        assert not await box.spend("n1", until=1e12)
        pragma(box, "query_only=0")
        assert await box.spend("n1", until=1e12)


async def test_spent_nonces_are_bounded_and_expired_ones_make_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_SPENT", 3)
    clock = [1000.0]
    async with Outbox(path=path, max_age_s=1e9, max_rows=9, now=lambda: clock[0]) as box:
        assert [await box.spend(f"n{n}", until=1000.0 + n) for n in range(5)] == [
            True, True, True, False, False,
        ]  # fmt: skip
        clock[0] = 1001.5
        assert await box.spend("n9", until=1100.0)


async def waiting_all(box: Outbox) -> list[str]:
    return [row.event_id for row in await box.pending(limit=10**6)]


@pytest.mark.skipif(not hasattr(os, "fchmod"), reason="needs POSIX modes")
async def test_a_link_in_its_place_is_refused_and_what_it_leads_to_is_left_alone(tmp_path):
    precious, link = tmp_path / "precious", tmp_path / "outbox.sqlite"
    precious.write_text("mine")
    precious.chmod(0o644)
    for target in (precious, tmp_path / "not there yet"):
        link.symlink_to(target)
        with pytest.raises(OutboxError, match="it is a link"):
            await Outbox(path=link, max_age_s=1e9, max_rows=10).__aenter__()
        link.unlink()
    assert precious.read_text() == "mine"
    assert stat.S_IMODE(precious.stat().st_mode) == 0o644
    assert not (tmp_path / "not there yet").exists()


@pytest.mark.skipif(not hasattr(os, "fchmod"), reason="needs POSIX modes")
async def test_a_folder_that_any_user_may_write_is_said(tmp_path, caplog):
    for mode, n_said in ((0o700, 0), (0o777, 1)):
        tmp_path.chmod(mode)
        async with Outbox(path=tmp_path / "outbox.sqlite", max_age_s=1e9, max_rows=10):
            assert caplog.text.count("any user may write its folder") == n_said
