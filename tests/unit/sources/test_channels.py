from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_classifier.errors import StreamDescriptionError
from stream_classifier.sources.channels import ChannelText, plan_channels, uv_per_unit

EEG = [ChannelText(label=label, unit="uV", type="EEG") for label in ("C3", "C4", "T7")]


def plan(described=tuple(EEG), n_channels=None, **keywords):
    n_channels = len(described) if n_channels is None else n_channels
    return plan_channels("amp", described=described, n_channels=n_channels, **keywords)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        *[(unit, 1.0) for unit in ("uV", "UV", "uv", "\u00b5V", "\u03bcV", "microvolts")],
        *[(unit, 1.0) for unit in ("Microvolt", "MICROVOLTS", "microV", " uV ", "-6")],
        *[(unit, 1e3) for unit in ("mV", "mv", "millivolts", "Millivolt", "-3")],
        *[(unit, 1e6) for unit in ("V", "v", "volt", "Volts")],
        *[(unit, 1e-3) for unit in ("nV", "nanovolts", "-9")],
    ],
)
def test_the_usual_spellings_of_a_unit_are_known(unit, factor):
    assert uv_per_unit(unit) == factor


@pytest.mark.parametrize("unit", ["", "MV", "counts", "g", "0", "none", "uA", "mVolt2", "uV/Hz"])
def test_anything_else_is_not_guessed(unit):
    assert uv_per_unit(unit) is None


@given(st.text(max_size=20))
def test_no_unit_however_odd_breaks_it(unit):
    assert uv_per_unit(unit) in {None, 1e-3, 1.0, 1e3, 1e6}


def test_every_eeg_channel_is_used_and_the_others_are_named():
    described = [*EEG, ChannelText("X", "g", "ACC"), ChannelText("TRG", "", "Markers")]
    chosen = plan(described)
    assert chosen.labels == ("C3", "C4", "T7")
    assert chosen.columns == (0, 1, 2)
    assert chosen.notes == ("channels left out, not EEG: X (ACC), TRG (Markers)",)


def test_channels_are_picked_by_label_in_the_order_asked_for_of_any_type():
    described = [*EEG, ChannelText("A1", "mV", "AUX")]
    chosen = plan(described, wanted=["A1", "C4"])
    assert (chosen.labels, chosen.columns) == (("A1", "C4"), (3, 1))
    assert chosen.uv_per_unit == (1e3, 1.0)


def test_a_label_that_is_not_there_is_refused_with_the_nearest_one():
    with pytest.raises(
        StreamDescriptionError, match=r"no channel 't7'\. Did you mean 'T7'"
    ) as error:
        plan(wanted=["t7"])
    assert "C3, C4, T7" in str(error.value)


def test_a_label_that_is_not_unique_cannot_be_picked_but_all_can_be_read():
    described = [ChannelText("C3", "uV", "EEG")] * 2
    with pytest.raises(StreamDescriptionError, match="2 channels labelled 'C3'"):
        plan(described, wanted=["C3"])
    assert plan(described).columns == (0, 1)


def test_each_channel_has_its_own_unit():
    described = [ChannelText("a", "V"), ChannelText("b", "microvolts"), ChannelText("c", "mV")]
    assert plan(described).uv_per_unit == (1e6, 1.0, 1e3)


@pytest.mark.parametrize("unit", ["", "counts"])
def test_a_missing_or_unknown_unit_is_refused_and_can_be_given(unit):
    described = [ChannelText("C3", unit, "EEG")]
    with pytest.raises(StreamDescriptionError, match="--unit"):
        plan(described)
    assert plan(described, unit="mV").uv_per_unit == (1e3,)


def test_the_unit_of_a_channel_that_is_left_out_does_not_matter():
    assert plan([*EEG, ChannelText("X", "g", "ACC")]).uv_per_unit == (1.0, 1.0, 1.0)


def test_a_given_unit_goes_over_the_description_and_says_so():
    chosen = plan(unit="V")
    assert chosen.uv_per_unit == (1e6,) * 3
    assert chosen.notes == ("read as V, though it says uV",)


def test_a_given_unit_that_is_unknown_is_refused():
    with pytest.raises(StreamDescriptionError, match="'parsec' is not known"):
        plan(unit="parsec")


def test_a_stream_that_describes_nothing_can_be_read_with_a_unit():
    chosen = plan((), n_channels=3, unit="uV")
    assert chosen.labels == ("ch1", "ch2", "ch3")
    assert chosen.notes == ("channels without a label are called ch1, ch2, ch3",)


def test_a_description_of_another_number_of_channels_is_not_believed():
    with pytest.raises(StreamDescriptionError, match="--unit"):
        plan(EEG, n_channels=2)
    chosen = plan(EEG, n_channels=2, unit="uV")
    assert chosen.labels == ("ch1", "ch2")
    assert "lists 3 channels" in chosen.notes[0]


def test_a_stream_without_any_eeg_channel_is_refused():
    with pytest.raises(StreamDescriptionError, match=r"no EEG channel.*X \(ACC\)"):
        plan([ChannelText("X", "g", "ACC")])
