"""One function of a GPU over batches of any size, as CUDA graphs: a launch, not fifty.

A graph replays what was captured, on the same memory. So a batch is copied into buffers of the
next power of two, the places left over being filled with one that nobody owns, and each size is
captured when it is first needed (some 0.1 s). All graphs share one pool for what lies between:
nothing in it outlives a replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

N_WARM_UPS = 3
"""Runs before a capture, in which the libraries make the workspaces that they keep."""


class Graphs:
    """The graphs of one function; see the module.

    Whoever reallocates memory that the function uses makes a new one.

    Args:
        function: Takes whole numbers ``(n, B)`` and samples ``(B, n_samples)``, fills a result
            ``(B, n_results)``; decides nothing by their values.
        idle: The column of whole numbers that fills the places left over.
        n_samples: Of each row.
        n_results: Of each row.
        device: Of CUDA.
        pool: As ``new_pool`` gives it.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor, Tensor], None],
        *,
        idle: tuple[int, ...],
        n_samples: int,
        n_results: int,
        device: torch.device,
        pool: Any,
    ) -> None:
        self._function = function
        self._idle = torch.tensor(idle, device=device)[:, None]
        self._n_samples = n_samples
        self._n_results = n_results
        self._device = device
        self._pool = pool
        self._captured: dict[int, _Captured] = {}

    def __call__(self, numbers: Tensor, z: Tensor) -> Tensor:
        """Run the function; the result ``(B, n_results)`` lasts until the next call."""
        n = numbers.shape[1]
        size = 1 << (n - 1).bit_length()
        if (captured := self._captured.get(size)) is None:
            captured = self._captured[size] = self._capture(size)
        captured.numbers[:, :n] = numbers
        captured.numbers[:, n:] = self._idle
        captured.z[:n] = z
        captured.replay()
        return captured.result[:n]

    def _capture(self, size: int) -> _Captured:
        numbers = self._idle.repeat(1, size)
        z = torch.zeros((size, self._n_samples), device=self._device)
        result = torch.zeros((size, self._n_results), device=self._device)
        replay = capture(lambda: self._function(numbers, z, result), self._device, self._pool)
        return _Captured(numbers, z, result, replay)


@dataclass(frozen=True, slots=True, eq=False)
class _Captured:
    numbers: Tensor  # (n, B)
    z: Tensor  # (B, n_samples)
    result: Tensor  # (B, n_results)
    replay: Callable[[], None]


def new_pool() -> Any:
    """Return a pool of memory that graphs share."""
    return torch.cuda.graph_pool_handle()


def capture(function: Callable[[], None], device: torch.device, pool: Any) -> Callable[[], None]:
    """Capture a function, and return what replays it."""
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(N_WARM_UPS):
                function()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            function()
    replay: Callable[[], None] = graph.replay
    return replay
