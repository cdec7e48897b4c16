"""Any sampling rate to the model's, causally, and exactly the same however it is cut.

A windowed-sinc interpolator (Kaiser window; Oppenheim & Schafer, Discrete-Time Signal
Processing, 3rd ed., sections 7.6 and 4.6) evaluated at exact rational positions: output
*k* is the signal at time ``k / out_hz``, so the filter's delay is already taken out of the
time stamps and shows up where it belongs, as latency. Rates are nominal and constant; a
device that runs 0.1% fast is a matter for the time stamps, not for the signal.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

HALF_WIDTH_PERIODS = 12
"""Kernel half width in periods of the lower rate: 67 ms of delay at 178 Hz."""

CUTOFF = 0.45
"""-6 dB point as a share of the lower rate: flat to 0.37, 60 dB down from 0.53 of it."""

KAISER_BETA = 5.65
"""60 dB of stop-band attenuation (Kaiser's formula, 0.1102 (A - 8.7))."""

MAX_PHASES = 4096
"""Sub-sample positions tabulated; odd rate pairs round to the nearest (under -70 dB)."""


class Resampler:
    """One run of samples from one rate to another.

    Only outputs whose whole kernel lies inside the run are produced: nothing is padded,
    so ``delay_s`` of signal is lost at either end of a run.

    Not thread-safe.

    Args:
        in_hz: Nominal rate of the samples fed, above 0.
        out_hz: Rate wanted, above 0. Equal rates pass samples through untouched.
        n_channels: Values in each sample.

    Example:
        >>> resampler = Resampler(in_hz=356, out_hz=178, n_channels=1)
        >>> resampler.restart(0)
        >>> out = resampler.feed(np.ones((200, 1), np.float32))
        >>> resampler.next_index - len(out), len(out), bool(np.allclose(out, 1, atol=1e-3))
        (12, 76, True)
    """

    def __init__(self, *, in_hz: float, out_hz: float, n_channels: int) -> None:
        if not (in_hz > 0 and out_hz > 0 and math.isfinite(in_hz) and math.isfinite(out_hz)):
            raise ValueError(f"rates must be finite and above 0 Hz, got {in_hz:g}, {out_hz:g}")
        # Inputs per output, exact: 250 Hz -> 178 Hz is 125/89.
        self._step = Fraction(in_hz).limit_denominator(10_000) / Fraction(out_hz).limit_denominator(
            10_000
        )
        self._passes_through = self._step == 1
        self._n_phases = min(self._step.denominator, MAX_PHASES)
        half_width = HALF_WIDTH_PERIODS * max(1.0, in_hz / out_hz)  # in input samples
        self._reach = math.ceil(half_width)
        self._kernels = _kernels(self._n_phases, self._reach, half_width)
        self.delay_s = 0.0 if self._passes_through else (self._reach + 1) / in_hz
        self._held = np.zeros((0, n_channels), dtype=np.float32)
        self._held_index = 0
        self.next_index = 0
        """Absolute index, at the output rate, of the next sample to come out."""

    def restart(self, first_index: int) -> None:
        """Begin a new run; the next sample fed has this absolute index at the input rate."""
        self._held = self._held[:0]
        self._held_index = first_index
        if self._passes_through:
            self.next_index = first_index
        else:
            self.next_index = math.ceil((first_index + self._reach) / self._step)

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add samples and return what they complete.

        Args:
            samples: Shape ``(n_samples, n_channels)``, the next ones of this run.

        Returns:
            Shape ``(n_out, n_channels)``, float32; the first has index ``next_index`` as it
            was before the call.
        """
        if self._passes_through:
            self.next_index += len(samples)
            return samples
        held = np.concatenate([self._held, samples])
        end = self._held_index + len(held)
        # Output k sits at input position k * step = base + phase / n_phases and needs the
        # inputs base - reach .. base + reach + 1.
        last = math.ceil((end - self._reach - 1) / self._step) - 1
        n_out = max(0, last + 1 - self.next_index)
        if not n_out:
            self._held = held
            return np.empty((0, samples.shape[1]), dtype=np.float32)
        base, phases = self._positions(self.next_index, n_out)
        base -= self._held_index
        kernels = self._kernels[phases]  # (n_out, n_taps)
        out = np.zeros((n_out, samples.shape[1]))
        # Tap by tap, so that each output is summed in one order however many there are:
        # a matrix product would give other last bits for other chunk sizes.
        for tap in range(kernels.shape[1]):
            out += kernels[:, tap, None] * held[base + (tap - self._reach)]
        self.next_index += n_out
        first_needed = int(self._positions(self.next_index, 1)[0][0]) - self._reach
        n_spent = min(max(0, first_needed - self._held_index), len(held))
        self._held = held[n_spent:]
        self._held_index += n_spent
        return out.astype(np.float32)

    def needs(self, index: int) -> int:
        """Return how far the input must reach for an output: the index after its last sample."""
        if self._passes_through:
            return index + 1
        return math.floor(index * self._step) + self._reach + 2

    def _positions(self, first: int, n_out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Input sample before each output, and the phase from there on, in whole numbers."""
        step, n_phases = self._step, self._n_phases
        whole, rest = divmod(first * step.numerator, step.denominator)  # of any size
        parts = rest + np.arange(n_out, dtype=np.int64) * step.numerator
        base, beyond = np.divmod(parts, step.denominator)
        phases = (2 * beyond * n_phases + step.denominator) // (2 * step.denominator)
        base += whole + phases // n_phases  # a phase that rounds to the next sample
        return base, phases % n_phases


@lru_cache(maxsize=64)
def _kernels(n_phases: int, reach: int, half_width: float) -> NDArray[np.float64]:
    """Return one kernel a phase, shape ``(n_phases, 2 reach + 2)``, each summing to 1."""
    phases = np.arange(n_phases)[:, None] / n_phases
    distance = np.arange(-reach, reach + 2)[None, :] - phases  # (n_phases, n_taps)
    lower_rate = HALF_WIDTH_PERIODS / half_width  # of the input rate
    inside = np.sqrt(np.clip(1 - (distance / half_width) ** 2, 0, None))
    window = np.where(np.abs(distance) <= half_width, np.i0(KAISER_BETA * inside), 0)
    kernel = np.sinc(2 * CUTOFF * lower_rate * distance) * window
    kernels = np.asarray(kernel / kernel.sum(axis=1, keepdims=True))
    kernels.flags.writeable = False  # shared by all resamplers of these rates
    return kernels
