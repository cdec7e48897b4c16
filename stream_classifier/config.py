"""Every setting, typed, with its unit. TOML file < environment < command-line flags.

The file is the first that exists of: ``--config``, ``STREAM_CLASSIFIER_CONFIG``,
``./stream-classifier.toml``, and ``stream-classifier.toml`` in the user's configuration
folder. The environment uses two underscores between section and key:
``STREAM_CLASSIFIER_MQTT__BROKER``. Settings are resolved once at the edge; each stage
receives its own section and nobody reads the environment later. Secrets come from the
environment or a file only, and are never shown.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import platformdirs
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from stream_classifier.errors import ConfigError
from stream_classifier.toml_file import parse_toml, read_toml

ENV_PREFIX = "STREAM_CLASSIFIER_"
CONFIG_FILE = "stream-classifier.toml"
_NOT_SETTINGS = {"STREAM_CLASSIFIER_CONFIG", "STREAM_CLASSIFIER_DATA"}
_SECRETS = {("mqtt", "password")}


def parse_wait_s(value: object) -> object:
    """Read a waiting time: seconds, or the word ``forever``."""
    return math.inf if isinstance(value, str) and value.strip().lower() == "forever" else value


def _split_labels(value: object) -> object:
    """Allow ``C3,C4`` where a list of labels is meant (flags and environment)."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Labels = Annotated[tuple[str, ...] | None, BeforeValidator(_split_labels)]
