"""EEG from a model of the cortex, for when there is no data set.

Each channel sees two patches of cortex, each a neural mass: populations of pyramidal cells,
excitatory, slow and fast inhibitory interneurons that excite and inhibit each other. One
patch can go into seizure, the other hums in the alpha band throughout. It is a caricature
with the right amplitudes and rhythms, not a patient.

References:
    B. H. Jansen and V. G. Rit, "Electroencephalogram and visual evoked potential generation
    in a mathematical model of coupled cortical columns", Biol. Cybern. 73, 357-366, 1995:
    the populations, the sigmoid, e0, v0, r, a, b, C and C1..C4.

    F. Wendling, F. Bartolomei, J. J. Bellanger and P. Chauvel, "Epileptic fast activity can
    be explained by a model of impaired GABAergic dendritic inhibition", Eur. J. Neurosci.
    15, 1499-1508, 2002: fast inhibition (G, g, C5..C7), and the values of A, B and G that
    give background activity, rhythmic spikes, and slow rhythmic (alpha-like) activity.

What differs from them: the linear synapses are advanced exactly over a step while firing
rates are held (exponential Euler), which stays stable at long steps where Euler does not;
input noise is white noise of a density, so that results do not depend on the step; the
output passes the 1 s time constant of an AC-coupled amplifier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from simulators.blocks import RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Regime:
    """How strongly a patch's synapses act; this alone decides what it does.

    Attributes:
        excitation_mv: A, of excitatory synapses.
        slow_inhibition_mv: B, of slow inhibitory synapses.
        fast_inhibition_mv: G, of fast inhibitory synapses.
    """

    excitation_mv: float
    slow_inhibition_mv: float
    fast_inhibition_mv: float


BACKGROUND: Final = Regime(5.0, 50.0, 15.0)
"""Activity between seizures (Wendling et al. 2002, type 1)."""

ICTAL: Final = Regime(5.0, 25.0, 15.0)
"""Rhythmic spikes of a seizure, 4 to 5 a second (type 3): slow inhibition has halved."""

ALPHA: Final = Regime(5.0, 10.0, 15.0)
"""Slow rhythmic activity of about 10 Hz (type 4)."""

# Jansen & Rit 1995; Wendling et al. 2002.
_E0_HZ: Final = 2.5  # half of the greatest firing rate
_V0_MV: Final = 6.0  # potential at which it is reached
_R_PER_MV: Final = 0.56  # slope of the sigmoid
_A_HZ, _B_HZ, _G_HZ = 100.0, 50.0, 500.0  # inverse time constants of the synapses
_C: Final = 135.0
_C1, _C2, _C3, _C4, _C5, _C6, _C7 = (share * _C for share in (1.0, 0.8, 0.25, 0.25, 0.3, 0.1, 0.8))
_INPUT_HZ: Final = 90.0  # mean of the input from elsewhere

# Chosen here, against the data set's seizures and the scalp recordings of its healthy people
# (medians: 276 and 42 to 58 µV rms, 4.9 Hz, line length 22% and 29 to 33% of the rms a sample).
_INPUT_NOISE: Final = 2.5  # density of the input's noise, Hz per square root of Hz
_UV_PER_MV: Final = 52.0  # what the electrode sees of the potential
_ALPHA_SHARE: Final = 0.5  # of the patch that hums
_SLOW_UV, _SLOW_S = 20.0, 0.16  # slow potentials: rms, correlation time (1 Hz)
_AMPLIFIER_UV: Final = 1.0  # its noise, rms
_WANDER, _WANDER_S, _WANDER_MAX = 0.08, 2.0, 0.16  # of slow inhibition: rms, time, bound
_COUPLING_S: Final = 1.0  # time constant of the amplifier's AC coupling
_TEMPO_SPREAD: Final = (0.95, 1.1)  # of a channel's synapses; 1 is the literature's
_GAIN_SPREAD: Final = (0.85, 1.2)  # of a channel's electrode

_STEPS: Final = 4  # of integration a sample: 1.4 ms
_DRAWS: Final = 2 * _STEPS + 3  # random numbers a sample and channel
_WARM_UP_S: Final = 4.0

# Rows: potentials y0..y4 at which the sigmoids are evaluated; y0 pyramidal output, y1
# excitation, y2 slow inhibition, y3 fast inhibition, y4 slow inhibition of the fast one.
_POTENTIALS: Final = np.array(
    [[0, 1, -1, -1, 0], [_C1, 0, 0, 0, 0], [_C3, 0, 0, 0, 0], [_C5, 0, 0, 0, -_C6]]
)
# Rows: what drives y0..y4, of the four firing rates.
_DRIVES: Final = np.array(
    [[1, 0, 0, 0], [0, _C2, 0, 0], [0, 0, _C4, 0], [0, 0, 0, _C7], [0, 0, 1, 0]]
)
_RATES: Final = np.array([_A_HZ, _A_HZ, _B_HZ, _G_HZ, _B_HZ])[:, np.newaxis]  # (5, 1)


class NeuralMass:
    """A head of independent channels, each with its own seed, tempo and electrode.

    However a run is cut into calls of :meth:`run`, the samples are the same, and a channel
    is the same whatever the number of others (to the rounding of the arithmetic).

    Args:
        n_channels: At least 1.
        seed: Of everything random.
        rate_hz: Samples a second, 100 or more (below, the integration is too coarse).
        ramp_s: How long a change of regime takes, along a raised cosine.
        regime: At the start.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        *,
        n_channels: int,
        seed: int = 0,
        rate_hz: float = RATE_HZ,
        ramp_s: float = 0.25,
        regime: Regime = BACKGROUND,
    ) -> None:
        if n_channels < 1 or rate_hz < 100 or ramp_s < 0:
            raise ValueError(
                "expected n_channels >= 1, rate_hz >= 100, ramp_s >= 0, "
                f"got {n_channels}, {rate_hz}, {ramp_s}"
            )
        self.n_channels = n_channels
        self._rngs = [np.random.default_rng([seed, channel]) for channel in range(n_channels)]
        tempo = np.array([rng.uniform(*_TEMPO_SPREAD) for rng in self._rngs])
        self._gain_uv = _UV_PER_MV * np.array([rng.uniform(*_GAIN_SPREAD) for rng in self._rngs])

        # Columns: the patches that can go into seizure, then those that hum.
        self._k = _RATES * np.concatenate((tempo, tempo))  # (5, 2 n_channels)
        self._dt_s = 1 / (rate_hz * _STEPS)
        decay = np.exp(-self._k * self._dt_s)
        kt = self._k * self._dt_s
        # Exact solution of y'' + 2 k y' + k^2 y = k u over one step of constant u.
        self._yy, self._yz = decay * (1 + kt), decay * self._dt_s
        self._zy, self._zz = -decay * kt * self._k, decay * (1 - kt)
        self._yu, self._zu = (1 - decay * (1 + kt)) / self._k, decay * kt
        self._y = np.zeros_like(self._k)
        self._z = np.zeros_like(self._k)

        self._wander = np.zeros(n_channels)
        self._slow_uv = np.zeros(n_channels)
        self._wander_keep = math.exp(-1 / (rate_hz * _WANDER_S))
        self._slow_keep = math.exp(-1 / (rate_hz * _SLOW_S))
        self._coupling_keep = math.exp(-1 / (rate_hz * _COUPLING_S))
        self._drift_uv = np.zeros(n_channels)

        self._from = self._to = _as_array(regime)
        self._ramp_samples = max(1, round(ramp_s * rate_hz))
        self._ramp_at = self._ramp_samples
        self.run(round(_WARM_UP_S * rate_hz))

    def set_regime(self, regime: Regime) -> None:
        """Begin to change to another regime with the next sample."""
        self._from = self._synapses_mv()
        self._to = _as_array(regime)
        self._ramp_at = 0

    def run(self, n_samples: int) -> NDArray[np.float32]:
        """Let time pass.

        Returns:
            Shape ``(n_samples, n_channels)``, µV.
        """
        noise = np.stack([rng.standard_normal((n_samples, _DRAWS)) for rng in self._rngs], axis=2)
        out = np.empty((n_samples, self.n_channels), dtype=np.float32)
        for sample, draws in enumerate(noise):  # (_DRAWS, n_channels)
            out[sample] = self._sample(draws)
        return out

    def _sample(self, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """Advance by one sample and return it, shape ``(n_channels,)``, µV."""
        if self._ramp_at < self._ramp_samples:
            self._ramp_at += 1
        self._wander = _follow(self._wander, self._wander_keep, _WANDER, draws[-3])
        self._slow_uv = _follow(self._slow_uv, self._slow_keep, _SLOW_UV, draws[-2])

        n = self.n_channels
        excitation, slow, fast = self._synapses_mv()
        # Never below the regime's value, where background would break into single spikes.
        patch_slow = slow * (1 + np.minimum(np.abs(self._wander), _WANDER_MAX))
        gains = np.empty_like(self._k)  # mV, of y0..y4
        gains[:, n:] = _ALPHA_GAINS
        gains[:2, :n], gains[3, :n], gains[2, :n], gains[4, :n] = (
            excitation, fast, patch_slow, patch_slow,
        )  # fmt: skip
        noise = draws[: 2 * _STEPS].reshape(_STEPS, 2 * n) * (_INPUT_NOISE / self._dt_s**0.5)
        y, z = self._y, self._z
        for step in range(_STEPS):
            firing = 2 * _E0_HZ / (1 + np.exp(_R_PER_MV * (_V0_MV - _POTENTIALS @ y)))  # (4, 2n)
            drive = _DRIVES @ firing
            drive[1] += _INPUT_HZ + noise[step]
            u = gains * drive
            y, z = (
                self._yy * y + self._yz * z + self._yu * u,
                self._zy * y + self._zz * z + self._zu * u,
            )
        self._y, self._z = y, z

        potential = y[1] - y[2] - y[3]  # of the pyramidal cells, mV
        cortex_uv = self._gain_uv * (potential[:n] + _ALPHA_SHARE * potential[n:])
        seen_uv = cortex_uv + self._slow_uv
        self._drift_uv += (1 - self._coupling_keep) * (seen_uv - self._drift_uv)
        return np.asarray(seen_uv - self._drift_uv + _AMPLIFIER_UV * draws[-1])

    def _synapses_mv(self) -> NDArray[np.float64]:
        """A, B and G at this moment of the ramp."""
        share = 0.5 - 0.5 * math.cos(math.pi * self._ramp_at / self._ramp_samples)
        return self._from + share * (self._to - self._from)


def _as_array(regime: Regime) -> NDArray[np.float64]:
    return np.array([regime.excitation_mv, regime.slow_inhibition_mv, regime.fast_inhibition_mv])


def _follow(
    value: NDArray[np.float64], keep: float, rms: float, draw: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One step of an Ornstein-Uhlenbeck process."""
    return keep * value + rms * math.sqrt(1 - keep * keep) * draw


_ALPHA_GAINS: Final = _as_array(ALPHA)[[0, 0, 1, 2, 1]][:, np.newaxis]  # of y0..y4, (5, 1)
