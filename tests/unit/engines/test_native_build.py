"""The package installs with and without a C++ compiler, and what is installed says which it was."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", reason="setuptools is not installed: pip install setuptools")

ROOT = Path(__file__).parents[3]
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
PARTS = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "constraints.txt")
FOLDERS = ("stream_classifier", "simulators")
pytestmark = pytest.mark.timeout(300)  # most of it is the compiler's

ASK = """
import json, sys
import stream_classifier
from stream_classifier import bundle, engines, errors
from stream_classifier.engines.native import NativeEngine
bonn = bundle.load_bundle("bonn")
try:
    refusal = engines.make_engine(bonn, name="native") and None
except errors.EngineError as error:
    refusal = str(error)
extension = sys.modules.get("stream_classifier.engines._native")
print(json.dumps({
    "package": stream_classifier.__file__,
    "engine": engines.make_engine(bonn).name,
    "default": engines.default_engine(),
    "refusal": refusal,
    "extension": extension and extension.__file__,
}))
"""


def run(folder, *command, **environment):
    """Run Python in a folder; return what it printed."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def sources(tmp_path):
    """A copy of what a user gets, in which nothing was built yet."""
    copy = tmp_path / "sources"
    copy.mkdir()
    for part in (*PARTS, "Makefile"):
        shutil.copy(ROOT / part, copy)
    for folder in FOLDERS:
        built = shutil.ignore_patterns("__pycache__", "_native*")
        shutil.copytree(ROOT / folder, copy / folder, ignore=built)
    return copy


def built(sources, **environment):
    """Build the package as an installation does, and ask it which engine it has."""
    library = sources.parent / "library"
    run(sources, "setup.py", "-q", "build", "--build-lib", str(library), **environment)
    said = json.loads(run(sources.parent, "-c", ASK, PYTHONPATH=str(library)))
    assert Path(said["package"]).is_relative_to(library)
    return said


def test_without_a_compiler_the_package_is_built_and_says_what_it_lacks(sources):
    nowhere = str(sources / "no-such-compiler")
    said = built(sources, CC=nowhere, CXX=nowhere, LDSHARED=nowhere)
    assert said["engine"] == "reference (numpy)"
    assert "the native engine was not built: that takes a C++ compiler" in said["default"]
    assert "sudo apt-get install g++" in said["refusal"]
    assert said["extension"] is None


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: sudo apt-get install g++")
def test_with_a_compiler_the_native_engine_is_built_for_every_python(sources):
    said = built(sources)
    assert said["engine"].startswith("native (C++, ")
    assert said["default"].startswith("native (C++, ")
    assert said["refusal"] is None
    assert ".abi3." in said["extension"] or os.name == "nt"


def test_the_source_distribution_has_all_that_the_native_engine_is_made_of(sources):
    run(sources, "setup.py", "-q", "sdist", "--dist-dir", str(sources.parent))
    (archive,) = sources.parent.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        held = {
            Path(name).relative_to(Path(name).parts[0]).as_posix() for name in content.getnames()
        }
    cpp = {f"stream_classifier/engines/cpp/{path.name}" for path in sources.glob("*/engines/cpp/*")}
    assert len(cpp) > 5
    assert cpp | set(PARTS) <= held
