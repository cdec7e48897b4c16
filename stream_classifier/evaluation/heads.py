"""Real heads: false alarms on people without seizures, and seizures mixed into their signal.

The people wore a consumer headset and had no seizure, so every alarm is a false one. Held-out
seizures of the data set are then mixed into the same recordings (:mod:`simulators.mixture`), on 1,
2 or 4 neighbouring channels, at a drawn time, at a drawn amplitude. Everything runs through the
real detector:

1. each person's whole recording, from the first sample, calibration and all: false alarms, refused
   and calibrating time, and the gains that the calibration froze;
2. each case: the ``LEAD_S`` seconds before its onset and the seizure, with those gains. It is
   detected if the alarm comes on within the ``SEIZURE_S`` seconds of the seizure, not later, and
   not if it stood already;
3. the same cases moved into the worst ``WORST_SHARE`` of the background;
4. all of 1 and 2 again with the whole signal multiplied by a gain: measuring the gain again has
   to cancel it.

People are files in sorted order: those of odd rank are to choose on (``tuning``), those of even
rank to report (``reporting``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from simulators.mixture import SEIZURE_S, Mixture, draw, mix, shape
from stream_classifier.datasets import load_rows, places
from stream_classifier.errors import DatasetNotFoundError, RecordingInvalidError, UnseenDataError
from stream_classifier.evaluation.intervals import draw_sums, quantile_bounds, rate_bounds
from stream_classifier.evaluation.playing import Head, Watched, read_head, watch

if TYPE_CHECKING:
    from stream_classifier.bundle import Bundle

FOLDER: Final = "headset_epoc"
"""Below the data folder: one EDF a person."""

N_INVOLVED: Final = (1, 2, 4)
"""How many neighbouring channels a seizure is mixed into."""

LEAD_S: Final = 20.0
"""Background played before a seizure: filters, quality and states have settled long before."""

AFTER_S: Final = 1.0
"""Signal played behind a seizure, for what a resampler holds back."""

WORST_SHARE: Final = 0.1
"""Share of the background, by artefacts, that counts as the worst."""

ARTEFACT_CAP_UV: Final = 1000.0
"""A second of a channel counts at most this in the artefact score: a loose contact of 10 mV spoils
it no more than one of 1 mV."""

GAINS: Final = (0.25, 0.5, 2.0, 4.0)
"""By which the whole signal is multiplied in the test of the calibration."""

Ranks = Literal["tuning", "reporting"]
Progress = Callable[[int, int], None]
"""Told how many of how many pieces of work are done."""

_CASES_A_PIECE: Final = 10


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One mixed seizure, and what became of it.

    Attributes:
        mixture: What was mixed.
        latency_s: From the seizure's onset until the alarm came on, and the signal that it took to
            know it; None if it did not, or not within the seizure.
        standing: Whether a false alarm was on already at the onset.
        watched: All that the detector said.
    """

    mixture: Mixture
    latency_s: float | None
    standing: bool
    watched: Watched

    @property
    def n_involved(self) -> int:
        """How many channels the seizure is on."""
        return len(self.mixture.channels)


