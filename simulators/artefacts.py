"""What a head and the room around it add to EEG: blinks, chewing, motion.

Each is made in slots: a slot's shape depends on the random generator it is given and on nothing
else, begins and ends at 0, and repeats with another draw in the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLINK_S: Final = 0.35
CHEW_SHARE: Final = 0.6
"""Of a slot; the jaw opens in the rest."""

SWING_S: Final = (0.4, 1.5)
POP_DECAY_S: Final = 0.3
"""How fast an amplifier with a high-pass comes back from an electrode that jumped."""


def blink(
    rng: np.random.Generator, n_samples: int, n_channels: int, *, rate_hz: float, uv: float
) -> NDArray[np.float32]:
    """One blink of about ``uv`` at its peak, somewhere in the slot.

    Returns:
        Shape ``(n_samples, n_channels)``, µV, as for all of these.
    """
    n_blink = min(n_samples, round(BLINK_S * rate_hz))
    wave = np.zeros((n_samples, n_channels), np.float32)
    start = int(rng.integers(n_samples - n_blink + 1))
    wave[start : start + n_blink] = _hump(n_blink) * uv * rng.uniform(0.7, 1.3)
    return wave


def chew(
    rng: np.random.Generator, n_samples: int, n_channels: int, *, rate_hz: float, uv: float
) -> NDArray[np.float32]:
    """One bite: a burst of muscle, ``uv`` rms at its height, another on every channel."""
    del rate_hz  # the difference of white noise is fast at any rate
    n_bite = max(1, round(CHEW_SHARE * n_samples))
    noise = np.diff(rng.standard_normal((n_bite + 1, n_channels)), axis=0) / np.sqrt(2)
    wave = np.zeros((n_samples, n_channels), np.float32)
    wave[:n_bite] = _hump(n_bite) * uv * noise
    return wave


def motion(
    rng: np.random.Generator, n_samples: int, n_channels: int, *, rate_hz: float, uv: float
) -> NDArray[np.float32]:
    """One slow swing of about ``uv`` on all channels; in every other slot an electrode pops."""
    n_swing = min(n_samples, round(rng.uniform(*SWING_S) * rate_hz))
    start = int(rng.integers(n_samples - n_swing + 1))
    size = uv * rng.choice([-1, 1]) * rng.uniform(0.5, 1.5, size=n_channels)
    wave = np.zeros((n_samples, n_channels), np.float32)
    wave[start : start + n_swing] = _hump(n_swing) * size
    if rng.random() < 0.5:
        channel = int(rng.integers(n_channels))
        at = int(rng.integers(max(1, n_samples // 2)))
        since = np.arange(n_samples - at)
        fade = np.exp(-since / (POP_DECAY_S * rate_hz)) * (1 - since / (n_samples - at))
        wave[at:, channel] += (uv * fade).astype(np.float32)
    return wave


def _hump(n_samples: int) -> NDArray[np.float32]:
    """From 0 to 1 and back, softly; shape ``(n_samples, 1)``."""
    phase = (np.arange(n_samples) + 0.5) / n_samples
    return (np.sin(np.pi * phase) ** 2).astype(np.float32)[:, np.newaxis]
