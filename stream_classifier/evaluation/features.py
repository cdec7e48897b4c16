"""What the eye compares in two stretches of EEG: rhythms and size, whatever the phase."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

BANDS_HZ: Final = {
    "delta": (0.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 13.0),
    "beta": (13.0, 30.0),
    "gamma": (30.0, 48.0),
    "above mains": (54.0, 89.0),
}
"""The usual bands of EEG, and what lies above the mains line; the line itself is in none."""


def band_features(windows_uv: NDArray[np.float32], *, rate_hz: float) -> NDArray[np.float32]:
    """Logarithms of band power and line length.

    Power is that of the mean-free window under a Hann taper. Line length, the sum of absolute
    differences, is the classic single feature of seizure detection (Esteller et al., Line
    length: an efficient feature for seizure onset detection, EMBC 2001).

    Args:
        windows_uv: Shape ``(n, n_samples)``, µV.
        rate_hz: Of the samples.

    Returns:
        Shape ``(n, 7)``: the bands of ``BANDS_HZ`` in dB of 1 µV², then line length in dB of
        1 µV a sample.

    Example:
        >>> t = np.arange(120, dtype=np.float32) / 178
        >>> ten_hz = band_features(np.sin(2 * np.pi * 10 * t)[None], rate_hz=178)[0, :6]
        >>> list(BANDS_HZ)[ten_hz.argmax()]
        'alpha'
    """
    n = windows_uv.shape[1]
    taper = np.hanning(n).astype(np.float32)
    centred = windows_uv - windows_uv.mean(axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(centred * taper, axis=1)) ** 2 / np.sum(taper**2) / n
    hz = np.fft.rfftfreq(n, 1 / rate_hz)
    bands = [power[:, (low <= hz) & (hz < high)].sum(axis=1) for low, high in BANDS_HZ.values()]
    line = np.abs(np.diff(windows_uv, axis=1)).mean(axis=1)
    floor = 1e-3  # far below the 1 µV steps of the converter; a flat window is not minus infinity
    return np.stack(
        [*(10 * np.log10(band + floor) for band in bands), 20 * np.log10(line + floor)], axis=1
    ).astype(np.float32)
