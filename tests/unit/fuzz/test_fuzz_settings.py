"""TOML of people: settings, scenarios and recipes are read, or refused with the reason."""

from __future__ import annotations

import os
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators import scenario
from stream_classifier import config
from stream_classifier.errors import ConfigError, StreamClassifierError
from stream_classifier.sinks.broker import broker_settings, parse_broker_url
from stream_classifier.toml_file import MAX_TOML_BYTES, MAX_TOML_DEPTH, parse_toml


def _is_toml(line):
    try:
        tomllib.loads(line)
    except ValueError:
        return False
    return True


SETTINGS = "\n".join(
    filter(_is_toml, (s.removeprefix("# ") for s in config.template().split("\n")))
)
SCENARIO = """
title = "x"
seed = 1
source = "synthetic"
crossfade_s = 0.25
[[part]]
state = "background"
seconds = 20
[[part]]
label = 1
seconds = 10
[[part]]
recording = ["V1.791", "V1.1"]
[[fault]]
kind = "gap"
at = 12
seconds = 3
"""
RECIPE = 'mode = "windowed"\nepochs = 3\nseed = 1\nlearning_rate = 1e-3\n'

TOML = st.recursive(
    st.one_of(
        st.booleans().map(lambda b: str(b).lower()),
        st.integers(-(2**70), 2**70).map(str),
        st.floats().map(str),
        st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20)
        .filter(lambda text: not set(text) & {"'"})
        .map(lambda text: f"'{text}'"),
        st.sampled_from(["1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "inf", "nan", "0x_1"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda values: f"[{', '.join(values)}]"),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
        ),
    ),
    max_leaves=6,
)


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in list(os.environ):
        if name.startswith(config.ENV_PREFIX):
            monkeypatch.delenv(name)


def _readers(tmp_path):
    path = tmp_path / "some.toml"

    def through(read):
        def call(raw):
            path.write_bytes(raw)
            return read(path)

        return call

    yield SETTINGS, through(config.load)
    yield SCENARIO, through(scenario.load)
    try:
        from stream_classifier.training.recipe import load_recipe
    except ImportError:  # an extra
        return
    yield RECIPE, through(load_recipe)


def test_damaged_toml_is_refused_or_read(tmp_path, n_cases, mutated, refused):
    tomllib.loads(SETTINGS)
    for whole, read in _readers(tmp_path):
        n_refused = 0
        for _ in range(n_cases):
            raw = mutated(whole.encode(), SETTINGS.encode(), SCENARIO.encode())
            n_refused += refused(lambda raw=raw, read=read: read(raw))
        assert n_refused > n_cases / 4


KEYS = st.sampled_from(["title", "seed", "source", "crossfade_s", "part", "fault", "other"])
PART_KEYS = st.sampled_from(
    ["state", "label", "recording", "seconds", "source", "kind", "at", "channels", "x"]
)


def _odd_scenarios(n):
    @given(
        st.dictionaries(KEYS, TOML, max_size=3),
        st.lists(st.dictionaries(PART_KEYS, TOML, max_size=4), max_size=3),
        st.sampled_from(["part", "fault"]),
    )
    @settings(max_examples=n, deadline=None)
    def check(top, tables, name):
        lines = [f"{key} = {value}" for key, value in top.items()]
        for table in tables:
            lines += [f"[[{name}]]", *(f"{key} = {value}" for key, value in table.items())]
        try:
            scenario.parse("\n".join(lines))
        except ConfigError as error:
            said = str(error)
            if not said:
                raise AssertionError from error

    return check


def test_a_scenario_of_odd_values_is_refused_or_read(n_examples):
    _odd_scenarios(n_examples)()


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 15_000, "x = " + "{a=" * 5_000, "a" + ".a" * 3_000 + " = 1",
        "seed" + ".a" * 100 + " = 1", "x = " + "9" * 5_000, "[" + "a." * 5_000 + "a]",
        "x = 1979-99-99", "\0", "x = '\x1b[2J", "part" + ".a" * 17 + " = 1",
    ],
    ids=lambda text: repr(text[:8]),
)  # fmt: skip
def test_toml_without_end_is_refused_by_every_reader(tmp_path, refused, text):
    for _, read in _readers(tmp_path):
        assert refused(lambda read=read: read(text.encode()))


def test_toml_may_be_as_deep_as_it_says_and_no_deeper():
    assert parse_toml("a" + ".a" * (MAX_TOML_DEPTH - 1) + " = 1")
    with pytest.raises(ValueError, match="deep"):
        parse_toml("a" + ".a" * MAX_TOML_DEPTH + " = 1")


def _odd_files(folder):
    huge = folder / "huge.toml"
    with huge.open("wb") as file:
        file.truncate(10 * 2**30)
    larger = folder / "larger.toml"
    larger.write_text("#" * (MAX_TOML_BYTES + 1))
    pipe = folder / "pipe.toml"
    os.mkfifo(pipe)
    binary = folder / "binary.toml"
    binary.write_bytes(b"\xff\xfe\0")
    (folder / "folder.toml").mkdir()
    return [
        huge, larger, pipe, binary, folder / "folder.toml", "/dev/zero", "/dev/null", "/dev/full",
        "/proc/self/mem", folder / ("x" * 5000), folder / "none.toml", folder / "\0",
    ]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.timeout(20)
def test_pipes_devices_and_huge_files_are_refused_at_once_wherever_a_file_is_named(tmp_path):
    from pathlib import Path

    from stream_classifier.bundle import load_bundle
    from stream_classifier.sinks.broker import TlsSettings
    from stream_classifier.sinks.connection import _tls_context

    for path in map(Path, _odd_files(tmp_path)):
        for read in (
            config.load,
            scenario.load,
            load_bundle,
            lambda file: broker_settings("mqtt://u@h", password_file=file),
            lambda file: _tls_context(TlsSettings(ca_file=file)),
        ):
            with pytest.raises(StreamClassifierError, match=r"\S"):
                read(path)


def test_the_password_is_not_quoted_where_its_file_is_no_text(tmp_path):
    path = tmp_path / "password"
    path.write_bytes(b"sesame\xff")
    with pytest.raises(ConfigError) as caught:
        broker_settings("mqtt://u@h", password_file=path)
    assert "sesame" not in str(caught.value)
    assert caught.value.__cause__ is None


def _addresses(n):
    @given(
        st.one_of(
            st.text(max_size=60),
            st.text(alphabet="mqts:/@?[]%.-0123456789\0\x1b ab\u0130", max_size=40).map(
                lambda rest: f"mqtt://{rest}"
            ),
        )
    )
    @settings(max_examples=n, deadline=None)
    def check(url):
        try:
            broker = parse_broker_url(url)
        except ConfigError:
            return
        assert 0 < broker.port < 65_536
        assert broker.host.isprintable()
        broker.host.encode("idna")  # as looking it up does

    return check


@pytest.mark.parametrize("host", ["a..b", "a" * 64, ".a", "x\x01y", "x\0y", "\ud800"])
def test_a_host_that_cannot_be_looked_up_is_refused(host):
    with pytest.raises(ConfigError, match="expected mqtt://"):
        parse_broker_url(f"mqtt://{host}")


def test_an_address_of_a_broker_is_read_or_refused(n_examples):
    _addresses(n_examples)()
