"""Each condition does to the signal what its name says, and the clean one does nothing."""

import numpy as np
import pytest

from stream_classifier.evaluation import robustness as r
from stream_classifier.evaluation.heldout import score_rows

X = np.random.default_rng(1).normal(0, 40, (4094, 3)).astype(np.float32)


def changed(condition):
    out = condition.distort(X, 178.0, np.random.default_rng(0))
    assert out.shape == X.shape
    return out


def test_gain_and_offset():
    np.testing.assert_allclose(changed(r.gain(0.25)), X / 4)
    np.testing.assert_allclose(changed(r.offset(200)), X + 200, atol=1e-4)


def test_hum_is_a_sine_of_its_amplitude_at_the_mains_frequency():
    added = changed(r.hum(20)) - X
    spectrum = np.abs(np.fft.rfft(added[:, 0]))
    assert np.fft.rfftfreq(4094, 1 / 178)[spectrum.argmax()] == pytest.approx(50, abs=0.05)
    assert added.std() == pytest.approx(20 / np.sqrt(2), rel=1e-3)


def test_noise_has_its_rms():
    assert (changed(r.noise(5)) - X).std() == pytest.approx(5, rel=0.03)


def test_dropouts_hold_the_last_value_for_a_share_of_the_time():
    out = changed(r.dropouts())
    lost = (np.diff(out, axis=0) == 0).mean()
    assert lost == pytest.approx(12 / 89, rel=0.03)
    assert (np.diff(out, axis=0) == 0).any(axis=1)[-178:].any()


def test_a_sine_fed_at_another_rate_is_the_same_sine():
    sine = np.sin(2 * np.pi * 10 * np.arange(4094) / 178)[:, None].astype(np.float32)
    fed = r._resample(sine, 178.0, 250.0)
    assert len(fed) == pytest.approx(4094 * 250 / 178, abs=1)
    wanted = np.sin(2 * np.pi * 10 * np.arange(len(fed)) / 250)
    np.testing.assert_allclose(fed[200:-200, 0], wanted[200:-200], atol=0.01)


def test_the_clean_line_is_the_plain_score_and_the_rest_is_about_the_same_rows(bonn, table_of):
    rows = table_of((1, 2, 4))
    numbers = np.arange(69)
    done = []
    lines = r.robustness(bonn, rows, numbers, seed=5, on_done=done.append)
    assert len(lines) == sum(done) == len(r.CONDITIONS)
    report, _ = score_rows(bonn, rows, numbers, seed=5)
    clean = lines[0]
    assert clean.condition == "clean"
    assert clean.accuracy == report.figures.accuracy
    assert clean.seizure_recall == report.figures.recall["seizure"]
    assert {line.condition for line in lines} >= {
        "gain x0.25", "gain x4", "50 Hz hum, 10 µV amplitude", "offset +200 µV", "fed at 256 Hz"
    }  # fmt: skip
    assert lines == r.robustness(bonn, rows, numbers, seed=5)
