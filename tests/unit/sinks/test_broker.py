"""Which broker, and how to be let in: no secret ever shows."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from stream_classifier.errors import ConfigError
from stream_classifier.sinks.broker import BrokerSettings, broker_settings, parse_broker_url


@pytest.mark.parametrize(
    ("url", "host", "port", "username", "secure"),
    [
        ("mqtt://broker", "broker", 1883, None, False),
        ("mqtts://broker", "broker", 8883, None, True),
        ("mqtt://nurse@10.0.0.5:1999", "10.0.0.5", 1999, "nurse", False),
        ("mqtt://[::1]:1883/", "::1", 1883, None, False),
    ],
)
def test_addresses_are_read(
    url: str, host: str, port: int, username: str | None, secure: bool
) -> None:
    broker = parse_broker_url(url)
    assert (broker.host, broker.port, broker.username) == (host, port, username)
    assert (broker.tls is not None) is secure


def test_an_address_is_written_as_it_is_read() -> None:
    for url in ("mqtt://broker:1883", "mqtts://[fe80::1]:8883", "mqtt://b:1?protocol=3.1.1"):
        assert str(parse_broker_url(url)) == url


def test_an_address_may_settle_the_version() -> None:
    assert parse_broker_url("mqtt://broker").protocol is None
    assert broker_settings("mqtt://broker?protocol=5").protocol == "5"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "broker:1883",
        "http://broker",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://broker:0x1",
        "mqtt://broker:99999",
        "mqtt://broker/topic",
        "mqtt://broker?protocol=4",
        "mqtt://broker?protocol=",
        "mqtt://broker?version=5",
        "embedded",
    ],
)
def test_what_is_no_address_is_refused_with_what_was_expected(url: str) -> None:
    with pytest.raises(ConfigError, match="expected mqtt://"):
        parse_broker_url(url)


@pytest.mark.parametrize(
    "url", ["mqtt://nurse:hunter2@broker", "mqtt://nurse:hunter2/x@broker", "x://n:hunter2@broker"]
)
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_broker_url(url)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_the_password_comes_from_a_file_and_shows_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    broker = broker_settings("mqtt://nurse@broker", password_file=file)
    assert broker.password is not None
    assert broker.password.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(broker) + str(broker)


def test_a_password_that_is_given_wins_over_the_file(tmp_path: Path) -> None:
    broker = broker_settings(
        "mqtt://broker",
        username="nurse",
        password=SecretStr("given"),
        password_file=tmp_path / "not there",
    )
    assert broker.password == SecretStr("given")


def test_an_empty_or_missing_password_file_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for file in (empty, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=file.name):
            broker_settings("mqtt://nurse@broker", password_file=file)


def test_a_password_without_a_user_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match="user name"):
        broker_settings("mqtt://broker", password=SecretStr("x"))


def test_certificates_without_tls_are_an_error() -> None:
    with pytest.raises(ConfigError, match="mqtts://"):
        broker_settings("mqtt://broker", ca_file=Path("ca.pem"))


def test_the_user_name_that_is_given_wins_over_the_address() -> None:
    assert broker_settings("mqtt://a@broker", username="b").username == "b"
    assert broker_settings("mqtt://a@broker").username == "a"


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        BrokerSettings(host="broker").port = 1  # type: ignore[misc]
