"""How far a figure may be off: exact bounds for counts, a bootstrap over recordings for the rest.

Windows of one recording resemble one another. Whatever is drawn again is therefore a whole
recording, never a window: drawing windows would make every interval too narrow (Efron &
Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13 and 8.6; percentile method).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

N_BOOTSTRAP: Final = 2_000

Bounds = tuple[float, float]
"""Low and high end."""


def share_bounds(n_right: int, n: int, *, level: float = 0.95) -> Bounds:
    """Exact bounds of a share of independent trials (Clopper & Pearson, Biometrika 26:404, 1934).

    Args:
        n_right: How many of the trials succeeded.
        n: How many there were; none at all says nothing: 0 to 1.
        level: Confidence.

    Example:
        >>> [round(bound, 4) for bound in share_bounds(10, 10)]
        [0.6915, 1.0]
    """
    from scipy.special import betaincinv  # noqa: PLC0415 - only for scores

    if not 0 <= n_right <= n:
        raise ValueError(f"expected 0 to {n} successes, got {n_right}")
    tail = (1 - level) / 2
    low = 0.0 if n_right == 0 else float(betaincinv(n_right, n - n_right + 1, tail))
    high = 1.0 if n_right == n else float(betaincinv(n_right + 1, n - n_right, 1 - tail))
    return low, high


def rate_bounds(n_events: int, amount: float, *, level: float = 0.95) -> Bounds:
    """Exact bounds of the rate of a Poisson process (Garwood, Biometrika 28:437, 1936).

    Args:
        n_events: How many events were seen.
        amount: In how much time (or whatever the rate is per), above 0.
        level: Confidence.

    Example:
        >>> [round(bound, 3) for bound in rate_bounds(0, 1.0)]
        [0.0, 3.689]
    """
    from scipy.special import gammaincinv  # noqa: PLC0415 - only for scores

    if n_events < 0 or amount <= 0:
        raise ValueError(f"expected a count and an amount above 0, got {n_events}, {amount:g}")
    tail = (1 - level) / 2
    low = 0.0 if n_events == 0 else float(gammaincinv(n_events, tail))
    return low / amount, float(gammaincinv(n_events + 1, 1 - tail)) / amount


def sum_by_recording(
    values: NDArray[np.float64], recordings: NDArray[np.str_]
) -> NDArray[np.float64]:
    """Sum what windows contribute, recording by recording.

    Args:
        values: Shape ``(n_windows, n_terms)``.
        recordings: Shape ``(n_windows,)``, the recording of each window.

    Returns:
        Shape ``(n_recordings, n_terms)``, in the order of the sorted keys.
    """
    keys, of_key = np.unique(recordings, return_inverse=True)
    sums = np.zeros((len(keys), values.shape[1]))
    np.add.at(sums, of_key, values)
    return sums


def draw_sums(
    by_recording: NDArray[np.float64], *, seed: int, n_draws: int = N_BOOTSTRAP
) -> NDArray[np.float64]:
    """Draw recordings with replacement, and sum what they contribute.

    A figure that follows from sums over windows (counts, errors, bins) is worked out from each
    draw as it is from the whole; ``quantile_bounds`` of these is its interval.

    Args:
        by_recording: Shape ``(n_recordings, n_terms)``.
        seed: Of the draws.
        n_draws: How many.

    Returns:
        Shape ``(n_draws, n_terms)``.
    """
    n = len(by_recording)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_draws)
    return np.asarray(weights @ by_recording)


def quantile_bounds(drawn: NDArray[np.float64], *, level: float = 0.95) -> Bounds:
    """Percentile interval of a figure's draws, those without a value (NaN) left out."""
    tail = (1 - level) / 2
    return float(np.nanquantile(drawn, tail)), float(np.nanquantile(drawn, 1 - tail))
