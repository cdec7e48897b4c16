"""The texts that travel with a model: its card and the attribution of its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stream_classifier.signals import CLASS_NAMES
from stream_classifier.training.calibration import LATENCY_BUDGET_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream_classifier.bundle import Bundle, NetworkSpec
    from stream_classifier.evaluation.robustness import RobustnessLine
    from stream_classifier.evaluation.scoring import Scored
    from stream_classifier.training.calibration import AlarmTrial
    from stream_classifier.training.recipe import Recipe, Trained

ATTRIBUTION: Final = """\
# Attribution

The weights in this folder were trained on, and the windows in `selftest.safetensors` are
taken from:

> Ralph G. Andrzejak, Klaus Lehnertz, Florian Mormann, Christoph Rieke, Peter David, Christian
> E. Elger: Indications of nonlinear deterministic and finite-dimensional structures in time
> series of brain electrical activity: Dependence on recording region and brain state.
> Physical Review E 64, 061907 (2001). Data: https://doi.org/10.34810/data490

Licence of the data: Creative Commons Attribution 4.0 International (CC BY 4.0),
https://creativecommons.org/licenses/by/4.0/. Changes made to it: the recordings were cut into
rows of 178 samples by the *Epileptic Seizure Recognition* table (Qiuyi Wu, Ernest Fokoue, UCI
Machine Learning Repository, 2017, data set 388); they were put together again, for some models
resampled and filtered; stretches of them were drawn, and a network was trained on them. The
authors of the data do not endorse this model.

Whoever passes on this folder, or weights made from it, passes on this notice with it.
"""

_LEAK: Final = {
    "rows": """\
**Rows were shuffled, so rows of one recording lie on both sides of the split.** That is how the
figures in the literature were made, and the only reason for this model to exist: to be compared
with them. It overstates what to expect of an unseen recording. For anything else take a model
whose protocol is `recordings`.""",
    "recordings": """\
Whole recordings were held out: no sample of a test recording was seen in training. **That is not
a split by person.** The data set does not say who was recorded; five healthy volunteers and five
patients gave all of it, so the same people are almost certainly on both sides.""",
}


def write_card(
    bundle: Bundle,
    *,
    recipe: Recipe,
    trained: Trained,
    trials: Sequence[AlarmTrial],
    scored: Scored,
    robustness: Sequence[RobustnessLine],
    command: str,
) -> str:
    """Write the model card, in Markdown, from what was really measured.

    Args:
        bundle: The model, as far as it is made.
        recipe: Settings of the training.
        trained: What came out of it.
        trials: What the alarm rule was chosen from; empty if it was not chosen here.
        scored: The test side, scored once.
        robustness: The same windows under other conditions.
        command: What was typed.
    """
    split, unit = bundle.split, bundle.split.protocol
    refit = _REFIT if recipe.refit else ""
    filters = "; ".join(f.describes for f in bundle.filters) or "none"
    return f"""\
# Model card: {bundle.name} {bundle.version}

{_WHAT[bundle.mode]}
**For research. Not a medical device: nobody's care may depend on it.**

## How good it is
On the {len(split.test):,} held-out {unit}, one random window of each row
({len(scored.report.truth):,} windows, seed {scored.report.seed}), scored after every choice \
had been made on validation data:

{_figures(scored)}

{_confusion(scored)}

The interval is a bootstrap over recordings, not windows. All of it is measured with
`stream-classifier evaluate {bundle.name} --seed {scored.report.seed}`, which prints the same again;
`stream-classifier model verify {bundle.name} --deep` does so and compares. Whole cross-validations,
which say more than one split does, are in the project's docs (`crossval`).

{_LEAK[unit]}
{_more(scored)}
## Under other conditions
The same windows, changed before anything else; gain as it comes, without calibration:

| condition | accuracy | macro F1 | seizure recall |
|---|---|---|---|
{_conditions(robustness)}

