"""Running asyncio from a command, and ending it as people and service managers do."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import TypeVar

import typer

T = TypeVar("T")


def run_until_stopped(main: Coroutine[object, object, T]) -> T:
    """Run to the end, or until the first SIGTERM (exit code 0) or SIGINT (130).

    That first signal cancels ``main``, which then cleans up; later ones are ignored, since
    wrappers and impatient people send several, and half a clean-up tells subscribers that the
    classifier died.

    Raises:
        typer.Exit: When a signal ended it.
    """
    from stream_classifier.sinks.connection import event_loop_factory  # noqa: PLC0415

    received: list[signal.Signals] = []

    async def until_stopped() -> T:
        task = asyncio.current_task()

        def stop(number: signal.Signals) -> None:
            if task is not None and not received:
                task.cancel()
            received.append(number)

        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C alone, by asyncio itself
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop, number)
        return await main

    try:
        with asyncio.Runner(loop_factory=event_loop_factory) as runner:
            return runner.run(until_stopped())
    except asyncio.CancelledError:
        for number in (signal.SIGTERM, signal.SIGINT):  # the process is on its way out
            signal.signal(number, signal.SIG_IGN)
        raise typer.Exit(0 if received[:1] == [signal.SIGTERM] else 130) from None
