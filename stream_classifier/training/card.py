"""The texts that travel with a model: its card and the attribution of its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stream_classifier.signals import CLASS_NAMES

if TYPE_CHECKING:
    from stream_classifier.bundle import AlarmSpec, NetworkSpec, Split
    from stream_classifier.evaluation.windows import WindowReport
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
Machine Learning Repository, 2017, data set 388); windows of 120 samples were drawn from these;
a network was trained on them. The authors of the data do not endorse this model.

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
    *,
    name: str,
    version: str,
    split: Split,
    spec: NetworkSpec,
    recipe: Recipe,
    trained: Trained,
    alarm: AlarmSpec,
    trials: tuple[AlarmTrial, ...],
    alarm_test: AlarmTrial | None,
    report: WindowReport,
    accuracy_by_gain: dict[str, float],
    command: str,
) -> str:
    """Write the model card, in Markdown, from what was really measured.

    Args:
        name: Of the model.
        version: Of the model.
        split: What it was trained on.
        spec: Shape of the network.
        recipe: Settings of the training.
        trained: What came out of it.
        alarm: The rule that was chosen.
        trials: What it was chosen from; empty if nothing could be tried.
        alarm_test: What it did on the test recordings, tried once; None if there are none.
        report: The test side, scored once.
        accuracy_by_gain: The same windows at another amplitude: half (``0.5``) and twice (``2``).
        command: What was typed.
    """
    figures = report.figures
    intervals = report.intervals()
    unit = split.protocol
    table = "\n".join(
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
        ]
    )
    confusion = "\n".join(
        [
            f"| truth \\ decided | {' | '.join(CLASS_NAMES)} |",
            "|---|---|---|---|",
            *(
                f"| {c} | {' | '.join(map(str, counts))} |"
                for c, counts in zip(CLASS_NAMES, report.confusion.tolist(), strict=True)
            ),
        ]
    )
    return f"""\
# Model card: {name} {version}

Classifies windows of 120 samples of one EEG channel (0.67 s at 178 Hz) into seizure, tumour
area and normal, and so raises seizure alarms. **For research. Not a medical device: nobody's care
may depend on it.**

## How good it is
On the {len(split.test):,} held-out {unit}, one random window of each row
({len(report.truth):,} windows, seed {report.seed}), scored after every choice had been made on
validation data:

{table}

{confusion}

The interval is a bootstrap over recordings, not windows. Measured with
`stream-classifier evaluate --protocol {unit} --seed {report.seed}`, which prints the same again.

{_LEAK[unit]}

## How it was made
- Data: Epileptic Seizure Recognition (UCI 388), SHA-256 `{split.data_digest}`;
  {len(split.train):,} {unit} for training, {len(split.validation):,} for validation, \
{len(split.test):,} for test, in equal parts of its five labels, seed {split.seed}.
- Network: asinh of the sample and of its first difference; two unpadded convolutions (kernel
  {spec.kernel_samples}, stride {spec.stride_samples}, {spec.conv_channels} channels); LSTM with \
{spec.hidden} units over 25 steps from zero state; last, mean and
  maximum of its states; softmax over the five labels, of which 3, 4 and 5 together are *normal*.
  {spec.n_parameters:,} parameters.
- Scaler: one mean ({trained.mean_uv:.2f} µV) and one deviation ({trained.std_uv:.2f} µV) of the
  training samples, frozen.
- Training: windows drawn anywhere in contiguous training signal; AdamW, one-cycle schedule to
  {recipe.learning_rate:g}, weight decay {recipe.weight_decay:g}, \
{recipe.windows_per_epoch:,} windows an epoch; averaged weights (decay {recipe.ema_decay:g}) of
  epoch {trained.best.number} of {trained.n_epochs}, the best on validation \
(accuracy {trained.best.accuracy:.3f}, macro F1 {trained.best.macro_f1:.3f}).
- Calibration: temperature {trained.temperature:.2f}, fitted on validation, part of the head.
- Command: `{command}`

## When it alarms
p(seizure) averaged over {alarm.smoothing_s:g} s, at or above {alarm.raise_threshold:g} for \
{alarm.persistence_s:g} s; ended after {alarm.refractory_s:g} s below {alarm.clear_threshold:g}.
{_alarms(trials, alarm_test)}

## What it is not
- Not validated on any person outside the data set, nor on scalp EEG of seizures: sets A and B
  (labels 5 and 4) are scalp EEG of healthy people, sets C, D and E (3, 2 and 1) were recorded
  inside the skull. A seizure on the scalp is 2 to 5 times smaller.
- Not a tumour detector. *Tumour* here means "recorded from the epileptogenic area, between
  seizures"; the class tells recording conditions apart and is no finding about a living person.
- The data set was recorded at 173.61 Hz and is replayed at 178 Hz, as its rows suggest: this model
  hears everything 2.5% too high.
- Mains hum is a cue in the data: the line at 50 Hz is strong in sets A to D and weak in E. Other
  hum, offsets, units or gain than the data set's degrade it: with the held-out windows at half
  their amplitude accuracy is {accuracy_by_gain["0.5"]:.3f}, at twice {accuracy_by_gain["2"]:.3f}.
  Samples that were filled in degrade it too.
- The recordings were selected, by eye, to be free of artefacts. Blinks, chewing, motion and loose
  contacts were never seen in training.

## Licence
Code: MIT. Weights and self-test windows: made from data under CC BY 4.0; see `ATTRIBUTION.md`.
"""


def _row(what: str, value: float, interval: tuple[float, float]) -> str:
    return f"| {what} | {value:.3f} | {interval[0]:.3f} to {interval[1]:.3f} |"


def _alarms(trials: tuple[AlarmTrial, ...], alarm_test: AlarmTrial | None) -> str:
    if alarm_test is None:
        return (
            "The rule is the default one: shuffled rows do not make recordings to try an alarm on."
        )
    tried = ", ".join(f"{trial.raise_threshold:g}" for trial in trials)
    chosen = next(t for t in trials if t.raise_threshold == alarm_test.raise_threshold)
    return (
        f"The threshold was chosen from {tried} on the validation recordings: fewest\n"
        "false alarms, then fewest missed, then quickest; the first of equals. Each recording of\n"
        "23 s was played by itself, time counted from its start:\n\n"
        "| | seizure recordings alarmed | after, median | worst | false alarms in background |\n"
        "|---|---|---|---|---|\n"
        f"{_alarm_row('validation', chosen)}\n{_alarm_row('test', alarm_test)}\n\n"
        "No false alarm in so little background still allows several an hour."
    )


def _alarm_row(side: str, trial: AlarmTrial) -> str:
    median, worst = (
        "-" if seconds is None else f"{seconds:.1f} s"
        for seconds in (trial.latency_s, trial.worst_latency_s)
    )
    return (
        f"| {side} | {trial.n_seizures - trial.missed} of {trial.n_seizures} | {median} | {worst} "
        f"| {trial.false_alarms} in {trial.background_s / 60:.1f} min |"
    )