## How it was made
- Data: Epileptic Seizure Recognition (UCI 388), SHA-256 `{split.data_digest}`;
  {len(split.train):,} {unit} for training, {len(split.validation):,} for validation, \
{len(split.test):,} for test, in equal parts of its five labels, seed {split.seed}.
- Signal: taken as {bundle.provenance["data_rate_hz"]:g} Hz, run at {bundle.rate_hz:g} Hz; filters:
  {filters}.
- Network: {_layers(bundle.network)}; last, mean and maximum of its states over a window;
  softmax over the five labels, of which 3, 4 and 5 together are *normal*.
  {bundle.network.n_parameters:,} parameters.
- Scaler: one mean ({trained.mean_uv:.2f} µV) and one deviation ({trained.std_uv:.2f} µV) of the
  training samples, frozen.
- Training: mode {recipe.mode}; stretches drawn anywhere in contiguous training signal; AdamW,
  one-cycle schedule to {recipe.learning_rate:g}, weight decay {recipe.weight_decay:g}, \
{recipe.stretches_per_epoch:,} stretches an epoch; averaged weights
  (decay {recipe.ema_decay:g}) of epoch {trained.best.number} of {len(trained.history)}, \
the best on validation (accuracy {trained.best.accuracy:.3f},
  macro F1 {trained.best.macro_f1:.3f}). Augmentation: {recipe.augmentation or "none"}.
{refit}- Calibration: temperature {trained.temperature:.2f}, fitted on validation, part of the head.
- Command: `{command}`

## When it alarms
{_alarms(bundle, trials)}

## What it is not
- Not validated on a seizure of any person outside the data set, nor on seizures in scalp EEG: sets
  A and B (labels 5 and 4) are scalp EEG of healthy people, sets C, D and E (3, 2 and 1) were
  recorded inside the skull. A seizure on the scalp is 2 to 5 times smaller.
- Not a tumour detector. *Tumour* here means "recorded from the epileptogenic area, between
  seizures"; the class tells recording conditions apart and is no finding about a living person.
{_LIMITS["head" if bundle.gain is not None else "table"]}
## Licence
Code: MIT. Weights and self-test windows: made from data under CC BY 4.0; see `ATTRIBUTION.md`.
"""


_REFIT: Final = """\
- Then once more on training and validation side together, for as many epochs: nothing was chosen
  after that.
"""

_WHAT: Final = {
    "windowed": """\
Classifies windows of 120 samples of one EEG channel (0.67 s at 178 Hz), each by itself, into
seizure, tumour area and normal, and so raises seizure alarms.""",
    "continuous": """\
Runs along one EEG channel, its state kept from the last gap on, and says every 8 samples whether
the last 120 (0.67 s at 178 Hz) are seizure, tumour area or normal; so it raises alarms.""",
}

_LIMITS: Final = {
    "table": """\
- The data set was recorded at 173.61 Hz and is replayed at 178 Hz, as its rows suggest: this model
  hears everything 2.5% too high.
- Mains hum is a cue in the data: the line at 50 Hz is strong in sets A to D and weak in E. Other
  hum, offsets, units or gain than the data set's degrade it; see the table above.
- The recordings were selected, by eye, to be free of artefacts. Blinks, chewing, motion and loose
  contacts were never seen in training.
""",
    "head": """\
- A live channel's gain is measured once, on 60 s of good signal, and frozen; during that time the
  model runs at gain 1. If those 60 s hold a seizure, the gain is too small from then on.
- The recordings were selected, by eye, to be free of artefacts; those of the training are made.
  How it does on real heads: the project's docs/heads.md.
