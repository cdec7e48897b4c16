"""The command line: what is slipped is said in one line, and nothing is taken by half."""

import pytest

from stream_classifier import cli
from stream_classifier.cli.run import _assign
from stream_classifier.errors import ConfigError


def test_set_takes_toml_values_and_bare_words():
    flags = {"alarm": {"smoothing_s": 1}}
    for text in ("alarm.smoothing_s=2.5", "model.engine=reference", "source.channels=['C3']"):
        _assign(flags, text)
    assert flags == {
        "alarm": {"smoothing_s": 2.5},
        "model": {"engine": "reference"},
        "source": {"channels": ["C3"]},
    }


@pytest.mark.parametrize("text", ["alarm", "=2", "alarm=2", "mqtt.a.broker=x", "mqtt.=x", ".x=1"])
def test_set_refuses_what_is_no_setting(text):
    with pytest.raises(ConfigError, match=r"SECTION\.KEY=VALUE"):
        _assign({}, text)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "--set", "mqtt.password=x"], 3, "not taken from the command line"),
        (["run", "--set", "mqtt.brokr=x"], 3, "did you mean 'mqtt.broker'?"),
        (["run", "--engine", "gpu"], 3, "model.engine"),
        (["run", "--config", "/none.toml"], 3, "does not exist"),
        (["run", "--bundle", "/none"], 6, "/none"),
        (["evaluate", "--protocol", "people"], 2, ""),
        (["no-such-command"], 2, ""),
        (["--version"], 0, ""),
    ],
)
def test_a_slip_is_one_clear_line_and_its_exit_code(arguments, code, said, capsys):
    assert cli.main(arguments) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_defect_is_told_apart_from_a_slip(monkeypatch, capsys):
    def broken(*_arguments, **_more):
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr(cli, "app", broken)
    assert cli.main(["run"]) == 1
    assert "unexpected RuntimeError: what nobody thought of" in capsys.readouterr().err
    with pytest.raises(RuntimeError):
        cli.main(["--debug", "run"])
