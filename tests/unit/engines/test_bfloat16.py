"""Products in bfloat16: refused where they change much; the hardware's bits, emulated."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_classifier import cli, config, doctor
from stream_classifier.bundle import load_bundle, shipped
from stream_classifier.detection.scaler import FrozenScaler
from stream_classifier.engines import instruction_sets, make_engine, native
from stream_classifier.engines.native import (
    MAX_BFLOAT16_ERROR,
    NativeEngine,
    bfloat16_instruction_sets,
    emulated_instruction_sets,
)
from stream_classifier.engines.plan import Plan
from stream_classifier.engines.reference import classify_windows
from stream_classifier.errors import ConfigError, EngineError
from tests.unit.engines.test_engines import BONN, BUNDLES, Z, every_bundle, run, sigmoid
from tests.unit.engines.test_exactness import SIGNAL, stem

PLAIN = Path(__file__).parents[3] / "benchmarks" / "models" / "plain"
TRAINED = {name: load_bundle(name) for name in shipped()} | {"plain": load_bundle(PLAIN)}
EMULATED, HARDWARE = emulated_instruction_sets(), bfloat16_instruction_sets()
LOG2_E = 1 / np.log(2)

pytestmark = pytest.mark.skipif(
    not EMULATED, reason="the native engine was not built: it needs a C++ compiler"
)
every_trained = pytest.mark.parametrize("bundle", TRAINED.values(), ids=TRAINED)
emulated = pytest.mark.parametrize("instructions", EMULATED)
in_bfloat16 = pytest.mark.parametrize("instructions", [*HARDWARE, *EMULATED])
needs_hardware = pytest.mark.skipif(
    not HARDWARE, reason="this processor has no AVX-512 BF16, or the compiler is older than it"
)


@pytest.fixture
def has_bfloat16(monkeypatch):
    """A processor with bfloat16, whatever this one is."""
    monkeypatch.setattr(native, "bfloat16_instruction_sets", lambda: EMULATED[:1])


def single_windows(bundle, instructions):
    def build(bundle, *, hop_samples):
        return NativeEngine(bundle, hop_samples=hop_samples, instructions=instructions)

    return classify_windows(bundle, bundle.selftest_windows, build=build)


def rounded(x):
    """To the nearest bfloat16, the even one of two as near."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    bits = bits + 0x7FFF + (bits >> 16 & 1)
    return (bits & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def from_scratch(bundle, *, product):
    """The self-test's probabilities in float64, with the LSTM's products by ``product``."""
    scaler = FrozenScaler(mean_uv=bundle.scaler_mean_uv, std_uv=bundle.scaler_std_uv)
    x = stem(bundle, scaler.scale(bundle.selftest_windows))
    hidden = bundle.network.hidden
    scale = LOG2_E * np.repeat([-1, -1, -2, -1], hidden)[:, None]  # the engine uses powers of 2
    for layer in bundle.network.layer_names:
        w_in, w_rec, bias = (
            bundle.weights[f"{layer}.{kind}"].astype(np.float64)
            for kind in ("weight_ih", "weight_hh", "bias")
        )
        is_shared = bundle.mode == "windowed" and layer == "lstm"  # stays in float32
        h = c = np.zeros((len(x), hidden))
        states = []
        for step in range(x.shape[1]):
            seen = x[:, step]
            gates = seen @ w_in.T if is_shared else product(seen, w_in * scale) / scale.T
            gates = gates + product(h, w_rec * scale) / scale.T + bias
            i, f, g, o = np.split(gates, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            states.append(h)
        x = np.stack(states, axis=1)
    x = x[:, -Plan.of(bundle, hop_samples=8).n_steps :]
    readout = np.concatenate([x[:, -1], x.mean(axis=1), x.max(axis=1)], axis=1)
    head, bias = (bundle.weights[f"head.{kind}"].astype(np.float64) for kind in ("weight", "bias"))
    p = np.exp(readout @ head.T + bias)
    p /= p.sum(axis=1, keepdims=True)
    return np.stack([p[:, 0], p[:, 1], p[:, 2:].sum(axis=1)], axis=1)


@in_bfloat16
@every_trained
def test_a_trained_network_hardly_changes(bundle, instructions):
    found = single_windows(bundle, instructions)
    error = np.abs(found - bundle.selftest_probabilities).max()
    assert 1e-5 < error < MAX_BFLOAT16_ERROR  # it is in bfloat16, too
    assert (found.argmax(axis=1) == bundle.selftest_probabilities.argmax(axis=1)).all()


@in_bfloat16
@every_trained
def test_what_is_rounded_is_inputs_and_weights_of_the_lstm_and_nothing_else(bundle, instructions):
    exact = from_scratch(bundle, product=lambda x, w: x @ w.T)
    expected = from_scratch(bundle, product=lambda x, w: rounded(x) @ rounded(w).T)
    found = single_windows(bundle, instructions)
    # The last bit of a float32 may turn a rounding to bfloat16, so that they are near, not alike.
    off, rounding = (np.sqrt(np.mean((other - expected) ** 2)) for other in (found, exact))
    assert off < rounding / 2


@pytest.mark.parametrize("instructions", [*HARDWARE, *EMULATED][:1])
@every_trained
def test_of_thousands_of_decisions_hardly_one_changes(bundle, instructions):
    found, expected = (
        run(NativeEngine(bundle, hop_samples=8, instructions=name), SIGNAL)
        for name in (instructions, None)
    )
    off = np.abs(found - expected).max(axis=2)
    assert np.quantile(off, 0.999) < 1e-2
    assert off.max() < 2e-2
    assert np.mean(found.argmax(axis=2) != expected.argmax(axis=2)) < 1e-3


@in_bfloat16
@every_bundle
def test_odd_numbers_of_units_and_inputs_are_no_trouble(bundle, instructions):
    found = run(NativeEngine(bundle, hop_samples=8, instructions=instructions), Z[:1000, None])
    expected = run(make_engine(bundle, name="reference", hop_samples=8), Z[:1000, None])
    assert 1e-5 < np.abs(found - expected).max() < 0.1  # louder networks than trained ones
    assert np.abs(found - expected).mean() < 0.01


@given(st.lists(st.integers(0, 10**6), max_size=30), st.sampled_from([4, 8, 40]), st.integers(1, 5))
@settings(max_examples=6)
@in_bfloat16
@every_bundle
def test_it_does_not_care_how_samples_are_cut(bundle, instructions, cuts, hop, n_channels):
    z = np.stack([np.roll(Z[:600], 77 * c) for c in range(n_channels)], axis=1)
    whole, cut = (
        run(NativeEngine(bundle, hop_samples=hop, instructions=instructions), z, where)
        for where in ((), cuts)
    )
    assert whole.tobytes() == cut.tobytes()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=20), st.integers(0, 10**6))