_Probability = Annotated[float, Field(gt=0, lt=1)]
_Seconds = Annotated[float, Field(ge=0, le=3600)]


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_odd_numbers(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what pydantic would take for a number: true for 1, and NaN for any."""
        wanted = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (wanted, *get_args(wanted)):
            raise ValueError(f"Input should not be {str(value).lower()}")
        if isinstance(value, float) and math.isnan(value):
            raise ValueError("Input should be a number, not NaN")
        return value


class SourceSettings(Section):
    """Which LSL stream to attach to; what is not given is not compared."""

    name: str | None = Field(None, description="LSL stream name")
    type: str | None = Field("EEG", description="LSL stream type")
    source_id: str | None = Field(None, description="LSL source_id, the surest choice")
    channels: Labels = Field(None, description="labels of the channels to use; unset: all EEG")
    unit: str | None = Field(None, description="unit of the samples where the stream does not say")
    mains_hz: Literal[50, 60] = Field(50, description="frequency of the mains at the device, Hz")
    wait_s: Annotated[float, BeforeValidator(parse_wait_s), Field(ge=0)] = Field(
        10.0, description='seconds to wait for the stream at the start, or "forever"'
    )
    recording: str | None = Field(
        None, description="play this instead: a file, or the key of a recording of the data set"
    )
    speed: Annotated[float, Field(ge=0, le=1000)] = Field(
        0.0, description="of a recording: seconds of signal a second; 0: as fast as it goes"
    )
    rate_hz: Annotated[float, Field(gt=0)] | None = Field(
        None, description="sampling rate of a recording that is text and does not say"
    )


class ModelSettings(Section):
    """Which model, and what runs it."""

    bundle: str | None = Field(
        None,
        description="name of a shipped bundle, or a bundle's folder; unset: headset, for the data "
        "set's own recordings bonn",
    )
    engine: Literal["auto", "native", "reference", "torch"] = Field(
        "auto",
        description="what runs the LSTM; auto: native where it was built, else reference",
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="where the torch engine runs; auto takes torch for cuda"
    )
    hop_samples: Annotated[int, Field(ge=1, le=120)] | None = Field(
        None, description="samples from one window to the next; unset: the bundle's"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the LSTM's products; bfloat16 (native engine, AVX-512 BF16) is refused "
        "where it changes the bundle's self-test",
    )


class AlarmSettings(Section):
    """When a seizure alert is raised and ended; what is unset comes from the bundle."""

    raise_threshold: _Probability | None = Field(None, description="p(seizure) that raises")
    clear_threshold: _Probability | None = Field(None, description="p(seizure) below which it ends")
    smoothing_s: _Seconds | None = Field(None, description="seconds of windows averaged")
    persistence_s: _Seconds | None = Field(None, description="seconds above the raise threshold")
    refractory_s: _Seconds | None = Field(
        None, description="seconds below the clear threshold before an alert is ended"
    )
    channels_needed: Annotated[int, Field(ge=1, le=512)] | None = Field(
        None,
        description="channels side by side that must agree; all usable ones where they are fewer",
    )
    latched: bool = Field(
        False, description="whether an alert stands until a person acknowledges it (mqtt.commands)"
    )
    remind_every_s: Annotated[float, Field(ge=5, le=3600)] = Field(
        60.0, description="seconds between reminders of a latched alert"
    )


class MqttSettings(Section):
    """Where results go."""

    broker: str = Field(
        "mqtt://127.0.0.1:1883",
        description='mqtt://host:port, mqtts://host:port, "embedded", or "none" (alerts of a '
        "recording are printed; its default)",
    )
    username: str | None = Field(None, description="user name at the broker")
    password: SecretStr | None = Field(None, description="environment only; or use password_file")
    password_file: Path | None = Field(None, description="file that holds the password")
    ca_file: Path | None = Field(None, description="certificate authority for mqtts")
    cert_file: Path | None = Field(None, description="client certificate for mqtts")
    key_file: Path | None = Field(None, description="key of the client certificate")
    base_topic: str = Field("stream_classifier", pattern=r"^[A-Za-z0-9_\-]+(/[A-Za-z0-9_\-]+)*$")
    client_id: str | None = Field(
        None, pattern=r"^[\x20-\x7e]{1,128}$", description="unset: made from the stream's name"
    )
    keepalive_s: Annotated[int, Field(ge=2, le=3600)] = Field(5, description="seconds")
    stream: str | None = Field(None, description="name to publish under; unset: the LSL name")
    commands: bool = Field(
        False,
        description="whether alerts may be acknowledged and muted over MQTT, by whom the broker's "
        "access list lets write set/#",
    )

    def transport(self) -> dict[str, Any]:
        """Return how to reach the broker, beside its address."""
        return self.model_dump(exclude={"broker", "stream", "commands"})


class OutboxSettings(Section):
    """The file that keeps alerts until the broker has them."""

    path: Path | None = Field(
        None, description="unset: one file a stream in the user's state folder"
    )
    max_age_h: Annotated[float, Field(gt=0, le=87_600)] = Field(
        72.0, description="hours an event is kept"
    )
    max_rows: Annotated[int, Field(ge=100, le=10_000_000)] = Field(
        100_000, description="events kept at most"
    )


class MonitorSettings(Section):
    """The web page that shows signal, p(seizure), alerts and health."""

    on: bool = Field(False, description="whether the page is served")
    host: str = Field(
        "127.0.0.1",
        description="address to listen on; beyond this machine a token is made, and asked for",
    )
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(0, description="0: a free one")


class RecordSettings(Section):
    """What is kept of the signal."""

    folder: Path | None = Field(
        None, description="record the stream here, in a folder of its own; unset: it is not"
    )
    file_h: Annotated[float, Field(ge=0.001, le=24)] = Field(1.0, description="hours of a file")
    max_age_h: Annotated[float, Field(gt=0, le=87_600)] = Field(
        168.0, description="hours a file is kept"
    )
    max_gb: Annotated[float, Field(gt=0, le=100_000)] = Field(
        10.0, description="gigabytes of one stream at most; clips of alerts are deleted last"
    )
    min_free_gb: Annotated[float, Field(ge=0, le=100_000)] = Field(
        0.5, description="gigabytes left free on the disk; recording stops, alerts go on"
    )


class DatasetSettings(Section):
    """Where ``dataset fetch`` looks."""

    url: str | None = Field(None, description="address of the data set's CSV; unset: the built-in")


class Settings(BaseSettings):
    """All settings of one run."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="of stderr")
    source: SourceSettings = SourceSettings()
    model: ModelSettings = ModelSettings()
    alarm: AlarmSettings = AlarmSettings()
    mqtt: MqttSettings = MqttSettings()
    outbox: OutboxSettings = OutboxSettings()
    record: RecordSettings = RecordSettings()
    monitor: MonitorSettings = MonitorSettings()
    dataset: DatasetSettings = DatasetSettings()


def find_config(path: Path | None = None) -> Path | None:
    """Say which configuration file is read, or None.

    Raises:
        ConfigError: If a file was named that does not exist.
    """
    named = path or (Path(v) if (v := os.environ.get("STREAM_CLASSIFIER_CONFIG")) else None)
    if named is not None:
        if not os.path.exists(named):  # noqa: PTH110 - False for names that no file can have, too
            raise ConfigError(
                f"configuration file {named} does not exist. "
                f"Try: stream-classifier config init {named}"
            )
        return named
    places = (Path(CONFIG_FILE), platformdirs.user_config_path("stream_classifier") / CONFIG_FILE)
    return next((place for place in places if place.is_file()), None)


def load(path: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Resolve all settings once.

    Args:
        path: Configuration file; None looks in the usual places.
        flags: Nested by section, e.g. ``{"mqtt": {"broker": "embedded"}}``; None values
            mean that a flag was not given.

    Raises:
        ConfigError: If a key is unknown, or a value has the wrong type or range; names the
            key, where it stands, and the nearest valid key.
    """
    file = find_config(path)
    in_file = _read_toml(file) if file else {}
    _refuse_unknown(in_file, where=lambda key: _line_of(file, key) if file else "")
    _refuse_unknown_environment()
    if "password" in in_file.get("mqtt", {}):
        raise ConfigError(
            f"{_line_of(file, ('mqtt', 'password'))}: a password is not read from the "
            f"configuration file. Try: mqtt.password_file, or {ENV_PREFIX}MQTT__PASSWORD"
        )
    given = _without_none(flags or {})
    if "password" in given.get("mqtt", {}):
        raise ConfigError(
            "flag: a password is not taken from the command line, where others can read it. "
            f"Try: --password-file, or {ENV_PREFIX}MQTT__PASSWORD"
        )
    _refuse_unknown(given, where=lambda _key: "flag")
    try:
        from_environment = _environment()
        return Settings(**_merge(_merge(in_file, from_environment), given))
    except ValidationError as error:
        raise ConfigError(_explain(error, file, in_file, given)) from error
    except SettingsError as error:
        # Not chained: its cause quotes the value, which may be a secret.
        raise ConfigError(
            f"environment: {error}. Try: one variable a key, as {ENV_PREFIX}MQTT__BROKER"
        ) from None


def template() -> str:
    """Return a configuration file with every setting, its meaning and its default."""
    lines = [
        "# stream_classifier: every setting with its default. Uncomment what you change.",
        "# The environment overrides this file (STREAM_CLASSIFIER_MQTT__BROKER=...), flags both.",
        "",
    ]
    for section, key, value, description in _defaults():
        if isinstance(section, str) and key is None:
            lines += ["", f"[{section}]"]
        elif (section, key) in _SECRETS:
            lines.append(f"# {key}: from {ENV_PREFIX}MQTT__PASSWORD or password_file only")
        else:
            set_to = "" if value is None else _toml(value)
            lines.append(f"# {key} = {set_to}" + (f"  # {description}" if description else ""))
    return "\n".join(lines) + "\n"


def shown(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain data, with every secret masked."""
    data = settings.model_dump(mode="json")
    if math.isinf(settings.source.wait_s):
        data["source"]["wait_s"] = "forever"
    for section, key in _SECRETS:
        if data[section][key] is not None:
            data[section][key] = "(set, not shown)"
    return data


class _EnvironmentOnly(Settings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings,)


def _environment() -> dict[str, Any]:
    return _EnvironmentOnly().model_dump(exclude_unset=True)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _without_none(flags: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in flags.items()
        if value is not None
    }
    return {key: value for key, value in kept.items() if value != {}}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except OSError as error:
        raise ConfigError(f"{path}: not readable as TOML: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not readable as TOML: {error}") from error


def _sections() -> dict[str, type[Section]]:
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def _valid_keys() -> list[tuple[str, ...]]:
    sections = _sections()
    keys: list[tuple[str, ...]] = [(name,) for name in Settings.model_fields]
    keys += [(section, key) for section, model in sections.items() for key in model.model_fields]
    return keys


def _refuse_unknown(data: Mapping[str, Any], *, where: Any) -> None:
    sections = _sections()
    valid = set(_valid_keys())
    for key, value in data.items():
        paths: list[tuple[str, ...]] = [(key,)]
        if key in sections:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where((key,))}: {key!r} is a section: write [{key}]")
            paths += [(key, inner) for inner in value]
        for path in paths:
            if path not in valid:
                raise ConfigError(f"{where(path)}: unknown setting {_nearest(path)}")


def _nearest(path: tuple[str, ...]) -> str:
    wanted = ".".join(path)
    names = {".".join(key): key for key in _valid_keys()}
    # A right key in the wrong section is the commonest slip: the last part decides, too.
    tails = {key[-1]: name for name, key in names.items()}
    near = difflib.get_close_matches(wanted.lower(), names, n=1, cutoff=0.6)
    tail = difflib.get_close_matches(path[-1].lower(), tails, n=1, cutoff=0.6)
    if not near and tail:
        near = [tails[tail[0]]]
    hint = f"; did you mean {near[0]!r}?" if near else ". Try: stream-classifier config show"
    return f"{wanted!r}{hint}"


def _refuse_unknown_environment() -> None:
    valid = {ENV_PREFIX + "__".join(key).upper() for key in _valid_keys()} | _NOT_SETTINGS
    for name in os.environ:
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in valid:
            near = difflib.get_close_matches(name.upper(), sorted(valid), n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"environment: unknown setting {name}{hint}")


def _line_of(file: Path | None, path: tuple[str, ...]) -> str:
    """Find where a key stands, for the error message.

    TOML parsers keep no lines, but every statement ends with one: a key stands where the file,
    read line by line, begins to have it.
    """
    if file is None:
        return "configuration"
    lines = file.read_text(encoding="utf-8").split("\n")
    without, searched = 0, len(lines)  # lines[:without] lack it, lines[:searched] have it
    while searched - without > 1:
        middle = (without + searched) // 2
        end = next((n for n in range(middle, searched) if _reads(lines[:n]) is not None), searched)
        if end < searched and not _holds(_reads(lines[:end]) or {}, path):
            without = end
        else:
            searched = middle
    return f"{file}:{without + 1}"


def _reads(lines: list[str]) -> dict[str, Any] | None:
    try:
        return parse_toml("\n".join(lines))
    except ValueError:  # in the middle of a statement
        return None


def _explain(
    error: ValidationError, file: Path | None, in_file: Mapping[str, Any], flags: Mapping[str, Any]
) -> str:
    lines = []
    for detail in error.errors(include_url=False, include_context=False):
        names = tuple(str(part) for part in detail["loc"] if isinstance(part, str))
        path = next((names[:n] for n in (2, 1) if names[:n] in _valid_keys()), names[:1])
        if _holds(flags, path):
            where = "flag"
        elif (name := ENV_PREFIX + "__".join(path).upper()) in os.environ:
            where = f"environment {name}"
        elif _holds(in_file, path):
            where = _line_of(file, path)
        else:
            where = "configuration"
        lines.append(f"{where}: {'.'.join(path)}: {detail['msg']}")
    return "\n".join(dict.fromkeys(lines))


def _holds(data: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    value: Any = data
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def _defaults() -> Iterator[tuple[str | None, str | None, Any, str | None]]:
    for name, field in Settings.model_fields.items():
        if not isinstance(field.default, Section):
            yield None, name, field.default, field.description
    for name, model in _sections().items():
        yield name, None, None, None
        for key, field in model.model_fields.items():
            yield name, key, field.default, field.description


def _toml(value: Any) -> str:
    return json.dumps(str(value) if isinstance(value, Path) else value)
