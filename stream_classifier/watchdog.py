"""Who watches the watchman: a thread beside the event loop, and word to the service manager.

A blocked loop publishes nothing, and cannot say so. So a thread asks it for a sign of life again
and again; what it learns is logged with the place where the loop hangs, and counted.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Self

ASK_EVERY_S = 0.05
"""How often the loop is asked for a sign of life."""

STALL_S = 0.03
"""A sign of life that takes longer is a stall. Together with the line above, below 0.1 s: a block
of 0.1 s is one whenever it begins."""

TELL_AFTER_S = 1.0
"""So long a stall is logged, with the place where the loop hangs."""

WORTH_A_WORD_S = 0.1
QUIET_S = 5.0
"""After a word about a short stall, the next ones are only counted for so long."""

GIVE_UP_AFTER_S = 60.0
"""After so long the process ends itself, so that a service manager starts it again."""

LOG = logging.getLogger(__name__)


class LoopWatchdog:
    """Notices that the event loop it was made on is blocked; use as a context manager.

    Args:
        give_up: Called on the watchdog's thread after ``GIVE_UP_AFTER_S``; ends the process.

    Attributes:
        n_stalls: How often the loop was blocked for 0.1 s or more (some shorter ones count).
        longest_s: The longest of them.
    """

    def __init__(self, give_up: Callable[[], None] | None = None) -> None:
        self.n_stalls = 0
        self.longest_s = 0.0
        self._give_up = give_up or _end_process
        self._told_s = -math.inf
        self._stop = threading.Event()
        self._alive = threading.Event()

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._alive.set()
        self._thread.join(STALL_S)

    def _watch(self) -> None:
        while not self._stop.wait(ASK_EVERY_S):
            asked_s = time.monotonic()
            self._alive.clear()
            if self._stop.is_set():  # set before what was just cleared, or else that is set again
                return
            try:
                self._loop.call_soon_threadsafe(self._alive.set)
            except RuntimeError:  # the loop is closed
                return
            if self._alive.wait(STALL_S):
                continue
            self._wait_out(asked_s)

    def _wait_out(self, asked_s: float) -> None:
        if not self._alive.wait(TELL_AFTER_S - STALL_S):
            LOG.error("the event loop has been blocked for %g s:\n%s", TELL_AFTER_S, self._where())
            if not self._alive.wait(GIVE_UP_AFTER_S - TELL_AFTER_S):
                LOG.critical("the event loop has been blocked for %g s: ending", GIVE_UP_AFTER_S)
                self._give_up()
                return
        blocked_s = time.monotonic() - asked_s
        if self._stop.is_set():
            return
        self.n_stalls += 1
        self.longest_s = max(self.longest_s, blocked_s)
        level = logging.WARNING
        if blocked_s < TELL_AFTER_S:  # short ones come in swarms: one word for each swarm
            is_long = blocked_s + ASK_EVERY_S >= WORTH_A_WORD_S  # it was asked up to so late
            is_told = is_long and asked_s - self._told_s > QUIET_S
            level = logging.INFO if is_told else logging.DEBUG
        if level > logging.DEBUG:
            self._told_s = asked_s
        LOG.log(
            level,
            "the event loop was blocked for %.2f s (%d times so far)",
            blocked_s,
            self.n_stalls,
        )

    def _where(self) -> str:
        frame = sys._current_frames().get(self._watched)  # noqa: SLF001 - documented, for debugging
        return "".join(traceback.format_stack(frame, limit=8)) if frame is not None else ""


def _end_process() -> None:
    logging.shutdown()
    os._exit(1)


class ServiceManager:
    """Tells systemd how things stand (``sd_notify``); without one, nobody.

    What a service manager told us is read once, from the environment: ``NOTIFY_SOCKET``, and
    ``WATCHDOG_USEC`` where it wants a sign of life.

    See https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html

    Attributes:
        alive_every_s: How often to call ``alive``; None: nobody waits for it.
    """

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        waits_us = os.environ.get("WATCHDOG_USEC", "")
        is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        waits = is_ours and waits_us.isdecimal() and int(waits_us) > 0
        self.alive_every_s = int(waits_us) / 3e6 if waits else None

    def ready(self, status: str) -> None:
        """Say that the service is at work."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """Say how it does, for ``systemctl status``."""
        self._send(f"STATUS={_line(status)}")

    def alive(self) -> None:
        """Give a sign of life."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that it is on its way out."""
        self._send("STOPPING=1")

    def _send(self, words: str) -> None:
        if not self._address or not hasattr(socket, "AF_UNIX"):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.setblocking(False)
                out.sendto(words.encode(), address)
        except OSError as error:
            LOG.debug("the service manager does not listen: %s", error)


def _line(text: str) -> str:
    return " ".join(text.split())
