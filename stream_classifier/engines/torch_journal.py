"""What the host keeps of streams whose state is on a GPU, so as to go on without it."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_classifier.engines.plan import Plan
from stream_classifier.engines.torch_stem import Blocks

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

KEPT_SAMPLES: Final = 1024
"""Of a continuous stream, at least: 5.75 s. The state must be copied to the host before they are
full (at most once in 2.9 s, some 8 kB a channel), and all since are run again if the GPU is lost
(some 0.3 ms a channel on one core). Half as many would double the one and halve the other."""


class Journal:
    """The newest blocks of every lane, in a ring; a run's block *i* is at ``i % n_kept``.

    A windowed decision depends on its window only: the blocks of the unfinished windows, and those
    that fill the convolutions before them, are all there is to know. In continuous mode they are
    the blocks since the state was last copied to the host.

    Memory of a lane: for the shipped networks 0.5 kB windowed, 4 kB continuous.

    Args:
        plan: Of the bundle's run.
        blocks: Likewise.
        n_rows: Lanes.
    """

    def __init__(self, plan: Plan, blocks: Blocks, *, n_rows: int) -> None:
        stride = blocks.stride_samples
        of_a_window = blocks.n_warm + plan.n_steps - 1  # at most: it is unfinished
        self.n_kept = of_a_window if plan.is_windowed else max(of_a_window, KEPT_SAMPLES // stride)
        self._z = np.zeros((n_rows, self.n_kept, stride), np.float32)

    def grow(self, n_rows: int) -> None:
        """Make room for more lanes."""
        more = np.zeros((n_rows - len(self._z), *self._z.shape[1:]), np.float32)
        self._z = np.concatenate([self._z, more])

    def write(self, rows: I64, blocks: I64, z: F32) -> None:
        """Keep the newest of these blocks.

        Args:
            rows: Shape ``(L,)``.
            blocks: Likewise: number of each one's first block.
            z: Shape ``(L, n, stride)``.
        """
        n_left_out = max(0, z.shape[1] - self.n_kept)
        self._z[rows[:, None], self._places(blocks + n_left_out, z.shape[1] - n_left_out)] = z[
            :, n_left_out:
        ]

    def read(self, rows: I64, blocks: I64, n: int) -> F32:
        """Return blocks, shape ``(L, n, stride)``, from each lane's first on, ``(L,)``."""
        return self._z[rows[:, None], self._places(blocks, n)]

    def _places(self, blocks: I64, n: int) -> I64:
        return (blocks[:, None] + np.arange(n)) % self.n_kept
