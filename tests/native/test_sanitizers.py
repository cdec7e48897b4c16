"""The engine's C++ is exact, touches no memory but its own, and its threads do not race."""

import ast
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CPP = ROOT / "stream_classifier" / "engines" / "cpp"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
MEMORY = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREADS = ("-fsanitize=thread",)


def flags_of_the_build():
    """What setup.py compiles with, but for how hard it tries: sums must be made the same way."""
    constants = [
        node.value
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    flags = [text for text in constants if text.startswith(("-std=", "-f", "-W"))]
    assert "-ffinite-math-only" in flags
    return flags


def compiled(folder, name, sources, *flags):
    """Compile, or return None with what the compiler said."""
    program = folder / name
    done = subprocess.run(
        [COMPILER, *flags, *map(str, sources), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    return (program if done.returncode == 0 else None), done.stderr


def stress(folder, *sanitizer):
    """The driver, slow under a sanitizer, else as quick as can be; or a skip that says why not."""
    if COMPILER is None:
        pytest.skip("no C++ compiler: sudo apt-get install g++")
    trial = folder / "trial.cpp"
    trial.write_text("int main() { return 0; }\n")
    program, said = compiled(folder, "trial", [trial], *sanitizer)
    if program is None or subprocess.run([program], capture_output=True, check=False).returncode:
        pytest.skip(f"{COMPILER} has no {' '.join(sanitizer)} here: {said.strip()[:200]}")
    sources = [Path(__file__).with_name("stress.cpp"), CPP / "engine.cpp", CPP / "kernels.cpp"]
    flags = [
        *flags_of_the_build(),
        *sanitizer,
        "-g",
        "-O1" if sanitizer else "-O3",
        "-pthread",
        f"-I{CPP}",
    ]
    program, said = compiled(folder, "stress", sources, *flags)
    assert program is not None, said
    return program


def run(program, *, seed, rounds):
    done = subprocess.run(
        [program, str(seed), str(rounds), "15"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"},
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert "numbers the same" in done.stdout


@pytest.mark.timeout(300)  # most of it is the compiler's
def test_no_stream_however_it_is_used_makes_the_engine_touch_what_is_not_its_own(tmp_path):
    run(stress(tmp_path, *MEMORY), seed=0, rounds=90)


@pytest.mark.timeout(300)
def test_threads_that_share_a_call_do_not_race(tmp_path):
    run(stress(tmp_path, *THREADS), seed=5, rounds=60)


@pytest.mark.timeout(300)
def test_cut_and_whole_are_the_same_to_the_bit_with_the_compiler_that_is_here(tmp_path):
    run(stress(tmp_path), seed=1000, rounds=500)
