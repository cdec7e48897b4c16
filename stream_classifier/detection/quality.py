"""Is this window worth classifying? The hard limits, channel by channel.

Only what can be no EEG at all is refused here. The limits leave a wide margin to the Epileptic
Seizure Recognition data set, whose 11,500 rows range over: peak to peak in 30 samples at
least 10 µV; in 120 samples at most 3.7 mV; mean of 120 samples at most 0.34 mV.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLAT_UV = 1.0
"""Less than this peak to peak for ``FLAT_SAMPLES``: an electrode off, a railed amplifier,
or volts taken for microvolts."""

FLAT_SAMPLES = 30
"""0.17 s at 178 Hz."""

RANGE_UV = 10_000.0
"""More than this peak to peak in one window: motion, a lost contact, or a wrong unit."""

OFFSET_UV = 500.0
"""A mean beyond this, for a bundle that does not remove offsets itself. Smaller ones degrade its
decisions, too; but the data set has means of up to 340 µV, so they are no reason to refuse."""

NOT_FINITE = "not finite"
FLAT = "flat"
OUT_OF_RANGE = "out of range"
OFFSET = "offset"
USABLE = ""


def judge(window: NDArray[np.float32], *, limit_offset: bool) -> tuple[str, ...]:
    """Say of each channel why it cannot be classified.

    Args:
        window: Shape ``(n_samples, n_channels)``, µV, before the bundle's filters.
        limit_offset: Whether an offset matters: True for a bundle without a high-pass.

    Returns:
        One word a channel: "" where it can be classified, else the reason.

    Example:
        >>> ramp = np.linspace(0, 50, 120, dtype=np.float32)
        >>> judge(np.stack([ramp, ramp * 0, ramp + 4100], axis=1), limit_offset=True)
        ('', 'flat', 'offset')
    """
    finite = np.isfinite(window).all(axis=0)
    known = np.where(np.isfinite(window), window, 0)
    n_blocks = len(known) // FLAT_SAMPLES
    blocks = known[-n_blocks * FLAT_SAMPLES :].reshape(n_blocks, FLAT_SAMPLES, -1)
    flat = (np.ptp(blocks, axis=1) < FLAT_UV).any(axis=0)
    out_of_range = np.ptp(known, axis=0) > RANGE_UV
    offset = limit_offset & (np.abs(known.mean(axis=0)) > OFFSET_UV)
    reasons = np.select(
        [~finite, flat, out_of_range, offset],
        [NOT_FINITE, FLAT, OUT_OF_RANGE, OFFSET],
        default=USABLE,
    )
    return tuple(reasons.tolist())
