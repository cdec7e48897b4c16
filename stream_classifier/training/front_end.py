"""What the data set's recordings go through before a model hears them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from scipy.signal import butter, iirnotch, tf2sos

from stream_classifier.bundle import FilterSpec, GainSpec
from stream_classifier.detection.filters import CausalFilters
from stream_classifier.detection.resampler import Resampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_HZ: Final = 178.0
"""Of the models; the rate at which the rows of the data set are replayed."""

TRUE_RATE_HZ: Final = 173.61
"""At which the data set was recorded (Andrzejak et al., Phys. Rev. E 64, 061907, 2001)."""

HIGH_PASS_HZ: Final = 0.5
LOW_PASS_HZ: Final = 40.0
NOTCH_Q: Final = 10.0
"""A notch 5 to 6 Hz wide: wide enough for a mains frequency that drifts, and quick to settle."""

SETTLE_S: Final = 1.0
"""The 0.5 Hz high-pass has forgotten 85% of a step by then (95% after 1.4 s); it starts in steady
state, so that what is left is a small sway and not the step of an electrode's offset."""

GAIN: Final = GainSpec(target_uv=40.0)
"""The robust deviation of the data set's background, filtered, has a median of about 40 µV."""

FrontEndName = Literal["as published", "headset"]


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """Rate, filters and gain that a model is trained behind and runs behind.

    Attributes:
        data_rate_hz: Rate at which the data set's samples are taken to have been recorded.
        filters: Causal filters at ``RATE_HZ``, in order.
        gain: How a live channel's amplitude is calibrated; None: not at all.
    """

    data_rate_hz: float
    filters: tuple[FilterSpec, ...]
    gain: GainSpec | None

    def prepare(self, run_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take one run of the data set through rate and filters, at 50 Hz mains.

        Args:
            run_uv: Shape ``(n,)``, contiguous samples, µV.

        Returns:
            Shape ``(m,)``, µV at ``RATE_HZ``, without what the filters need to settle.
        """
        resampler = Resampler(in_hz=self.data_rate_hz, out_hz=RATE_HZ, n_channels=1)
        resampler.restart(0)
        applied = [f for f in self.filters if f.mains_hz in (None, 50.0)]
        filters = CausalFilters([f.sos for f in applied], n_channels=1)
        settle_s = max((f.settle_s for f in applied), default=0.0)
        out: NDArray[np.float32] = filters.feed(resampler.feed(run_uv[:, None]))[:, 0]
        return out[round(settle_s * RATE_HZ) :]


def front_end(name: FrontEndName) -> FrontEnd:
    """Return the front end of that name.

    ``as published`` takes the rows as they are, at 178 Hz, as the literature does. ``headset``
    takes the recordings at their true rate, resampled to 178 Hz, and leaves what a headset
    delivers: 0.5 to 40 Hz, and no mains.
    """
    if name == "as published":
        return FrontEnd(data_rate_hz=RATE_HZ, filters=(), gain=None)
    high = butter(2, HIGH_PASS_HZ, "highpass", fs=RATE_HZ, output="sos")
    low = butter(4, LOW_PASS_HZ, "lowpass", fs=RATE_HZ, output="sos")
    return FrontEnd(
        data_rate_hz=TRUE_RATE_HZ,
        filters=(
            FilterSpec(_sections(high), SETTLE_S, f"high-pass {HIGH_PASS_HZ:g} Hz, Butterworth 2"),
            FilterSpec(_sections(low), 0.1, f"low-pass {LOW_PASS_HZ:g} Hz, Butterworth 4"),
            *(
                FilterSpec(
                    _sections(tf2sos(*iirnotch(mains_hz, NOTCH_Q, fs=RATE_HZ))),
                    0.2,
                    f"notch {mains_hz:g} Hz",
                    mains_hz=mains_hz,
                )
                for mains_hz in (50.0, 60.0)
            ),
        ),
        gain=GAIN,
    )


def _sections(sos: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(number) for number in section) for section in sos)
