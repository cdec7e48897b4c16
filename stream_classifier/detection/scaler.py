"""Microvolts to z-scores, with constants that never change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FrozenScaler:
    """The training data's mean and deviation, applied for ever.

    A scaler that adapts to the stream would normalise away the very rise in amplitude
    that a seizure is, so nothing here is ever refitted.

    Attributes:
        mean_uv: Mean of the training samples, µV.
        std_uv: Their standard deviation, µV, above 0.

    Example:
        >>> FrozenScaler(mean_uv=1.0, std_uv=2.0).scale(np.float32([[5.0]])).item()
        2.0
    """

    mean_uv: float
    std_uv: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mean_uv) and np.isfinite(self.std_uv) and self.std_uv > 0):
            raise ValueError(f"scaler needs finite mean and std > 0, got {self}")

    def scale(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return z-scores of the same shape, float32."""
        return (samples - np.float32(self.mean_uv)) / np.float32(self.std_uv)