""",
}


def _figures(scored: Scored) -> str:
    figures, intervals = scored.report.figures, scored.report.intervals()
    calibration = scored.calibration
    return "\n".join(
        [
            "| | value | 95% interval |",
            "|---|---|---|",
            _row("accuracy", figures.accuracy, intervals["accuracy"]),
            _row("macro F1", figures.macro_f1, intervals["macro_f1"]),
            *(
                _row(f"recall, {c}", figures.recall[c], intervals[f"recall.{c}"])
                for c in CLASS_NAMES
            ),
            *(_row(f"F1, {c}", figures.f1[c], intervals[f"f1.{c}"]) for c in CLASS_NAMES),
            f"| all windows of a row averaged: accuracy | {scored.averaged.accuracy:.3f} | |",
            f"| all windows of a row averaged: macro F1 | {scored.averaged.macro_f1:.3f} | |",
            _row("expected calibration error", calibration.ece, calibration.intervals["ece"]),
            _row("Brier score", calibration.brier, calibration.intervals["brier"]),
        ]
    )


def _confusion(scored: Scored) -> str:
    return "\n".join(
        [
            f"| truth \\ decided | {' | '.join(CLASS_NAMES)} |",
            "|---|---|---|---|",
            *(
                f"| {c} | {' | '.join(map(str, counts))} |"
                for c, counts in zip(CLASS_NAMES, scored.report.confusion.tolist(), strict=True)
            ),
        ]
    )


def _more(scored: Scored) -> str:
    """What only whole recordings show."""
    streaming = scored.streaming
    if streaming is None:
        return ""
    smoothed = "\n".join(
        f"| {f'mean of {s.smoothing_s:g} s' if s.smoothing_s else 'one window'} "
        f"| {s.figures.accuracy:.3f} | {s.figures.macro_f1:.3f} |"
        for s in scored.smoothed
    )
    bounds = streaming.intervals()
    median, p90, worst = (streaming.latency_s(q) for q in (0.5, 0.9, 1.0))
    latency = (
        "none was detected"
        if median is None
        else f"{median:.2f} s in the median, {p90:.2f} s p90, {worst:.2f} s at worst"
    )
    low, high = bounds["sensitivity"]
    return f"""
Whole recordings, every window of them:

| decided by | accuracy | macro F1 |
|---|---|---|
{smoothed}

As an alarm, on a timeline of all of them, each seizure after four recordings of background:
{streaming.n_detected} of {streaming.n_seizures} seizures (95% {low:.2f} to {high:.2f}), \
{streaming.false_alarms} false alarms in {streaming.background_hours * 60:.0f} min of background
(95% at most {bounds["false_alarms_per_hour"][1]:.1f} an hour); after the start of a seizure \
{latency}.
"""


def _conditions(robustness: Sequence[RobustnessLine]) -> str:
    return "\n".join(
        f"| {line.condition} | {line.accuracy:.3f} | {line.macro_f1:.3f} "
        f"| {line.seizure_recall:.3f} |"
        for line in robustness
    )


def _row(what: str, value: float, interval: tuple[float, float]) -> str:
    return f"| {what} | {value:.3f} | {interval[0]:.3f} to {interval[1]:.3f} |"


def _alarms(bundle: Bundle, trials: Sequence[AlarmTrial]) -> str:
    rule = bundle.alarm
    said = (
        f"p(seizure) averaged over {rule.smoothing_s:g} s, at or above {rule.raise_threshold:g} "
        f"for {rule.persistence_s:g} s, in\n{rule.channels_needed} channel(s); ended after "
        f"{rule.refractory_s:g} s below {rule.clear_threshold:g}.\n"
    )
    if not trials:
        return said + "The rule was given to the training, not chosen in it."
    return (
        f"{said}Smoothing, persistence and threshold were chosen from {len(trials)} rules on a "
        "timeline of the validation\nrecordings: fewest false alarms and missed seizures, then, "
        f"within a median latency of {LATENCY_BUDGET_S:g} s, fewest false alarms\n"
        "at a lower threshold, then the longest look."
    )


def _layers(net: NetworkSpec) -> str:
    """Say what lies before the readout."""
    said = [
        "asinh of the sample and of its first difference" if net.features == "asinh" else "samples"
    ]
    if net.stem:
        convolutions = ", ".join(
            f"{conv.channels} channels (kernel {conv.kernel}, stride {conv.stride})"
            for conv in net.stem
        )
        said.append(f"unpadded convolutions with {convolutions}")
    layers = "LSTM" if net.layers == 1 else f"LSTM of {net.layers} layers"
    return f"{'; '.join(said)};\n  {layers} with {net.hidden} units"
