"""Whole recordings, each by itself, through filters, scaler and engine: what every window says.

The stages are the detector's own and the probabilities are the detector's to the bit (a test holds
them to that); they run for many recordings side by side, as the channels of one stream, which is
what makes scoring quick. Left out is what is no part of the model: the quality gate (so that every
window is decided and none is passed over) and the gain, which is 1 for the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_classifier.datasets import ROW_SAMPLES
from stream_classifier.detection.filters import CausalFilters
from stream_classifier.detection.resampler import Resampler
from stream_classifier.detection.scaler import FrozenScaler
from stream_classifier.engines import make_engine
from stream_classifier.engines.reference import classify_windows
from stream_classifier.evaluation.windows import Figures, WindowReport, count, summarise

if TYPE_CHECKING:
    from stream_classifier.bundle import Bundle
    from stream_classifier.datasets import SeizureRows
    from stream_classifier.signals import Engine

F32 = NDArray[np.float32]

MAINS_HZ: Final = 50.0
"""Of the hospital that the data set comes from."""

SMOOTHING_S: Final = (0.0, 1.0, 2.0, 5.0)
"""Times over which decisions are averaged when they are compared; 0 is one window."""

_MAX_LANES: Final = 128
"""Recordings that run side by side: more are no quicker."""

Decided = tuple[NDArray[np.intp], F32]
"""Of one recording: the index, at the bundle's rate, of each window's last sample, shape
``(n_windows,)``, and the probabilities, ``(n_windows, 3)``."""


def data_rate_hz(bundle: Bundle) -> float:
    """Rate that the data set's samples had in this bundle's training.

    The 178 Hz that its rows suggest, unless the bundle says otherwise (173.61 Hz, the true one).
    """
    return float(bundle.provenance.get("data_rate_hz", 178.0))


def held_out_probabilities(
    bundle: Bundle,
    rows: SeizureRows,
    keys: Sequence[str],
    *,
    engine: Engine | None = None,
    on_done: Callable[[int], None] = lambda _: None,
) -> dict[str, Decided]:
    """Play recordings, each by itself from its first sample, and keep what every window says.

    Args:
        bundle: The model.
        rows: The data set.
        keys: Which recordings.
        engine: What runs the model; None makes one.
        on_done: Called with the number of recordings finished since the last call.

    Returns:
        By key, in the order given.
    """
    engine = make_engine(bundle) if engine is None else engine
    decided: dict[str, Decided] = {}
    for start in range(0, len(keys), _MAX_LANES):
        some = keys[start : start + _MAX_LANES]
        signal_uv = np.stack([rows.recording(key) for key in some], axis=1)
        ends, probabilities = decide(bundle, signal_uv, rate_hz=data_rate_hz(bundle), engine=engine)
        decided |= {key: (ends, probabilities[:, lane]) for lane, key in enumerate(some)}
        on_done(len(some))
    return decided


def condition(bundle: Bundle, signal_uv: F32, *, rate_hz: float) -> tuple[int, F32]:
    """Resample and filter as the detector does.

    Args:
        bundle: The model.
        signal_uv: Shape ``(n_samples, n_lanes)``, µV.
        rate_hz: Its rate.

    Returns:
        The index of the first sample, and samples at the bundle's rate, ``(n, n_lanes)``, µV.
    """
    n_lanes = signal_uv.shape[1]
    resampler = Resampler(in_hz=rate_hz, out_hz=bundle.rate_hz, n_channels=n_lanes)
    resampler.restart(0)
    first = resampler.next_index
    resampled = resampler.feed(signal_uv.astype(np.float32))
    sections = [f.sos for f in bundle.filters if f.mains_hz in {None, MAINS_HZ}]
    return first, CausalFilters(sections, n_channels=n_lanes).feed(resampled)


def decide(
    bundle: Bundle, signal_uv: F32, *, rate_hz: float, engine: Engine | None = None
) -> tuple[NDArray[np.intp], F32]:
    """Decide all windows of recordings of equal length, side by side.

    Args:
        bundle: The model.
        signal_uv: Shape ``(n_samples, n_lanes)``, µV.
        rate_hz: Its rate.
        engine: What runs the model; None makes one.

    Returns:
        Index, at the bundle's rate, of each window's last sample, ``(n_windows,)``; and
        probabilities, ``(n_windows, n_lanes, 3)``.
    """
    engine = make_engine(bundle) if engine is None else engine
    first, samples_uv = condition(bundle, signal_uv, rate_hz=rate_hz)
    scaler = FrozenScaler(mean_uv=bundle.scaler_mean_uv, std_uv=bundle.scaler_std_uv)
    handle = engine.open(samples_uv.shape[1])
    try:
        probabilities = engine.feed({handle: scaler.scale(samples_uv)})[handle]
    finally:
        engine.close(handle)
    ends = first + bundle.window_samples - 1 + engine.hop_samples * np.arange(len(probabilities))
    return ends.astype(np.intp), probabilities


def score_rows(
    bundle: Bundle, rows: SeizureRows, numbers: NDArray[np.intp], *, seed: int
) -> tuple[WindowReport, F32]:
    """One random window of each row, with the signal before it in filters and state.

    Args:
        bundle: The model, of any mode, with or without filters.
        rows: The data set.
        numbers: Numbers of the rows, shape ``(n,)``.
        seed: Picks the windows. Of a bundle in windowed mode without filters they are those
            of ``windows.score``.

    Returns:
        The report, and the probabilities that it was decided by, shape ``(n, 3)``.
    """
    probabilities = row_probabilities(bundle, rows, numbers, seed=seed)
    return (
        WindowReport(
            truth=rows.classes[numbers].astype(np.intp),
            decided=probabilities.argmax(axis=1),
            recordings=rows.recordings[numbers],
            seed=seed,
        ),
        probabilities,
    )


def row_probabilities(
    bundle: Bundle,
    rows: SeizureRows,
    numbers: NDArray[np.intp],
    *,
    seed: int,
    distort: Callable[[F32], F32] = lambda signal_uv: signal_uv,
    rate_hz: float | None = None,
) -> F32:
    """Probabilities of one random window of each row, shape ``(n, 3)``; see ``decide_rows``."""
    _, probabilities = decide_rows(
        bundle, rows, numbers, seeds=(seed,), distort=distort, rate_hz=rate_hz
    )
    return np.asarray(probabilities[0])


def row_means(
    bundle: Bundle, rows: SeizureRows, numbers: NDArray[np.intp], *, seed: int, n_windows: int = 8
) -> F32:
    """Mean probabilities of several random windows of each row, shape ``(n, 3)``."""
    seeds = range(seed, seed + n_windows)
    return np.asarray(decide_rows(bundle, rows, numbers, seeds=seeds)[1].mean(axis=0))


def decide_rows(
    bundle: Bundle,
    rows: SeizureRows,
    numbers: NDArray[np.intp],
    *,
    seeds: Sequence[int],
    distort: Callable[[F32], F32] = lambda signal_uv: signal_uv,
    rate_hz: float | None = None,
) -> tuple[NDArray[np.intp], F32]:
    """Decide random windows of rows: one of each row for each seed.

    Each row's whole recording is conditioned, so that filters have settled; the window lies
    wholly within its row. In continuous mode the decision is one of those that the running
    engine makes within the row.

    Args:
        bundle: The model.
        rows: The data set.
        numbers: Numbers of the rows, shape ``(n,)``.
        seeds: Each picks one window of each row.
        distort: Changes recordings of shape ``(n_samples, n_lanes)``, µV, before anything else.
        rate_hz: Rate of what ``distort`` returns; None: that of the data.

    Returns:
        Index, at the bundle's rate and in its recording, of each window's last sample, shape
        ``(n_seeds, n)``; and probabilities, ``(n_seeds, n, 3)``.
    """
    data_hz, length = data_rate_hz(bundle), bundle.window_samples
    keys = list(dict.fromkeys(rows.recordings[numbers].tolist()))
    lane_of = {key: lane for lane, key in enumerate(keys)}
    lanes = np.array([lane_of[key] for key in rows.recordings[numbers].tolist()])
    signal_uv = distort(np.stack([rows.recording(key) for key in keys], axis=1))
    fed_hz = data_hz if rate_hz is None else rate_hz
    # Where each row begins and ends, at the bundle's rate.
    scale = ROW_SAMPLES / data_hz * bundle.rate_hz
    begin = np.ceil((rows.chunks[numbers] - 1) * scale - 1e-6).astype(np.intp)
    end = np.floor(rows.chunks[numbers] * scale + 1e-6).astype(np.intp)
    if bundle.mode == "continuous":
        ends, decided = decide(bundle, signal_uv, rate_hz=fed_hz)
        low = np.searchsorted(ends, begin + length - 1)
        high = np.searchsorted(ends, end)
        chosen = [_between(seed, low, high) for seed in seeds]
        return np.stack([ends[c] for c in chosen]), np.stack([decided[c, lanes] for c in chosen])
    offset, samples_uv = condition(bundle, signal_uv, rate_hz=fed_hz)
    low = np.maximum(begin, offset)
    high = np.minimum(end, offset + len(samples_uv)) - length + 1
    starts = np.stack([_between(seed, low, high) for seed in seeds])
    cut = (starts - offset)[..., None] + np.arange(length)  # (n_seeds, n, length)
    windows = samples_uv[cut, lanes[:, None]]
    return starts + length - 1, np.stack([classify_windows(bundle, some) for some in windows])


def _between(seed: int, low: NDArray[np.intp], high: NDArray[np.intp]) -> NDArray[np.intp]:
    """Integers from ``low`` to below ``high``, drawn as ``windows.draw_windows`` draws them."""
    return np.asarray(low + np.random.default_rng(seed).integers(high - low))


@dataclass(frozen=True, slots=True, eq=False)
class Smoothed:
    """Decisions by the mean of the class probabilities over the last seconds.

    Attributes:
        smoothing_s: Over how long; 0 is one window.
        figures: Over all decisions of all recordings.
        n_decisions: How many.
    """

    smoothing_s: float
    figures: Figures
    n_decisions: int

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "smoothing_s": self.smoothing_s,
            "n_decisions": self.n_decisions,
            **asdict(self.figures),
        }


def smoothed_figures(
    probabilities: Mapping[str, F32],
    classes: Mapping[str, int],
    *,
    hop_s: float,
    smoothing_s: Sequence[float] = SMOOTHING_S,
) -> tuple[Smoothed, ...]:
    """How good decisions are when they are averaged, on recordings played by themselves.

    A decision is made at every hop once the smoothing time is filled, by the highest mean of the
    class probabilities.

    Args:
        probabilities: By key, shape ``(n_windows, 3)``, one window a hop.
        classes: By key, index into ``CLASS_NAMES``.
        hop_s: Seconds from one window to the next.
        smoothing_s: Times to try.
    """
    return tuple(
        _smoothed_figures(probabilities, classes, hop_s=hop_s, smoothing_s=seconds)
        for seconds in smoothing_s
    )


def smooth(probabilities: F32, *, n_windows: int) -> F32:
    """Running mean over ``n_windows``, shape ``(n - n_windows + 1, 3)``; none if there are fewer.

    Example:
        >>> smooth(np.float32([[0], [2], [4]]), n_windows=2).ravel().tolist()
        [1.0, 3.0]
    """
    total = np.cumsum(probabilities, axis=0, dtype=np.float64)
    total = np.concatenate([np.zeros_like(total[:1]), total])
    return ((total[n_windows:] - total[:-n_windows]) / n_windows).astype(np.float32)


def _smoothed_figures(
    probabilities: Mapping[str, F32],
    classes: Mapping[str, int],
    *,
    hop_s: float,
    smoothing_s: float,
) -> Smoothed:
    n_windows = max(1, round(smoothing_s / hop_s))
    confusion = np.zeros((3, 3), dtype=np.intp)
    for key, of_recording in probabilities.items():
        decided = smooth(of_recording, n_windows=n_windows).argmax(axis=1)
        confusion += count(np.full(len(decided), classes[key]), decided)
    if not confusion.any():
        raise ValueError(f"no recording is as long as {smoothing_s:g} s of windows")
    return Smoothed(smoothing_s, summarise(confusion), int(confusion.sum()))