@settings(max_examples=6)
@in_bfloat16
@every_bundle
def test_it_does_not_care_who_else_is_in_the_batch(bundle, instructions, widths, shift):
    engine = NativeEngine(bundle, hop_samples=8, instructions=instructions)
    streams = {
        engine.open(width): np.stack(
            [np.roll(Z[:300], shift + 31 * i + 57 * c) for c in range(width)], axis=1
        )
        for i, width in enumerate(widths)
    }
    together = engine.feed(streams)
    for handle, z in streams.items():
        alone = run(NativeEngine(bundle, hop_samples=8, instructions=instructions), z)
        assert together[handle].tobytes() == alone.tobytes()


@emulated
@every_bundle
def test_a_snapshot_goes_on_with_the_same_bits(bundle, instructions):
    first, second = (
        NativeEngine(bundle, hop_samples=8, instructions=instructions) for _ in range(2)
    )
    handle = first.open(1)
    first.feed({handle: Z[:333, None]})
    resumed = second.restore(first.snapshot(handle))
    rest = Z[333:700, None]
    assert first.feed({handle: rest})[handle].tobytes() == (
        second.feed({resumed: rest})[resumed].tobytes()
    )


@needs_hardware
@every_trained
def test_the_hardware_s_bits_are_those_of_the_emulation(bundle):
    found, expected = (
        single_windows(bundle, instructions)
        for instructions in ("AVX-512 BF16", "AVX-512, emulated BF16")
    )
    assert found.tobytes() == expected.tobytes()


@needs_hardware
@every_bundle
def test_the_hardware_s_bits_are_those_of_the_emulation_on_a_long_run(bundle):
    z = np.stack([np.roll(Z, 77 * c) for c in range(7)], axis=1)
    found, expected = (
        run(NativeEngine(bundle, hop_samples=8, instructions=instructions), z)
        for instructions in ("AVX-512 BF16", "AVX-512, emulated BF16")
    )
    assert found.tobytes() == expected.tobytes()


