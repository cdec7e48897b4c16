"""A slip in the configuration ends with exit code 3, and says where it is and what was meant."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import tomllib

import pytest

from stream_classifier import config
from stream_classifier.cli import main
from stream_classifier.errors import ConfigError

SECTIONS = config._sections()
KEYS = [
    (section, key)
    for section, model in SECTIONS.items()
    for key in model.model_fields
    if (section, key) not in config._SECRETS
]
NAMES = [".".join(key) for key in KEYS]
VALID = {".".join(key) for key in config._valid_keys()}

pytestmark = pytest.mark.fault(35)


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(config.ENV_PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(tmp_path, capsys):
    """Write a file and say why it is refused; every twentieth time as the command says it."""
    path = tmp_path / "some.toml"
    counter = itertools.count()

    def run(text):
        path.write_text(text, encoding="utf-8")
        if next(counter) % 20:
            with pytest.raises(ConfigError) as caught:
                config.load(path)
            assert caught.value.exit_code == 3
            return str(caught.value)
        code = main(["config", "show", "--config", str(path)])
        said = capsys.readouterr().err
        assert code == 3, f"exit code {code} for:\n{text}\n{said}"
        return said

    return run


def _written(section, key, value, style):
    """Say one thing in four ways TOML has, after text that looks like it; and on which line."""
    other, name = ("model", "bundle") if section == "source" else ("source", "name")
    before = [
        f"# [{section}]", f"# {key} = 1", "",
        f'{other}.{name} = """', f"[{section}]", f"{key} = 1\u2028{key} = 2", '"""', "",
    ]  # fmt: skip
    lines = {
        "table": [*before, f"[{section}]  # [{other}]", f"{key} = {value}  # {key}"],
        "dotted": [*before, f"{section} . {key} = {value}"],
        "inline": [*before, f"{section} = {{ {key} = {value} }}"],
        "quoted": [*before, f"['{section}']", f'"{key}" = {value}'],
    }[style]
    return "\n".join([*lines, "", "# the end"]) + "\n", len(lines)


STYLES = ("table", "dotted", "inline", "quoted")


def _slips(name, rng):
    """Ways in which a finger slips on a key."""
    at = rng.randrange(len(name))
    yield name[:at] + name[at + 1 :]
    yield name[:at] + name[at] + name[at:]
    yield name[:at] + rng.choice("abcdefghijklmnopqrstuvwxyz_") + name[at + 1 :]
    if len(name) > 1:
        at = rng.randrange(len(name) - 1)
        yield name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    yield name.upper()
    yield name.replace("_", "-")
    yield f"{name}s"


def _odd_types(schema):
    """Values of a type that the setting does not have, as TOML."""
    kinds = {one.get("type") for one in (schema, *schema.get("anyOf", ()))}
    yield from ("{ a = 1 }", "[[1]]", "1979-05-27", "true" if "boolean" not in kinds else "'maybe'")
    if kinds & {"integer", "number"}:
        yield from ("'many'", "[1]")
    else:
        yield "17"


def _out_of_range(schema):
    """Values beyond each end of what is allowed, as TOML."""
    for one in (schema, *schema.get("anyOf", ())):
        beyond = {
            "minimum": lambda end: [f"{end - 1}"],
            "maximum": lambda end: [f"{end + 1}"],
            "exclusiveMinimum": lambda end: [f"{end}"],
            "exclusiveMaximum": lambda end: [f"{end}"],
            "enum": lambda _: ["'none of these'", "-1"],
            "pattern": lambda pattern: [
                json.dumps(value)
                for value in ("+/#", "", "line\nbreak", "x" * 300 + "\u00b5")
                if not re.search(pattern, value)
            ],
            "type": lambda kind: {
                "number": ["nan", "-nan", "-inf"],
                "integer": ["1.5", "9" * 4000, "nan", "inf"],
            }.get(kind, []),
        }
        for word, values in beyond.items():
            if word in one:
                yield from values(one[word])


def _schema(section, key):
    return SECTIONS[section].model_json_schema(mode="validation")["properties"][key]


def test_a_mistyped_key_is_named_with_its_line_and_the_key_that_was_meant(refused, measured):
    rng = random.Random(35)
    n = n_meant = 0
    for section, key in KEYS:
        for slip in _slips(key, rng):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", slip) or f"{section}.{slip}" in VALID:
                continue
            text, line = _written(section, slip, '"x"', rng.choice(STYLES))
            said = refused(text)
            assert f"some.toml:{line}: unknown setting '{section}.{slip}'" in said
            meant = re.search(r"did you mean '([a-z_.]+)'", said)
            assert meant is not None, said
            assert meant[1] in VALID
            n += 1
            n_meant += meant[1] == f"{section}.{key}"
    measured("mistyped keys refused with line and nearest key", n)
    measured("of these the key that was meant", f"{n_meant / n:.1%}")
    assert n_meant > 0.95 * n


def test_a_mistyped_section_is_named_with_its_line_and_the_section_that_was_meant(refused):
    rng = random.Random(36)
    for section in SECTIONS:
        for slip in _slips(section, rng):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", slip) or slip in VALID:
                continue
            text, line = _written(slip, "name", '"x"', "table")
            said = refused(text)
            assert f"some.toml:{line - 1}: unknown setting '{slip}'" in said
            assert f"did you mean '{section}'" in said


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_another_type_is_refused_with_key_and_line(refused, name):
    section, key = name.split(".")
    for n, value in enumerate(_odd_types(_schema(section, key))):
        text, line = _written(section, key, value, STYLES[n % 4])
        said = refused(text)
        assert f"some.toml:{line}: {name}: " in said, (value, said)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_out_of_range_is_refused_with_key_and_line(refused, name):
    section, key = name.split(".")
    for n, value in enumerate(_out_of_range(_schema(section, key))):
        text, line = _written(section, key, value, STYLES[n % 4])
        said = refused(text)
        assert f"some.toml:{line}: {name}: " in said, (value, said)


@pytest.mark.parametrize("name", NAMES)
def test_the_environment_and_flags_are_refused_as_the_file_is(name, monkeypatch):
    section, key = name.split(".")
    variable = f"{config.ENV_PREFIX}{section}__{key}".upper()
    monkeypatch.setenv(f"{variable}X", "1")
    with pytest.raises(ConfigError, match=rf"unknown setting {variable}X; did you mean \w+\?"):
        config.load()
    monkeypatch.delenv(f"{variable}X")
    for value in _out_of_range(_schema(section, key)):
        monkeypatch.setenv(variable, tomllib.loads(f"x = {value}")["x"] if '"' in value else value)
        with pytest.raises(ConfigError, match=f"environment {variable}: {re.escape(name)}: "):
            config.load()


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", ["{", "[1]", '"x"', '{"nonsense": 1}', "\x1b[2J"])
def test_a_whole_section_in_the_environment_is_refused_where_it_is_none(
    monkeypatch, section, value
):
    monkeypatch.setenv(f"{config.ENV_PREFIX}{section}".upper(), value)
    with pytest.raises(ConfigError, match=r"environment"):
        config.load()
