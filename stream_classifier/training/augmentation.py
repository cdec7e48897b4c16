"""What a head does to a signal, for training: background beneath, artefacts, gain, noise.

The data set's recordings were chosen, by eye, to be free of artefacts, and its seizures were
recorded inside the skull. On a head a seizure is smaller, lies on top of the background that goes
on beneath it, and shares the electrode with blinks, muscle and motion. All of that is made here,
for training only; the label stays that of the recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from pydantic import ConfigDict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stream_classifier.training.material import Material

_RATE_HZ: Final = 178.0
_SEIZURE: Final = 0
"""Target of the seizure recordings: their label, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How much is done, and how often.

    Attributes:
        mix_share: Share of the seizures that are laid over a background.
        mix_rms_uv: Smallest and largest rms of such a seizure; drawn evenly in its logarithm.
        background_uv: Robust deviation that the background is brought to: the gain's target.
        artefact_share: Share of the stretches with an artefact.
        gain_deviation: Standard deviation of the logarithm of the gain.
        noise_uv: White noise of up to this standard deviation is added.

    Raises:
        ValueError: If a number is out of range.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    mix_share: float = 0.3
    mix_rms_uv: tuple[float, float] = (60.0, 400.0)
    background_uv: float = 40.0
    artefact_share: float = 0.3
    gain_deviation: float = 0.3
    noise_uv: float = 4.0

    def __post_init__(self) -> None:
        if not (0 <= self.mix_share <= 1 and 0 <= self.artefact_share <= 1):
            raise ValueError("shares must be 0 to 1")
        if not 0 < self.mix_rms_uv[0] <= self.mix_rms_uv[1] or self.background_uv <= 0:
            raise ValueError("expected 0 < mix_rms_uv low <= high, and background_uv above 0")
        if self.gain_deviation < 0 or self.noise_uv < 0:
            raise ValueError("gain_deviation and noise_uv must not be negative")


def augment(
    signal: NDArray[np.float32],
    targets: NDArray[np.int64],
    splices: NDArray[np.intp],
    how: Augmentation,
    rng: np.random.Generator,
    *,
    material: Material,
) -> NDArray[np.float32]:
    """Return stretches as a head would deliver them.

    Args:
        signal: Shape ``(n_stretches, n_samples)``, µV; left as it is.
        targets: Shape ``(n_stretches, 2)``, labels from 0, before and after the splice.
        splices: Shape ``(n_stretches,)``, first sample of the second recording.
        how: How much of it.
        rng: Draws everything.
        material: Where backgrounds are drawn from.
    """
    out = signal.astype(np.float32, copy=True)
    n, n_samples = out.shape
    # A seizure from or to the splice: where the stretch's recording is a seizure.
    at = np.arange(n_samples)[None]
    is_seizure = np.where(at < splices[:, None], targets[:, :1], targets[:, 1:]) == _SEIZURE
    mixed = np.flatnonzero(is_seizure.any(axis=1) & (rng.random(n) < how.mix_share))
    if len(mixed):
        backgrounds = _draw_background(material, rng, len(mixed), how.background_uv)
        low, high = np.log(how.mix_rms_uv)
        rms_uv = np.exp(rng.uniform(low, high, len(mixed)))
        for row, background, rms in zip(mixed, backgrounds, rms_uv, strict=True):
            ictal = is_seizure[row]
            found = max(float(out[row, ictal].std()), 1.0)
            out[row, ictal] = out[row, ictal] * np.float32(rms / found) + background[ictal]
    for row in np.flatnonzero(rng.random(n) < how.artefact_share):
        out[row] += artefact(n_samples, rng)
    out *= np.exp(how.gain_deviation * rng.standard_normal((n, 1))).astype(np.float32)
    noise_uv = how.noise_uv * rng.random((n, 1), np.float32)
    out += noise_uv * rng.standard_normal(out.shape, np.float32)
    return out


def artefact(n_samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """One artefact somewhere in a stretch, µV: blinks, muscle, an electrode's pop, or movement.

    Shapes and sizes after Urigüen & Garcia-Zapirain, EEG artifact removal: state-of-the-art and
    guidelines, J. Neural Eng. 12, 031001 (2015): blinks some 0.1 to 0.4 s and up to 0.5 mV, muscle
    above 15 Hz, pops that decay as the amplifier's high-pass lets them.
    """
    t = np.arange(n_samples) / _RATE_HZ
    centre_s = rng.uniform(0, n_samples / _RATE_HZ)
    sign = rng.choice((-1.0, 1.0))
    kind = rng.integers(4)
    if kind == 0:
        out = np.zeros(n_samples)
        for _ in range(rng.integers(1, 5)):
            blink_s, width_s = rng.uniform(0, n_samples / _RATE_HZ), rng.uniform(0.05, 0.3)
            out += sign * rng.uniform(50, 400) * np.exp(-(((t - blink_s) / width_s) ** 2) / 2)
    elif kind == 1:
        rough = np.diff(rng.standard_normal(n_samples + 2))
        band = (rough[1:] + rough[:-1]) / 2  # nothing at 0 Hz, nothing at half the rate
        rise = np.clip(1 - np.abs(t - centre_s) / rng.uniform(0.2, 2), 0, 1)
        out = rng.uniform(20, 150) * rise * band
    elif kind == 2:
        since_s = np.clip(t - centre_s, 0, None)
        pop = np.exp(-since_s / rng.uniform(0.05, 0.8))
        out = sign * rng.uniform(50, 600) * (t >= centre_s) * pop
    else:
        rise = np.exp(-(((t - centre_s) / rng.uniform(0.5, 2)) ** 2) / 2)
        sway = np.sin(2 * np.pi * (rng.uniform(0.3, 3) * t + rng.random()))
        out = rng.uniform(50, 300) * rise * sway
    return out.astype(np.float32)


def _draw_background(
    material: Material, rng: np.random.Generator, n: int, deviation_uv: float
) -> NDArray[np.float32]:
    """Stretches without a seizure, each brought to a robust deviation."""
    found: list[NDArray[np.float32]] = []
    while len(found) < n:
        signal, labels = material.draw(rng, 2 * n)
        found += list(signal[labels - 1 != _SEIZURE])
    chosen = np.stack(found[:n])
    middle = np.median(chosen, axis=1, keepdims=True)
    robust_uv = 1.4826 * np.median(np.abs(chosen - middle), axis=1, keepdims=True)
    out: NDArray[np.float32] = chosen * (deviation_uv / np.maximum(robust_uv, 5.0))
    return out.astype(np.float32)
