"""The durable outbox: alert events, on disk before they are sent, until the broker has them.

A broker acknowledges what it later forgets (mosquitto killed: 0 of 300 acknowledged messages
survived), and may be away for hours. So an event is committed here first, and removed only
once the broker has acknowledged it. Killed in between, the process sends it again after its
restart: at least once, with an id by which the second copy is known.

The same file remembers the nonces of commands that were carried out, so that none is a second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import math
import operator
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from stream_classifier.errors import OutboxError

SCHEMA_VERSION = 1
LOCK_WAIT_S = 0.5
"""A predecessor that is just ending gets this long to let go of the file."""

MEMORY_ROWS = 1_000
"""Events kept in memory at most while the disk takes none."""

HELD_ROWS = 100
"""Events that wait are held in memory, too, while they are so few: the disk need not be read."""

FORGET_AFTER_S = 0.5
"""Deletions wait so long for an event to come, whose commit takes them along: one of their own
costs the disk as much as an event's, which would have to wait for it. A process that is killed
meanwhile sends those events again."""

_CREATE_LATEST = "CREATE TABLE IF NOT EXISTS latest (topic TEXT PRIMARY KEY, payload BLOB NOT NULL)"
"""The newest event of each topic, delivered or not: what stood when a process ended."""

_CREATE_SPENT = """
CREATE TABLE IF NOT EXISTS spent (nonce TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID
"""
"""Nonces of commands that were carried out."""

MAX_SPENT = 10_000

DISK_RETRY_S = 2.0
"""How often a disk that takes nothing is tried again, whether or not there are new events."""

SET_ASIDE_FAULT_S = 600.0
"""How long it is a fault that a damaged file was set aside: long enough to be seen."""

_CREATE_TABLE = """
CREATE TABLE outbox (
    position   INTEGER PRIMARY KEY,
    event_id   TEXT NOT NULL UNIQUE,
    topic      TEXT NOT NULL,
    payload    BLOB NOT NULL,
    expendable INTEGER NOT NULL,
    put_at     REAL NOT NULL
)
"""
_CREATE_INDEX = "CREATE INDEX dropped_first ON outbox (expendable DESC, position)"
_DELETE_DAMAGED = """
DELETE FROM outbox WHERE typeof(payload) != 'blob' OR typeof(put_at) != 'real'
OR typeof(event_id) != 'text' OR event_id GLOB '*[^ -~]*'
OR typeof(topic) != 'text' OR topic GLOB '*[^ -~]*'
"""
_DAMAGED = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_READONLY,
)
"""While it is opened. A damaged head may also ask for a format that does not exist ("error"), or
that nobody writes ("read-only"; a file that may not be written was refused before)."""
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_SIDE_FILES = ("-wal", "-journal", "-shm")

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One event that waits for the broker.

    Attributes:
        position: Its place in the order of all events ever put.
        event_id: Unique.
        topic: Where it goes.
        payload: What goes there.
        durable: Whether it is on disk.
        expendable: Whether it is dropped before others where there are too many.
        put_at: Unix time of its coming in.
    """

    position: int
    event_id: str
    topic: str
    payload: bytes
    durable: bool
    expendable: bool
    put_at: float


class Outbox:
    """Events in the order they were put, on disk wherever the disk allows it.

    One thread, owned by this object, does all disk work; its methods are for the event
    loop. Only one process may hold the file. An operation that is cancelled while it
    waits is still carried out. Events that come while the disk works wait, and are then
    committed together: one commit costs the disk the same, however many events are in it.

    A disk that takes nothing (full, read-only, broken) loses no event: it is then kept in
    memory, and its row says that it is not durable. The disk is tried again every 2 s, and gets
    what is still in memory. What is too old or too much is dropped, oldest first, expendable
    ones before all others; every drop is counted and logged.

    A damaged file is set aside as ``<name>.corrupt-<time>`` and an empty one begun, since
    an old event is not worth a silent alarm; that is a fault for ten minutes.

    Args:
        path: The SQLite file; its folder is made if need be.
        max_age_s: Events older than this are dropped, seconds.
        max_rows: Events kept at most.
        now: Unix time; tests pass their own.

    Attributes:
        set_aside: Where a damaged file was moved by ``open``, else None.
        dropped: Events dropped so far because they were too old or too many.

    Example:
        async with Outbox(path=Path("outbox.sqlite"), max_age_s=259_200, max_rows=100_000) as box:
            await box.put("9f3c1e.0", "stream_classifier/bed3/alert/event", payload)
            for row in await box.pending():
                ...  # send it, then
                await box.delivered(row.event_id)
    """

    def __init__(
        self,
        *,
        path: Path,
        max_age_s: float,
        max_rows: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.max_age_s = max_age_s
        self.max_rows = max_rows
        self.set_aside: Path | None = None
        self.dropped = 0
        self._refusal: str | None = None  # what the disk refused last
        self._set_aside_at = -math.inf
        self._trying: asyncio.Task[None] | None = None
        self._now = now
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox")
        self._database: sqlite3.Connection | None = None
        self._is_open = False
        self._memory: list[OutboxRow] = []
        self._gone: set[str] = set()  # delivered, but not deleted yet
        self._last_position = 0
        self._latest_position: dict[str, int] = {}  # by topic; a row of memory comes to disk later
        self._n_rows = 0
        # All that wait, oldest first; None: there are more, or the disk takes none.
        self._held: dict[str, OutboxRow] | None = None
        self._arriving: list[tuple[OutboxRow, Future[bool]]] = []  # for the next commit
        self._n_putting = 0  # on their way to the disk
        self._counting = threading.Lock()  # for all of these; never kept while the disk works
        self._deleting: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Open the file.

        Raises:
            OutboxError: If another process holds it, it was written by a later version, or
                its folder cannot be written.
        """
        try:
            await self._on_thread(self._open)
        except BaseException:
            self._thread.shutdown()
            raise
        self._watch_disk()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of the file; events that wait stay in it."""
        if self._deleting is not None:
            self._deleting.cancel()
        if self._trying is not None:
            self._trying.cancel()
        await self._on_thread(self._close)
        self._thread.shutdown()

    @property
    def fault(self) -> str | None:
        """What is wrong with the file, in words; None once it takes events."""
        if self._refusal is not None:
            return self._refusal
        if self.set_aside is not None and self._now() < self._set_aside_at + SET_ASIDE_FAULT_S:
            return (
                f"was damaged and is set aside as {self.set_aside.name}; alerts that waited in it "
                "may not have been delivered. Try: look at the disk, and at that file"
            )
        return None

    @property
    def n_pending(self) -> int:
        """Events that wait for the broker."""
        with self._counting:
            return self._n_rows - len(self._gone) + len(self._memory)

    async def put(
        self, event_id: str, topic: str, payload: bytes, *, expendable: bool = False
    ) -> bool:
        """Keep an event until it is delivered. The same id twice is one event.

        Args:
            event_id: Unique.
            topic: Where it goes.
            payload: What goes there.
            expendable: Whether it may be dropped before others.

        Returns:
            Whether it is committed to disk; if not, it is kept in memory.
        """
        row = OutboxRow(0, event_id, topic, payload, True, expendable, self._now())
        taken: Future[bool] = Future()
        with self._counting:
            self._n_putting += 1
            self._arriving.append((row, taken))
        self._thread.submit(self._put_arrived)
        is_on_disk = await asyncio.shield(asyncio.wrap_future(taken))
        self._watch_disk()
        return is_on_disk

    async def pending(self, *, limit: int = 100) -> list[OutboxRow]:
        """Return the oldest events that wait, in the order they were put."""
        with self._counting:
            if self._held or (self._held is not None and not self._n_putting):
                return list(itertools.islice(self._held.values(), limit))
        return await self._on_thread(self._pending, limit)

    async def delivered(self, event_id: str) -> None:
        """Forget an event: the broker has it. An unknown id is no error."""
        with self._counting:
            was_held = self._held is not None and self._held.pop(event_id, None) is not None
            if was_held:
                self._gone.add(event_id)
        if not was_held:
            await self._on_thread(self._delivered, event_id)
        elif self._deleting is None:
            loop = asyncio.get_running_loop()
            self._deleting = loop.call_later(FORGET_AFTER_S, self._delete_soon)

    async def spend(self, nonce: str, *, until: float) -> bool:
        """Note that a command was carried out, so that it is not a second time.

        Args:
            nonce: What makes the command one of its kind.
            until: Unix time when the command becomes void, and its nonce may be forgotten.

        Returns:
            Whether the nonce is new and on disk now. Not if it was spent already, nor if too many
            are (10,000) or the disk takes none: what cannot be noted could be played again.
        """
        return await self._on_thread(self._spend, nonce, until)

    def _watch_disk(self) -> None:
        if self._refusal is not None and (self._trying is None or self._trying.done()):
            self._trying = asyncio.create_task(self._try_again(), name="outbox disk")

    async def _try_again(self) -> None:
        while self._refusal is not None:
            await asyncio.sleep(DISK_RETRY_S)
            await self._on_thread(self._recover)

    def _delete_soon(self) -> None:
        self._deleting = None
        self._thread.submit(self._delete_delivered)

    async def _on_thread(self, work: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._thread, work, *arguments))

    # What follows runs on the outbox's own thread.

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _make_private(self.path)
        except ValueError as error:  # a name that no file can have
            raise OutboxError(f"outbox {self.path}: {error}. Try: another outbox.path") from error
        except OSError as error:
            raise OutboxError(
                f"outbox {self.path} cannot be written: {error.strerror}. "
                "Try: another path (outbox.path)"
            ) from error
        try:
            self._database = self._connect()
            self._is_open = True
        except sqlite3.DatabaseError as error:
            if _code(error) in _NO_ROOM:  # detection matters more
                self._is_open = True
                self._report_refusal(f"cannot be begun, keeping events in memory: {error}")
                return
            if _code(error) not in _DAMAGED:
                raise self._explain(error) from error
            self.set_aside, self._set_aside_at = self._quarantine(), self._now()
            log.warning(
                "outbox %s is damaged (%s): set aside as %s, beginning an empty one. "
                "Alerts that waited in it may not have been delivered.",
                self.path,
                error,
                self.set_aside.name,
            )
            self._open()

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=LOCK_WAIT_S, isolation_level=None)
        try:
            # Exclusive, set before the first access: the file's lock is then kept until the
            # process ends, however it ends, and needs no lock file that could be left behind.
            database.execute("PRAGMA locking_mode=EXCLUSIVE")
            version = self._check(database)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            if version == 0:
                _create(database)
            database.execute(_CREATE_LATEST)
            self._drop_damaged(database)
            database.execute(_CREATE_SPENT)
            [(newest, self._n_rows)] = database.execute(
                "SELECT coalesce(max(position), 0), count(*) FROM outbox"
            )
            self._last_position = max(self._last_position, newest)
            if not self._n_rows and not self._memory:
                self._held = {}
        except UnicodeDecodeError as error:  # SQLite's complaint quotes the damaged schema
            database.close()
            raise _damage("its schema is no text") from error
        except BaseException:
            database.close()
            raise
        return database

    def _check(self, database: sqlite3.Connection) -> int:
        """Return the version of the file's schema, 0 for a new file; changes nothing."""
        [found] = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _damage(found)
        [version] = database.execute("PRAGMA user_version").fetchone()
        tables = dict(database.execute("SELECT name, sql FROM sqlite_master"))
        if version == 0 and tables and "outbox" not in tables:
            raise OutboxError(
                f"outbox {self.path} is another program's database: expected a table 'outbox', "
                f"found {', '.join(map(repr, tables))[:200]}. Try: another outbox.path"
            )
        if version <= SCHEMA_VERSION and (tables or version):
            made_so = str(tables.get("outbox")).split()
            if version != SCHEMA_VERSION or made_so != _CREATE_TABLE.split():
                raise _damage("its table is not as this program makes it")
        if version > SCHEMA_VERSION:
            raise OutboxError(
                f"outbox {self.path} was written by a later version of this program: expected "
                f"schema {SCHEMA_VERSION}, found {version}. Try: upgrade, or another outbox.path"
            )
        return int(version)

    def _explain(self, error: sqlite3.DatabaseError) -> OutboxError:
        if _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return OutboxError(
                f"outbox {self.path} is in use by another process: two would send each "
                "other's alerts. Try: stop the other one, or give this one its own outbox.path"
            )
        return OutboxError(f"outbox {self.path} cannot be opened: {error}")

    def _quarantine(self) -> Path:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now()))
        aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        n = 1
        while aside.exists():
            n += 1
            aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}-{n}")
        for suffix in ("", *_SIDE_FILES):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        return aside

    def _close(self) -> None:
        if self._memory:
            log.error("%d alert events that the disk did not take are lost", len(self._memory))
        self._delete_delivered()
        self._is_open = False
        if self._database is not None:
            self._database.close()
            self._database = None

    def _connected(self) -> sqlite3.Connection:
        if not self._is_open:
            raise OutboxError(f"outbox {self.path} is not open")
        if self._database is None:  # the disk was full; perhaps it has room now
            self._database = self._connect()
        return self._database

    def _put_arrived(self) -> None:
        with self._counting:
            arrived, self._arriving = self._arriving, []
        if not arrived:  # an earlier commit took them along
            return
        try:
            on_disk = self._take([row for row, _ in arrived])
        except BaseException as error:  # noqa: BLE001 - whoever waits for the event raises
            for _, taken in arrived:
                taken.set_exception(error)
        else:
            for (_, taken), is_on_disk in zip(arrived, on_disk, strict=True):
                taken.set_result(is_on_disk)
        finally:
            with self._counting:
                self._n_putting -= len(arrived)

    def _take(self, rows: list[OutboxRow]) -> list[bool]:
        """Commit events together, and say which are on disk now."""
        in_memory = {row.event_id for row in self._memory}
        new = [row for row in rows if row.event_id not in in_memory]
        if new:
            try:
                self._insert(self._connected(), new)
            except sqlite3.Error as error:
                if len(rows) > 1:  # perhaps the disk has room for some of them
                    return [self._take([row])[0] for row in rows]
                self._remember(rows[0], why=str(error))
                return [False]
            self._report_room()
        return [row.event_id not in in_memory for row in rows]

    def _insert(self, database: sqlite3.Connection, rows: list[OutboxRow]) -> None:
        """Commit rows in one transaction; those without a position come after all others."""
        if not rows:
            return
        new: list[OutboxRow] = []
        latest: dict[str, OutboxRow] = {}
        last_position = self._last_position
        with database:  # one transaction: committed at its end, or rolled back
            database.execute("BEGIN IMMEDIATE")
            gone, n_gone = self._delete_gone(database)
            for arrived in rows:
                row = replace(arrived, position=arrived.position or last_position + 1)
                if self._insert_row(database, row):
                    new.append(row)
                    last_position = max(last_position, row.position)
                if row.position >= self._latest_position.get(row.topic, 0):
                    latest[row.topic] = row
            n_dropped = self._drop_old(database, self._now() - self.max_age_s)
            n_dropped += self._drop_surplus(database, self._n_rows - n_gone + len(new) - n_dropped)
            database.executemany(
                "INSERT INTO latest (topic, payload) VALUES (?, ?) "
                "ON CONFLICT (topic) DO UPDATE SET payload = excluded.payload",
                [(topic, row.payload) for topic, row in latest.items()],
            )
        with self._counting:
            self._gone -= gone
            self._n_rows += len(new) - n_gone - n_dropped
            if n_dropped or (self._held is not None and len(self._held) + len(new) > HELD_ROWS):
                self._held = None
            elif self._held is not None:
                self._held |= {row.event_id: row for row in new}
        self._last_position = last_position
        self._latest_position |= {topic: row.position for topic, row in latest.items()}
        self._report_dropped(n_dropped)

    def _insert_row(self, database: sqlite3.Connection, row: OutboxRow) -> bool:
        """Return whether it is new."""
        done = database.execute(
            "INSERT INTO outbox (position, event_id, topic, payload, expendable, put_at) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING",
            (row.position, row.event_id, row.topic, row.payload, row.expendable, row.put_at),
        )
        return done.rowcount > 0

    def _remember(self, row: OutboxRow, *, why: str) -> None:
        self._report_refusal(f"takes no events, keeping them in memory: {why}")
        self._last_position += 1
        with self._counting:
            self._memory.append(replace(row, position=self._last_position, durable=False))
            self._held = None
        if len(self._memory) > MEMORY_ROWS:
            first = min(self._memory, key=lambda row: (not row.expendable, row.position))
            self._memory.remove(first)
            self._report_dropped(1)

    def _recover(self) -> None:
        """Give the disk what is in memory, if it takes anything again."""
        if not self._is_open:
            return
        rows = [replace(row, durable=True) for row in self._memory]
        try:
            database = self._connected()
            # Something has to be written to see whether there is room.
            database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._insert(database, rows)
        except sqlite3.Error as error:
            self._report_refusal(self._refusal or f"takes no events: {error}")
            return
        with self._counting:
            self._memory = []
        self._report_room()

    def _spend(self, nonce: str, until: float) -> bool:
        try:
            database = self._connected()
            with database:
                database.execute("BEGIN IMMEDIATE")
                database.execute("DELETE FROM spent WHERE until < ?", (self._now(),))
                [n_spent] = database.execute("SELECT count(*) FROM spent").fetchone()
                if n_spent >= MAX_SPENT:
                    log.warning("outbox %s: %d nonces are spent: no more", self.path, n_spent)
                    return False
                found = database.execute(
                    "INSERT INTO spent (nonce, until) VALUES (?, ?) ON CONFLICT DO NOTHING",
                    (nonce, until),
                )
                return found.rowcount > 0
        except sqlite3.Error as error:
            log.warning("outbox %s cannot note a command: %s", self.path, error)
            return False

    def _pending(self, limit: int) -> list[OutboxRow]:
        try:
            found = self._connected().execute(
                "SELECT position, event_id, topic, payload, expendable, put_at FROM outbox "
                "ORDER BY position LIMIT ?",
                (limit + len(self._gone),),
            )
            on_disk = [
                OutboxRow(position, event_id, topic, payload, True, bool(expendable), put_at)
                for position, event_id, topic, payload, expendable, put_at in found
                if event_id not in self._gone
            ]
        except sqlite3.Error as error:
            self._report_refusal(self._refusal or f"gives no events: {error}")
            on_disk = []
        rows = sorted((*on_disk, *self._memory), key=operator.attrgetter("position"))
        with self._counting:
            if self._n_rows == len(self._gone) and not self._memory:
                self._held = {}
        return rows[:limit]

    def _delivered(self, event_id: str) -> None:
        for row in self._memory:
            if row.event_id == event_id:
                self._memory.remove(row)
                return
        with self._counting:
            self._gone.add(event_id)
        self._delete_delivered()

    def _delete_delivered(self) -> None:
        if not self._gone:
            return
        with contextlib.suppress(sqlite3.Error):  # a full disk takes no deletion either
            database = self._connected()
            with database:
                database.execute("BEGIN IMMEDIATE")
                gone, n_gone = self._delete_gone(database)
            with self._counting:
                self._gone -= gone
                self._n_rows -= n_gone

    def _delete_gone(self, database: sqlite3.Connection) -> tuple[set[str], int]:
        """Delete what was delivered; return which ids that were, and how many were there."""
        with self._counting:
            gone = set(self._gone)
        ids = ((event_id,) for event_id in gone)
        n_gone = database.executemany("DELETE FROM outbox WHERE event_id = ?", ids).rowcount
        return gone, max(0, n_gone)

    def _drop_damaged(self, database: sqlite3.Connection) -> None:
        """Drop rows that no version of this program wrote: one of them would hold up all others."""
        n = database.execute(_DELETE_DAMAGED).rowcount
        if n:
            log.error("outbox %s: %d damaged rows dropped", self.path, n)

    def _drop_old(self, database: sqlite3.Connection, before: float) -> int:
        # The oldest row tells, so that a long queue is not searched at every event.
        oldest = database.execute("SELECT put_at FROM outbox ORDER BY position LIMIT 1").fetchone()
        if oldest is None or oldest[0] >= before:
            return 0
        return database.execute("DELETE FROM outbox WHERE put_at < ?", (before,)).rowcount

    def _drop_surplus(self, database: sqlite3.Connection, n_rows: int) -> int:
        if n_rows <= self.max_rows:
            return 0
        return database.execute(
            "DELETE FROM outbox WHERE position IN "
            "(SELECT position FROM outbox ORDER BY expendable DESC, position LIMIT ?)",
            (n_rows - self.max_rows,),
        ).rowcount

    def _report_refusal(self, refusal: str) -> None:
        if refusal != self._refusal:
            log.error("outbox %s %s", self.path, refusal)
        self._refusal = refusal

    def _report_room(self) -> None:
        if self._refusal is not None:
            log.warning("outbox %s takes events again", self.path)
        self._refusal = None

    def _report_dropped(self, n: int) -> None:
        if n:
            self.dropped += n
            log.error("outbox %s: %d undelivered events dropped (too old, too many)", self.path, n)


