"""A blocked event loop is noticed from beside it; the service manager hears how things stand."""

import asyncio
import logging
import os
import socket
import sys
import time

import pytest

from stream_classifier import watchdog
from stream_classifier.watchdog import LoopWatchdog, ServiceManager
from tests.live_broker import until


def hang_in_a_library(seconds):
    time.sleep(seconds)


async def blocked_for(seconds):
    """Block the loop as a call that should not be made on it does."""
    with LoopWatchdog() as dog:
        await asyncio.sleep(0.12)
        assert dog.n_stalls == 0
        hang_in_a_library(seconds)
        free_s = time.monotonic()
        await until(lambda: dog.n_stalls, within_s=1.0)
        return dog, time.monotonic() - free_s


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.5])
async def test_a_block_is_counted_at_once_and_as_long_as_it_was(seconds):
    dog, told_after_s = await blocked_for(seconds)
    assert dog.n_stalls == 1
    assert told_after_s < 0.5
    assert seconds - watchdog.ASK_EVERY_S - 0.05 <= dog.longest_s <= seconds + 0.5


@pytest.mark.parametrize("phase_s", [0.0, 0.01, 0.02, 0.03, 0.04, 0.049])
async def test_a_tenth_of_a_second_is_a_stall_whenever_it_begins(phase_s):
    with LoopWatchdog() as dog:
        await asyncio.sleep(0.1 + phase_s)
        n_before = dog.n_stalls
        hang_in_a_library(0.1)
        await until(lambda: dog.n_stalls > n_before, within_s=1.0)


async def test_a_long_block_is_told_with_the_place_while_it_lasts_and_with_its_length_after(caplog):
    caplog.set_level(logging.DEBUG)
    begun_s = time.time()
    await blocked_for(1.5)
    first, second = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "blocked for 1 s" in first.getMessage()
    assert "hang_in_a_library" in first.getMessage()
    assert first.created - begun_s < 0.12 + 1.5  # while it hung
    assert "was blocked for 1." in second.getMessage()


async def test_short_blocks_are_no_warning_and_a_swarm_of_them_is_one_word(caplog):
    caplog.set_level(logging.INFO)
    with LoopWatchdog() as dog:
        for n in range(1, 4):
            await asyncio.sleep(0.12)
            hang_in_a_library(0.2)
            await until(lambda n=n: dog.n_stalls >= n, within_s=1.0)
    (said,) = caplog.records
    assert said.levelno == logging.INFO
    assert "was blocked for 0." in said.getMessage()


async def test_a_loop_that_only_works_hard_is_not_blocked():
    with LoopWatchdog() as dog:
        ends_s = time.monotonic() + 0.5
        while time.monotonic() < ends_s:
            sum(range(10_000))
            await asyncio.sleep(0)
    assert dog.longest_s < 0.3


async def test_a_loop_that_hangs_for_good_ends_the_process(monkeypatch, caplog):
    monkeypatch.setattr(watchdog, "TELL_AFTER_S", 0.1)
    monkeypatch.setattr(watchdog, "GIVE_UP_AFTER_S", 0.3)
    given_up = []
    with LoopWatchdog(give_up=lambda: given_up.append(time.monotonic())):
        await asyncio.sleep(0.1)
        begun_s = time.monotonic()
        hang_in_a_library(0.6)
    assert len(given_up) == 1
    assert 0.2 < given_up[0] - begun_s < 0.55
    assert "ending" in caplog.text


async def test_leaving_ends_its_thread():
    with LoopWatchdog() as dog:
        thread = dog._thread
        assert thread.is_alive()
    thread.join(1.0)
    assert not thread.is_alive()


@pytest.fixture
def manager_at(tmp_path, monkeypatch):
    """A service manager's socket; returns what it is told, message by message."""
    sockets = []

    def listen(address):
        server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sockets.append(server)
        server.bind("\0" + address[1:] if address.startswith("@") else address)
        server.settimeout(2.0)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        return lambda: server.recv(4096).decode()

    yield listen
    for server in sockets:
        server.close()


needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")


@needs_unix
def test_a_service_manager_hears_ready_status_life_and_the_end(manager_at, tmp_path):
    heard = manager_at(str(tmp_path / "notify"))
    manager = ServiceManager()
    manager.ready("attached to bed3")
    assert heard() == "READY=1\nSTATUS=attached to bed3"
    manager.status("fault: outlet fault:\ngone\r\nREADY=0")
    assert heard() == "STATUS=fault: outlet fault: gone READY=0"  # one line, whatever a name holds
    manager.alive()
    assert heard() == "WATCHDOG=1"
    manager.stopping()
    assert heard() == "STOPPING=1"


@needs_linux
def test_an_abstract_address_is_one_too(manager_at):
    heard = manager_at(f"@stream-classifier-test-{os.getpid()}")
    ServiceManager().alive()
    assert heard() == "WATCHDOG=1"


@pytest.mark.parametrize("address", [None, "", "/no/such/socket", "relative", "x" * 200])
def test_without_one_that_listens_nothing_happens(address, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    manager = ServiceManager()
    manager.ready("x")
    manager.alive()
    manager.stopping()


@needs_unix
def test_a_manager_that_does_not_read_holds_nobody_up(manager_at, tmp_path):
    manager_at(str(tmp_path / "notify"))
    manager = ServiceManager()
    begun_s = time.monotonic()
    for _ in range(2000):  # more than any queue of a socket holds
        manager.status("x" * 1000)
    assert time.monotonic() - begun_s < 2.0


@pytest.mark.parametrize(
    ("usec", "pid", "every_s"),
    [
        ("30000000", None, 10.0),
        ("30000000", "ours", 10.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("-5", None, None),
        ("soon", None, None),
        ("", None, None),
    ],
)
def test_it_gives_a_sign_of_life_three_times_as_often_as_is_wanted_of_this_process(
    usec, pid, every_s, monkeypatch
):
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)
    assert ServiceManager().alive_every_s == every_s
