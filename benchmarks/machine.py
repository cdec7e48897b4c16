"""What the figures were measured on, and keeping a measurement to one core of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np


def describe() -> dict[str, str | int | float | None]:
    """Return the processor, its cores, how busy it is, and the versions everything runs on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": load_average(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def load_average() -> float | None:
    """Return how many tasks ran or waited over the last minute; None where nobody counts."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


@contextmanager
def one_core() -> Iterator[int | None]:
    """Keep this process and its libraries' threads to one core; give which, or None.

    Everything is as before afterwards. Where a process cannot be kept to a core, one thread a
    library has to do.
    """
    with ExitStack() as stack:
        with suppress(ModuleNotFoundError):  # it comes with the torch extra
            from threadpoolctl import threadpool_limits

            stack.enter_context(threadpool_limits(limits=1))
        if not hasattr(os, "sched_setaffinity"):
            yield None
            return
        # Pools that are up already have threads of their own, each with its own affinity.
        tasks = [int(task.name) for task in Path("/proc/self/task").iterdir()]
        before = {task: os.sched_getaffinity(task) for task in tasks}
        core = max(os.sched_getaffinity(0))
        for task in tasks:
            stack.callback(_keep, task, before[task])
            _keep(task, {core})
        yield core


def _keep(task: int, cores: set[int]) -> None:
    with suppress(ProcessLookupError):  # the thread has ended
        os.sched_setaffinity(task, cores)