@needs_hardware
def test_the_engine_s_name_says_it():
    assert make_engine(BONN, precision="bfloat16").name == "native (C++, AVX-512 BF16)"


def test_nothing_takes_it_unasked():
    assert not {*HARDWARE, *EMULATED} & {*instruction_sets()}
    assert make_engine(BONN, name="native").instructions in instruction_sets()


def test_the_measured_error_is_logged(has_bfloat16, caplog):
    caplog.set_level(logging.INFO)
    engine = make_engine(BONN, precision="bfloat16", n_threads=2)
    assert engine.instructions == EMULATED[0]
    error = np.abs(single_windows(BONN, EMULATED[0]) - BONN.selftest_probabilities).max()
    assert f"bfloat16 changes the self-test of bundle bonn by {error:.1e}" in caplog.messages


@pytest.mark.parametrize(("half", "warns"), [(90.0, True), (350.0, False)])
def test_a_processor_that_is_no_faster_with_it_is_warned_of(
    has_bfloat16, caplog, monkeypatch, half, warns
):
    peaks = {EMULATED[0]: half, None: 180.0}
    monkeypatch.setattr(native, "fma_peak_gflops", lambda name, **_: peaks[name])
    make_engine(BONN, precision="bfloat16")
    said = "bfloat16 is no gain on this processor: 90 GFLOP/s, against 180 with float32"
    assert (said in caplog.messages) == warns


def test_a_processor_without_it_is_refused(monkeypatch):
    monkeypatch.setattr(native, "bfloat16_instruction_sets", tuple)
    has = re.escape(", ".join(instruction_sets()))
    with pytest.raises(
        EngineError, match=f"a processor with AVX-512 BF16; found {has}. Try: --set"
    ):
        make_engine(BONN, precision="bfloat16")


@pytest.mark.parametrize(
    ("found", "other"),
    [
        ("reference", {"name": "reference"}),
        ("torch", {"name": "torch"}),
        ("cuda", {"device": "cuda"}),
    ],
)
def test_another_engine_is_refused(has_bfloat16, found, other):
    with pytest.raises(EngineError, match=f"expected the native engine, found {found}. Try: "):
        make_engine(BONN, precision="bfloat16", **other)


def test_a_network_that_it_would_change_is_refused(has_bfloat16):
    loud = replace(
        BONN,
        weights={
            name: 6 * weight if name.startswith("lstm.weight") else weight
            for name, weight in BONN.weights.items()
        },
    )
    loud = replace(loud, selftest_probabilities=classify_windows(loud, loud.selftest_windows))
    make_engine(loud)
    with pytest.raises(EngineError, match=r"change by less than 0\.005; found [\d.]+e-0[12]\. Try"):
        make_engine(loud, precision="bfloat16")


def test_a_hop_that_does_not_fit_is_still_refused(has_bfloat16):
    with pytest.raises(EngineError, match="multiple of 4"):
        make_engine(BONN, precision="bfloat16", hop_samples=7)


def test_it_is_a_setting():
    assert config.load(flags={}).model.precision == "float32"
    assert config.load(flags={"model": {"precision": "bfloat16"}}).model.precision == "bfloat16"
    with pytest.raises(ConfigError, match=r"model\.precision.*'float32' or 'bfloat16'"):
        config.load(flags={"model": {"precision": "float16"}})


def test_run_refuses_it_before_it_looks_for_a_stream(capsys):
    arguments = ["run", "--engine", "reference", "--set", "model.precision=bfloat16"]
    assert cli.main(arguments) == 6
    assert "expected the native engine, found reference" in capsys.readouterr().err


def test_the_doctor_tries_the_engine_with_it(has_bfloat16):
    found = doctor._engine(config.ModelSettings(bundle="bonn", precision="bfloat16"))
    assert found.state == "ok"
    assert found.said.startswith(f"native (C++, {EMULATED[0]}), self-test off by 1.6e-03")


def test_the_bundles_here_have_odd_numbers_of_units_and_inputs():
    assert {bundle.network.hidden % 2 for bundle in BUNDLES.values()} == {0, 1}
    inputs = {
        bundle.network.stem[-1].channels for bundle in BUNDLES.values() if bundle.network.stem
    }
    assert {n % 2 for n in inputs} == {0, 1}
