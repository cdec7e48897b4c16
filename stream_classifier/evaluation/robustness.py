"""What is left of a model's figures when the signal is not quite that of the data set.

Whole recordings are changed, as an amplifier, a room or a radio link would, and then go through the
bundle's resampler and filters. One random window of each row is decided, the same one under every
condition (save in the 67 ms at either end of a recording that resampling costs). The gain is
not calibrated and no window is refused: this is the model, not what protects it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_classifier.evaluation.heldout import MAINS_HZ, data_rate_hz, row_probabilities
from stream_classifier.evaluation.windows import count, summarise
from stream_classifier.signals import CLASS_NAMES

if TYPE_CHECKING:
    from stream_classifier.bundle import Bundle
    from stream_classifier.datasets import SeizureRows

F32 = NDArray[np.float32]

DROPOUT_SAMPLES: Final = 12
"""67 ms at 178 Hz: shorter than what is refused as flat."""

DROPOUT_EVERY_SAMPLES: Final = 89
"""One in each half second, so that every window has one: 13% of the samples are lost."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One way to change a recording.

    Attributes:
        name: For people.
        distort: From samples ``(n_samples, n_lanes)``, µV, their rate and a random generator to
            samples of the same shape.
        rate_hz: Rate at which the recording is fed instead of its own; None: its own.
    """

    name: str
    distort: Callable[[F32, float, np.random.Generator], NDArray[Any]] | None = None
    rate_hz: float | None = None


@dataclass(frozen=True, slots=True)
class RobustnessLine:
    """Figures under one condition.

    Attributes:
        condition: Its name.
        accuracy: Share of the windows that was right.
        macro_f1: Mean of the classes' F1.
        seizure_recall: Share of the seizure windows that was recognised.
        seizure_precision: Share of the windows called seizure that was one; None if none was.
    """

    condition: str
    accuracy: float
    macro_f1: float
    seizure_recall: float
    seizure_precision: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the line as JSON values."""
        return asdict(self)


def gain(factor: float) -> Condition:
    """Another amplitude."""
    return Condition(f"gain x{factor:g}", lambda x, _rate, _rng: x * factor)


def hum(amplitude_uv: float) -> Condition:
    """Mains hum added, a sine of random phase in each recording."""

    def add(x: F32, rate_hz: float, rng: np.random.Generator) -> NDArray[np.float64]:
        phase = rng.uniform(0, 2 * np.pi, size=x.shape[1])
        angle = 2 * np.pi * MAINS_HZ * np.arange(len(x))[:, None] / rate_hz + phase
        return np.asarray(x + amplitude_uv * np.sin(angle))

    return Condition(f"{MAINS_HZ:g} Hz hum, {amplitude_uv:g} µV amplitude", add)


def offset(offset_uv: float) -> Condition:
    """An electrode's offset added."""
    return Condition(f"offset +{offset_uv:g} µV", lambda x, _rate, _rng: x + offset_uv)


def noise(rms_uv: float) -> Condition:
    """White noise added."""
    return Condition(
        f"white noise, {rms_uv:g} µV rms",
        lambda x, _rate, rng: x + rng.normal(0, rms_uv, x.shape),
    )


def dropouts() -> Condition:
    """Short losses that a device hides by repeating its last value."""

    def lose(x: F32, _rate: float, rng: np.random.Generator) -> F32:
        x = x.copy()
        for lane in range(x.shape[1]):
            for start in range(1, len(x) - DROPOUT_EVERY_SAMPLES + 1, DROPOUT_EVERY_SAMPLES):
                at = start + int(rng.integers(DROPOUT_EVERY_SAMPLES - DROPOUT_SAMPLES))
                x[at : at + DROPOUT_SAMPLES, lane] = x[at - 1, lane]
        return x

    return Condition("dropouts of 67 ms, 2 a second", lose)


def fed_at(rate_hz: float) -> Condition:
    """The same signal from a device of another rate."""
    return Condition(f"fed at {rate_hz:g} Hz", rate_hz=rate_hz)


CONDITIONS: Final = (
    Condition("clean"),
    *(gain(factor) for factor in (0.25, 0.5, 2.0, 4.0)),
    *(hum(amplitude_uv) for amplitude_uv in (10.0, 20.0)),
    offset(200.0),
    *(noise(rms_uv) for rms_uv in (5.0, 10.0, 20.0)),
    dropouts(),
    *(fed_at(rate_hz) for rate_hz in (250.0, 256.0, 500.0)),
)


def robustness(
    bundle: Bundle,
    rows: SeizureRows,
    numbers: NDArray[np.intp],
    *,
    seed: int,
    conditions: Sequence[Condition] = CONDITIONS,
    on_done: Callable[[int], None] = lambda _: None,
) -> tuple[RobustnessLine, ...]:
    """Score the same windows under one condition after the other.

    Args:
        bundle: The model.
        rows: The data set.
        numbers: Numbers of held-out rows, shape ``(n,)``.
        seed: Picks the windows, and draws noise, phases and dropouts.
        conditions: Which.
        on_done: Called with 1 after each.
    """
    truth = rows.classes[numbers].astype(np.intp)
    lines = []
    for condition in conditions:
        probabilities = row_probabilities(
            bundle,
            rows,
            numbers,
            seed=seed,
            distort=_distortion(condition, data_rate_hz(bundle), seed),
            rate_hz=condition.rate_hz,
        )
        confusion = count(truth, probabilities.argmax(axis=1))
        figures = summarise(confusion)
        n_called = int(confusion[:, 0].sum())
        lines.append(
            RobustnessLine(
                condition=condition.name,
                accuracy=figures.accuracy,
                macro_f1=figures.macro_f1,
                seizure_recall=figures.recall[CLASS_NAMES[0]],
                seizure_precision=int(confusion[0, 0]) / n_called if n_called else None,
            )
        )
        on_done(1)
    return tuple(lines)


def _distortion(condition: Condition, data_hz: float, seed: int) -> Callable[[F32], F32]:
    def change(x: F32) -> F32:
        if condition.distort is not None:
            x = condition.distort(x, data_hz, np.random.default_rng(seed)).astype(np.float32)
        return x if condition.rate_hz is None else _resample(x, data_hz, condition.rate_hz)

    return change


def _resample(x: F32, from_hz: float, to_hz: float) -> F32:
    """What a device of another rate would have sampled: not by the resampler under test."""
    from scipy.signal import resample_poly  # noqa: PLC0415 - 60 MB; only here

    ratio = Fraction(to_hz).limit_denominator(100) / Fraction(from_hz).limit_denominator(100)
    padded = resample_poly(x, ratio.numerator, ratio.denominator, axis=0, padtype="line")
    return np.asarray(padded, dtype=np.float32)
