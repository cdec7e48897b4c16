"""Settings: a file, the environment above it, flags above both; and every slip is named."""

import math
import tomllib

import pytest

from stream_classifier import config
from stream_classifier.errors import ConfigError


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    for name in list(config.os.environ):
        if name.startswith(config.ENV_PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config.platformdirs, "user_config_path", lambda _: tmp_path / "user")


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "some.toml"
        path.write_text(text)
        return path

    return write


def test_flags_win_over_the_environment_and_that_over_the_file(file, monkeypatch):
    path = file('[mqtt]\nbroker = "mqtt://file"\nusername = "file"\nkeepalive_s = 7\n')
    monkeypatch.setenv("STREAM_CLASSIFIER_MQTT__BROKER", "mqtt://environment")
    monkeypatch.setenv("STREAM_CLASSIFIER_MQTT__USERNAME", "environment")
    mqtt = config.load(path, {"mqtt": {"broker": "mqtt://flag", "username": None}}).mqtt
    assert (mqtt.broker, mqtt.username, mqtt.keepalive_s) == ("mqtt://flag", "environment", 7)


def test_the_file_is_found_where_the_docs_say(tmp_path, monkeypatch):
    user = tmp_path / "user" / config.CONFIG_FILE
    user.parent.mkdir()
    user.write_text('[source]\nname = "user"\n')
    assert config.load().source.name == "user"
    (tmp_path / config.CONFIG_FILE).write_text('[source]\nname = "here"\n')
    assert config.load().source.name == "here"
    named = tmp_path / "named.toml"
    named.write_text('[source]\nname = "named"\n')
    monkeypatch.setenv("STREAM_CLASSIFIER_CONFIG", str(named))
    assert config.load().source.name == "named"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n[mqtt]\nbrokr = 'x'\n", r"some\.toml:3: unknown setting 'mqtt\.brokr'.*'mqtt\.broker'"),
        ("[sorce]\nname = 'x'\n", r"some\.toml:1: unknown setting 'sorce'.*'source'"),
        ("hop_samples = 8\n", r"some\.toml:1: .*'hop_samples'.*'model\.hop_samples'"),
        ("[alarm]\nraise_threshold = 2\n", r"some\.toml:2: alarm\.raise_threshold: .*less than 1"),
        ("[mqtt]\nkeepalive_s = 'x'\n", r"some\.toml:2: mqtt\.keepalive_s: .*valid integer"),
        ("[source]\nwait_s = -1\n", r"some\.toml:2: source\.wait_s"),
        ("[source]\nmains_hz = 55\n", r"some\.toml:2: source\.mains_hz"),
        ("[alarm]\nchannels_needed = 0\n", r"some\.toml:2: alarm\.channels_needed"),
        ("[alarm]\nchannel_share = 0.5\n", r"some\.toml:2: .*'alarm\.channel_share'"),
        ("[model]\nengine = 'gpu'\n", r"some\.toml:2: model\.engine: .*'reference'"),
        ("source = 3\n", r"some\.toml:1: 'source' is a section"),
        ("x = [\n", r"some\.toml: not readable as TOML"),
        ("[mqtt]\npassword = 'x'\n", r"some\.toml:2: a password is not read from"),
    ],
)
def test_a_slip_is_named_with_its_line_and_the_nearest_key(file, text, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        config.load(file(text))
    assert caught.value.exit_code == 3


def test_an_unknown_environment_variable_is_a_slip_too(monkeypatch):
    monkeypatch.setenv("STREAM_CLASSIFIER_MQTT__BROKR", "x")
    with pytest.raises(ConfigError, match=r"did you mean STREAM_CLASSIFIER_MQTT__BROKER\?"):
        config.load()


def test_a_bad_value_is_traced_to_the_environment_or_the_flag(monkeypatch):
    with pytest.raises(ConfigError, match=r"^flag: mqtt\.keepalive_s"):
        config.load(flags={"mqtt": {"keepalive_s": 1}})
    monkeypatch.setenv("STREAM_CLASSIFIER_MQTT__KEEPALIVE_S", "x")
    with pytest.raises(ConfigError, match=r"environment STREAM_CLASSIFIER_MQTT__KEEPALIVE_S"):
        config.load()


def test_a_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(ConfigError, match=r"does not exist.*config init"):
        config.load(tmp_path / "none.toml")


def test_the_word_forever_is_a_waiting_time():
    assert config.load(flags={"source": {"wait_s": "forever"}}).source.wait_s == math.inf


def test_labels_may_be_a_list_or_commas(file, monkeypatch):
    assert config.load(file("[source]\nchannels = ['C3', 'C4']\n")).source.channels == ("C3", "C4")
    monkeypatch.setenv("STREAM_CLASSIFIER_SOURCE__CHANNELS", "T7, T8")
    assert config.load().source.channels == ("T7", "T8")


def test_a_password_is_never_shown(monkeypatch):
    monkeypatch.setenv("STREAM_CLASSIFIER_MQTT__PASSWORD", "open sesame")
    settings = config.load()
    assert settings.mqtt.password.get_secret_value() == "open sesame"
    assert "sesame" not in repr(settings) + str(settings) + str(config.shown(settings))


def test_a_bad_password_is_not_shown_in_the_error_either(monkeypatch):
    monkeypatch.setenv("STREAM_CLASSIFIER_MQTT__PASSWORD", "sesame")
    with pytest.raises(ConfigError) as caught:
        config.load(flags={"mqtt": {"keepalive_s": "sesame"}})
    assert "sesame" not in str(caught.value)


def test_the_template_names_every_setting_and_its_values_are_the_defaults(file):
    text = config.template()
    for key in config._valid_keys():
        assert key[-1] in text
    lines = [line.removeprefix("# ") for line in text.splitlines()[2:]]
    active = [x for x in lines if x.startswith("[") or (" = " in x and x.split(" = ")[1][0] != " ")]
    parsed = tomllib.loads("\n".join(active))
    assert parsed["mqtt"]["keepalive_s"] == 5
    assert config.load(file("\n".join(active))) == config.Settings()
