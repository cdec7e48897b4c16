"""The service as it is shipped: what it is started with is what the command takes."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from stream_classifier import cli

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "stream-classifier@.service"


@pytest.fixture
def service():
    text = UNIT.read_text().replace("\\\n", " ")
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string(text)
    return parser["Service"]


def test_every_option_is_one_of_run_and_the_device_is_waited_for(service):
    program, command, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "stream-classifier"
    assert command == "run"
    run = typer.main.get_command(cli.app).commands["run"]
    known = {option for parameter in run.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    assert words[words.index("--wait") + 1] == "forever"


def test_no_password_stands_in_the_unit_or_on_the_command_line(service):
    assert "PASSWORD=" not in UNIT.read_text()
    assert "--password-file %d/" in service["ExecStart"]
    name = re.search(r"--password-file %d/(\S+)", service["ExecStart"])[1]
    assert service["LoadCredential"].startswith(f"{name}:")


def test_it_is_started_again_unless_a_person_has_to_mend_a_setting_or_the_model(service):
    assert service["Restart"] == "always"
    assert service["RestartPreventExitStatus"].split() == ["2", "3", "6"]
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) >= 10


def test_systemd_takes_it(tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "stream-classifier@bed3.service"
    installed = "/opt/stream_classifier/.venv/bin/stream-classifier"
    unit.write_text(UNIT.read_text().replace(installed, "/bin/true"))
    done = subprocess.run(
        [program, "verify", str(unit)], capture_output=True, text=True, check=False
    )
    newer = re.compile(r"Unknown key .*(RestartSteps|RestartMaxDelaySec)")
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    assert [line for line in said if not newer.search(line)] == []
