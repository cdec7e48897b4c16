"""liblsl configures itself once a process, so every case runs in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

pytestmark = pytest.mark.lsl

LOSE_A_STREAM = """
import sys, pylsl
from stream_classifier.sources.lsl_runtime import quiet_liblsl
if sys.argv[1] != "untouched":
    quiet_liblsl(debug=sys.argv[1] == "debug")
name = sys.argv[2]
outlet = pylsl.StreamOutlet(pylsl.StreamInfo(name, "EEG", 1, 100.0, "float32", name))
inlet = pylsl.StreamInlet(pylsl.resolve_byprop("name", name, timeout=10.0)[0], recover=False)
inlet.open_stream(timeout=10.0)
print("session", outlet.get_info().session_id())
del outlet
try:
    for _ in range(200):
        inlet.pull_sample(timeout=0.05)
except pylsl.util.LostError:
    print("lost")
"""


def lose_a_stream(mode, tmp_path, **environment):
    inherited = {key: value for key, value in os.environ.items() if key != "LSLAPICFG"}
    return subprocess.run(
        [sys.executable, "-c", LOSE_A_STREAM, mode, f"quiet-{uuid.uuid4()}"],
        cwd=tmp_path,
        env={
            **inherited,
            "HOME": str(tmp_path),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_a_lost_stream_leaves_nothing_on_the_terminal(tmp_path):
    done = lose_a_stream("quiet", tmp_path)
    assert done.stdout.splitlines() == ["session default", "lost"]
    assert done.stderr == ""


@pytest.mark.parametrize("mode", ["debug", "untouched"])
def test_in_debug_liblsl_says_what_it_always_says(mode, tmp_path):
    assert "Stream transmission broke off" in lose_a_stream(mode, tmp_path).stderr


@pytest.mark.parametrize("place", ["LSLAPICFG", "lsl_api.cfg", "lsl_api/lsl_api.cfg"])
def test_the_users_own_configuration_stays_in_force(place, tmp_path):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes("; für Station 7\n[lab]\nSessionID = ward7\n".encode("latin-1"))
    done = lose_a_stream("quiet", tmp_path, LSLAPICFG=str(path) if place == "LSLAPICFG" else "")
    assert done.stdout.splitlines() == ["session ward7", "lost"]
    assert done.stderr == ""


def test_a_log_level_the_user_chose_is_not_changed(tmp_path):
    (tmp_path / "lsl_api.cfg").write_text("[log]\nlevel = -2\n", encoding="utf-8")
    assert "Stream transmission broke off" in lose_a_stream("quiet", tmp_path).stderr