@dataclass(frozen=True, slots=True)
class HeadsPlan:
    """What is to be done.

    Attributes:
        seed: Of all draws.
        n_cases: At least this many for each number of channels.
        gains: See ``GAINS``; empty leaves that test out.
        worst: Whether the worst background is tested, too.
        jobs: Processes at work.
    """

    seed: int = 0
    n_cases: int = 200
    gains: tuple[float, ...] = GAINS
    worst: bool = True
    jobs: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class HeadsReport:
    """What the detector did on real heads.

    Attributes:
        plan: What was done.
        bundle: The model.
        heads: The people.
        background: By gain (1 is the signal as it is): of each person, the whole recording.
        cases: By gain, all mixed seizures.
        worst: Those in the worst background.
    """

    plan: HeadsPlan
    bundle: Bundle
    heads: tuple[Head, ...]
    background: dict[float, tuple[Watched, ...]]
    cases: dict[float, tuple[Case, ...]]
    worst: tuple[Case, ...]

    @property
    def hours(self) -> float:
        """Of background."""
        return sum(head.duration_s for head in self.heads) / 3600

    def as_json(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        rule = dataclasses.asdict(self.bundle.alarm)
        return {
            "bundle": {"name": self.bundle.name, "digest": self.bundle.digest, "alarm": rule},
            "seed": self.plan.seed,
            "people": [head.name for head in self.heads],
            **self._false_alarms(1.0),
            "alarms": [
                {"person": head.name, **dataclasses.asdict(alarm)}
                for head, watched in zip(self.heads, self.background[1.0], strict=True)
                for alarm in watched.alarms
            ],
            "cases": self._by_count(self.cases[1.0], with_chance=True),
            "worst_background": {"share": WORST_SHARE, "cases": self._by_count(self.worst)}
            if self.plan.worst
            else None,
            "gain": {f"{gain:g}": self._against_unscaled(gain) for gain in self.plan.gains},
            "by_person": [self._of_person(number) for number in range(len(self.heads))],
        }

    def _false_alarms(self, gain: float) -> dict[str, Any]:
        background = self.background[gain]
        n_alarms = sum(len(watched.alarms) for watched in background)
        # One-sided: it is only asked how many there may be at most.
        most = rate_bounds(n_alarms, self.hours, level=0.9)[1]
        return {
            "hours": self.hours,
            "false_alarms": n_alarms,
            "false_alarms_per_hour": n_alarms / self.hours,
            "false_alarms_per_hour_at_most": most,
            **_shares(background),
            "after_calibration": {
                "false_alarms": sum(
                    alarm.raised_s > watched.calibrated_s
                    for watched in background
                    for alarm in watched.alarms
                ),
                "refused_share": _refused_after_calibration(background),
            },
        }

    def _by_count(self, cases: Sequence[Case], *, with_chance: bool = False) -> dict[str, Any]:
        return {
            str(count): self._summary(
                [case for case in cases if case.n_involved == count], with_chance=with_chance
            )
            for count in N_INVOLVED
        }

    def _summary(self, cases: Sequence[Case], *, with_chance: bool) -> dict[str, Any]:
        latencies = [case.latency_s for case in cases if case.latency_s is not None]
        median, p90 = np.percentile(latencies, (50, 90)).tolist() if latencies else (None, None)
        summary = {
            "n": len(cases),
            "detected": len(latencies),
            "sensitivity": len(latencies) / len(cases),
            "interval": self._interval(cases),
            "latency_s": {"median": median, "p90": p90},
            "alarm_standing_at_onset": sum(case.standing for case in cases),
        }
        if with_chance:
            summary["alarms_without_the_seizure"] = sum(map(self._by_chance, cases))
        return summary

    def _interval(self, cases: Sequence[Case]) -> tuple[float, float]:
        """Bootstrap interval of the sensitivity: people are drawn, not cases."""
        by_person = np.zeros((len(self.heads), 2))
        numbers = {head.name: number for number, head in enumerate(self.heads)}
        for case in cases:
            by_person[numbers[case.mixture.background]] += (case.latency_s is not None, 1)
        by_person = by_person[by_person[:, 1] > 0]
        drawn = draw_sums(by_person, seed=self.plan.seed)
        return quantile_bounds(drawn[:, 0] / drawn[:, 1])

    def _by_chance(self, case: Case) -> bool:
        """Whether the alarm comes on at that time on the person's own signal, too."""
        numbers = {head.name: number for number, head in enumerate(self.heads)}
        own = self.background[1.0][numbers[case.mixture.background]]
        return any(_within(alarm.raised_s, case.mixture) for alarm in own.alarms)

    def _against_unscaled(self, gain: float) -> dict[str, Any]:
        cases = self._by_count(self.cases[gain])
        unscaled = self._by_count(self.cases[1.0])
        for count, summary in cases.items():
            before = unscaled[count]
            summary["difference_points"] = 100 * (summary["sensitivity"] - before["sensitivity"])
        now, before = self._false_alarms(gain), self._false_alarms(1.0)
        after, plain = now["after_calibration"], before["after_calibration"]
        after["false_alarms_difference"] = after["false_alarms"] - plain["false_alarms"]
        after["refused_difference_points"] = 100 * (after["refused_share"] - plain["refused_share"])
        return {**now, "cases": cases}

    def _of_person(self, number: int) -> dict[str, Any]:
        head, watched = self.heads[number], self.background[1.0][number]
        mine = [case for case in self.cases[1.0] if case.mixture.background == head.name]
        return {
            "person": head.name,
            "minutes": head.duration_s / 60,
            "false_alarms": len(watched.alarms),
            **_shares([watched]),
            "calibrated_s": watched.calibrated_s,
            "gains": dict(zip(head.labels, watched.gains, strict=True)),
            "sensitivity": {
                str(count): float(
                    np.mean([c.latency_s is not None for c in mine if c.n_involved == count])
                )
                for count in N_INVOLVED
            },
        }


def find_people(data: Path | None, ranks: Ranks) -> tuple[Path, ...]:
    """Files of the people of odd rank (``tuning``) or even rank (``reporting``), sorted.

    Args:
        data: The data folder; None to look in the usual places.
        ranks: Whose.

    Raises:
        DatasetNotFoundError: If there are not at least two people.
    """
    folders = [place / FOLDER for place in places(data)]
    for folder in folders:
        files = sorted(folder.glob("*.edf"))
        if len(files) > 1:
            return tuple(files[0::2] if ranks == "tuning" else files[1::2])
    raise DatasetNotFoundError(
        what="a folder of headset recordings, one EDF a person",
        looked_at=[str(folder) for folder in folders],
    )


def find_seizures(bundle: Bundle, data: Path | None) -> dict[str, NDArray[np.float32]]:
    """Seizure recordings that the bundle has not seen, by key, at 173.61 Hz.

    Args:
        bundle: The model.
        data: The data folder; None to look in the usual places.

    Raises:
        UnseenDataError: If the bundle was trained on rows of them, or on another table.
    """
    split = bundle.split
    if split.protocol != "recordings":
        raise UnseenDataError(
            f"the bundle {bundle.name} was trained on rows of every recording: no seizure is left "
            "that it has not seen. Try: a bundle trained with --protocol recordings"
        )
    table = load_rows(data)
    if split.data_digest != table.digest:
        raise UnseenDataError(
            f"the bundle was trained on the table with SHA-256 {split.data_digest}, the one at "
            f"hand has {table.digest}: what it has seen is unknown. Try: --data with the same table"
        )
    keys = [str(key) for key in split.test]
    seizures = {key: table.recording(key) for key in keys if table.class_of(key) == 0}
    if not seizures:
        raise UnseenDataError(f"the bundle {bundle.name} holds out no seizure. Try: train it again")
    return seizures


def artefact_scores(head: Head, onsets_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """How laden with artefacts the stretch is that a seizure from each onset would lie in.

    The mean, over the stretch's seconds and all channels, of the peak to peak within a second,
    µV, each at most ``ARTEFACT_CAP_UV``. It knows nothing of the detector.

    Args:
        head: The recording.
        onsets_s: Shape ``(n,)``, whole seconds.

    Returns:
        Shape ``(n,)``.
    """
    second = round(head.rate_hz)
    n_seconds = len(head.samples) // second
    blocks = head.samples[: n_seconds * second].reshape(n_seconds, second, -1)
    by_second = np.minimum(np.ptp(blocks, axis=1), ARTEFACT_CAP_UV).mean(axis=1)
    total = np.concatenate([[0.0], np.cumsum(by_second, dtype=np.float64)])
    first = onsets_s.astype(np.intp)
    last = np.minimum(first + round(SEIZURE_S), n_seconds)
    return np.asarray((total[last] - total[first]) / (last - first))


def try_heads(
    bundle: Bundle,
    people: Sequence[Path],
    seizures: dict[str, NDArray[np.float32]],
    plan: HeadsPlan,
    *,
    progress: Progress = lambda _done, _of: None,
) -> HeadsReport:
    """Do the whole test.

    Args:
        bundle: The model, with its alarm rule.
        people: Their recordings.
        seizures: Recordings by key, at 173.61 Hz, that the model has not seen.
        plan: What is to be done.
        progress: Told after each piece of work; the number of pieces grows once.

    Raises:
        RecordingInvalidError: If a recording is damaged, or none is long enough for a seizure.
    """
    heads = tuple(map(read_head, people))
    scales = (1.0, *plan.gains)
    with _Workers(bundle, seizures, jobs=plan.jobs, progress=progress) as workers:
        whole = workers.do([_Work(path, scale) for scale in scales for path in people])
        background = {
            scale: tuple(done[0] for done in whole[start : start + len(people)])
            for start, scale in zip(range(0, len(whole), len(people)), scales, strict=True)
        }
        onsets = [
            _onsets(head, watched, bundle)
            for head, watched in zip(heads, background[1.0], strict=True)
        ]
        drawn = draw_cases(heads, onsets, tuple(seizures), plan)
        worst = (
            draw_cases(heads, worst_onsets(heads, onsets), tuple(seizures), plan, stream=1)
            if plan.worst
            else []
        )
        work = [
            _Work(path, scale, watched.gains, tuple(piece), kind)
            for kind, scale, cases in (
                *(("cases", scale, drawn) for scale in scales),
                ("worst", 1.0, worst),
            )
            for path, head, watched in zip(people, heads, background[scale], strict=True)
            for piece in _pieces([case for case in cases if case.background == head.name])
        ]
        done = workers.do(work)
    cases: dict[float, list[Case]] = {scale: [] for scale in scales}
    worst_cases: list[Case] = []
    for item, results in zip(work, done, strict=True):
        found = [
            judge_case(mixture, watched)
            for mixture, watched in zip(item.mixtures, results, strict=True)
        ]
        (worst_cases if item.kind == "worst" else cases[item.scale]).extend(found)
    return HeadsReport(
        plan=plan,
        bundle=bundle,
        heads=heads,
        background=background,
        cases={scale: tuple(found) for scale, found in cases.items()},
        worst=tuple(worst_cases),
    )


def draw_cases(
    heads: Sequence[Head],
    onsets_s: Sequence[NDArray[np.float64]],
    seizures: tuple[str, ...],
    plan: HeadsPlan,
    *,
    stream: int = 0,
) -> list[Mixture]:
    """As many mixtures for each number of channels as were asked for, as many for each person.

    A person has each seizure once before any of them comes again.

    One draw of amplitude, time and centre serves all numbers of channels, so that they differ in
    nothing else.

    Args:
        heads: The people.
        onsets_s: Of each, when a seizure may begin; a person without any is left out.
        seizures: Keys.
        plan: Seed, and how many cases are needed.
        stream: Of random numbers; another one for other cases.

    Raises:
        RecordingInvalidError: If nobody has an onset.
    """
    able = [number for number, onsets in enumerate(onsets_s) if len(onsets)]
    if not able:
        raise RecordingInvalidError(
            path=", ".join(head.name for head in heads),
            expected=f"a recording with time for a calibration, {LEAD_S:g} s, and a seizure of "
            f"{SEIZURE_S:g} s",
            found="none as long",
            fix="longer recordings",
        )
    n_each = -(-plan.n_cases // len(able))
    mixtures: list[Mixture] = []
    for count, number in product(N_INVOLVED, able):
        order = np.random.default_rng((plan.seed, stream, number)).permutation(len(seizures))
        mixtures += [
            draw(
                np.random.default_rng((plan.seed, stream, number, case)),
                background=heads[number].name,
                labels=heads[number].labels,
                seizures=(seizures[order[case % len(order)]],),
                n_channels=count,
                onsets_s=onsets_s[number],
            )
            for case in range(n_each)
        ]
    return mixtures


def worst_onsets(
    heads: Sequence[Head], onsets_s: Sequence[NDArray[np.float64]]
) -> list[NDArray[np.float64]]:
    """Of all people's onsets together, those with the most artefacts; some may keep none."""
    scores = [artefact_scores(head, own) for head, own in zip(heads, onsets_s, strict=True)]
    limit = np.quantile(np.concatenate(scores), 1 - WORST_SHARE)
    return [own[of >= limit] for own, of in zip(onsets_s, scores, strict=True)]


def stretch(
    head: Head, mixture: Mixture, seizure: NDArray[np.float32], *, scale: float = 1.0
) -> Head:
    """The part of a head that a case plays: ``LEAD_S`` before the seizure until just after it.

    Args:
        head: The whole recording.
        mixture: The seizure in it.
        seizure: Its recording, shape ``(n_samples,)``, at 173.61 Hz.
        scale: What the mixed signal is multiplied by.
    """
    first = _first_index(head, mixture)
    last = round((mixture.offset_s + AFTER_S) * head.rate_hz)
    mixed = mix(
        head.samples[first:last],
        mixture,
        shape(seizure, rate_hz=head.rate_hz),
        labels=head.labels,
        rate_hz=head.rate_hz,
        start_s=first / head.rate_hz,
    )
    return dataclasses.replace(head, samples=mixed * np.float32(scale))


def judge_case(mixture: Mixture, watched: Watched) -> Case:
    """Say whether a mixed seizure was detected: strictly, within its own time."""
    raised = [a.raised_s for a in watched.alarms if _within(a.raised_s, mixture)]
    standing = any(alarm.raised_s < mixture.onset_s < alarm.ended_s for alarm in watched.alarms)
    latency_s = raised[0] - mixture.onset_s + watched.delay_s if raised else None
    return Case(mixture, latency_s, standing, watched)


def _within(raised_s: float, mixture: Mixture) -> bool:
    return mixture.onset_s <= raised_s <= mixture.offset_s


def _shares(background: Sequence[Watched]) -> dict[str, float]:
    n_windows = sum(len(watched.at_s) for watched in background)
    n_decisions = sum(watched.refused.size for watched in background)
    return {
        "refused_share": sum(int(w.refused.sum()) for w in background) / n_decisions,
        "no_signal_share": sum(int(w.refused.all(axis=1).sum()) for w in background) / n_windows,
        "calibrating_share": sum(int(w.calibrating.sum()) for w in background) / n_windows,
    }


def _refused_after_calibration(background: Sequence[Watched]) -> float:
    refused = np.concatenate([w.refused[~w.calibrating].ravel() for w in background])
    return float(refused.mean()) if refused.size else 0.0


def _onsets(head: Head, watched: Watched, bundle: Bundle) -> NDArray[np.float64]:
    """Whole seconds at which a seizure may begin: after the calibration, and so that it fits."""
    baseline_s = bundle.gain.baseline_s if bundle.gain else 0.0
    calibrated_s = min(watched.calibrated_s, baseline_s + LEAD_S)
    first = np.ceil(max(calibrated_s, baseline_s, LEAD_S))
    return np.arange(first, np.floor(head.duration_s - SEIZURE_S - AFTER_S) + 1)


def _first_index(head: Head, mixture: Mixture) -> int:
    return round((mixture.onset_s - LEAD_S) * head.rate_hz)


def _pieces(cases: Sequence[Mixture]) -> Iterator[Sequence[Mixture]]:
    return (cases[i : i + _CASES_A_PIECE] for i in range(0, len(cases), _CASES_A_PIECE))


@dataclass(frozen=True, slots=True)
class _Work:
    """A whole recording, or some cases of one."""

    path: Path
    scale: float
    gains: tuple[float, ...] | None = None
    mixtures: tuple[Mixture, ...] = ()
    kind: str = "whole"


class _Workers:
    """Processes at work, each with its own copy of the model and the seizures."""

    def __init__(
        self,
        bundle: Bundle,
        seizures: dict[str, NDArray[np.float32]],
        *,
        jobs: int,
        progress: Progress,
    ) -> None:
        self._bundle = bundle
        self._seizures = seizures
        self._jobs = jobs
        self._progress = progress
        self._n_done = self._n_all = 0

    def __enter__(self) -> Self:
        # Fresh processes: a fork of one with threads (BLAS, a progress bar) may hang.
        self._pool = (
            ProcessPoolExecutor(
                self._jobs,
                mp_context=get_context("spawn"),
                initializer=_prepare,
                initargs=(self._bundle, self._seizures),
            )
            if self._jobs > 1
            else None
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def do(self, work: Sequence[_Work]) -> list[list[Watched]]:
        """Do all of it; results in the order of the work."""
        self._n_all += len(work)
        if self._pool is None:
            results = []
            for item in work:
                results.append(_do(item, self._bundle, self._seizures))
                self._tell()
            return results
        futures = [self._pool.submit(_do_prepared, item) for item in work]
        for future in as_completed(futures):
            future.result()
            self._tell()
        return [future.result() for future in futures]

    def _tell(self) -> None:
        self._n_done += 1
        self._progress(self._n_done, self._n_all)


_BUNDLE: Bundle | None = None
_SEIZURES: dict[str, NDArray[np.float32]] = {}


def _prepare(bundle: Bundle, seizures: dict[str, NDArray[np.float32]]) -> None:
    """Begin a process: what all its work needs is sent once."""
    global _BUNDLE  # noqa: PLW0603 - a pool's initializer has no other place to leave it
    _BUNDLE = bundle
    _SEIZURES.update(seizures)


def _do_prepared(work: _Work) -> list[Watched]:
    if _BUNDLE is None:
        raise RuntimeError("the process was not prepared")
    return _do(work, _BUNDLE, _SEIZURES)


def _do(work: _Work, bundle: Bundle, seizures: dict[str, NDArray[np.float32]]) -> list[Watched]:
    head = _read_head_once(work.path)
    if not work.mixtures:
        whole = dataclasses.replace(head, samples=head.samples * np.float32(work.scale))
        return [watch(whole, bundle)]
    return [
        watch(
            stretch(head, mixture, seizures[mixture.seizure], scale=work.scale),
            bundle,
            gains=work.gains,
            first_index=_first_index(head, mixture),
        )
        for mixture in work.mixtures
    ]


_read_head_once = lru_cache(maxsize=2)(read_head)