def _make_private(path: Path) -> None:
    """Make the file: SQLite would make it readable for all; its side files take over this mode.

    A link is not followed: whoever put it there could have us open, or make, any file of ours.
    """
    if path.is_symlink():  # not every system has O_NOFOLLOW, and what it says is "too many levels"
        raise OSError(errno.ELOOP, "it is a link")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    if path.parent.stat().st_mode & stat.S_IWOTH:
        log.warning(
            "outbox %s: any user may write its folder, and so have alerts of his sent as ours. "
            "Try: chmod o-w %s",
            path,
            path.parent,
        )


def _code(error: sqlite3.DatabaseError) -> int:
    """Return SQLite's primary code; the module's own complaint, of text that is none, has none."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF


def _damage(what: str) -> sqlite3.DatabaseError:
    damage = sqlite3.DatabaseError(what)
    damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return damage


def _create(database: sqlite3.Connection) -> None:
    with database:
        database.execute("BEGIN IMMEDIATE")
        database.execute(_CREATE_TABLE)
        database.execute(_CREATE_INDEX)
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def read_latest(path: Path, topic: str) -> bytes | None:
    """Return the newest event that was ever put under a topic. Blocks.

    None as well where the file cannot be read: whoever opens it next says why.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - False for names that no file can have, too
        return None
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=LOCK_WAIT_S)) as database:
            database.execute("PRAGMA locking_mode=EXCLUSIVE")
            row = database.execute(
                "SELECT payload FROM latest WHERE topic = ?", (topic,)
            ).fetchone()
    except (sqlite3.Error, UnicodeDecodeError):
        return None
    return row[0] if row is not None and isinstance(row[0], bytes) else None
