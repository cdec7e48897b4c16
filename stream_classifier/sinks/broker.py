"""Which broker, and how to be let in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from stream_classifier.errors import ConfigError
from stream_classifier.regular_file import read_regular
from stream_classifier.sinks.topics import BASE_TOPIC

MAX_PASSWORD_FILE_BYTES = 4096
PLAIN_PORT = 1883
TLS_PORT = 8883
_EXPECTED = (
    "expected mqtt://[user@]host[:port] or mqtts://[user@]host[:port], "
    "perhaps with ?protocol=3.1.1 or ?protocol=5"
)

Protocol = Literal["5", "3.1.1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """How both sides prove who they are. The broker's certificate is always verified.

    Attributes:
        ca_file: The authority that signed the broker's certificate; None: the system's.
        cert_file: This client's own certificate, where the broker asks for one.
        key_file: Its key; None: in ``cert_file``.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """Where the broker is, and how to be let in.

    Attributes:
        host: Name or address.
        port: TCP port.
        username: None: anonymous.
        password: Never shown nor logged.
        tls: None: plain text. With TLS there is no way back to plain text.
        client_id: How the publisher of a stream calls itself; None: made from the
            stream's name.
        keepalive_s: Seconds; either side notices within 1.5 times as long that the
            connection is dead. At least 2.
        base_topic: What all topics start with.
        protocol: The version of MQTT to speak; None: 5 if the broker does, else 3.1.1.
    """

    host: str
    port: int = PLAIN_PORT
    username: str | None = None
    password: SecretStr | None = None
    tls: TlsSettings | None = None
    client_id: str | None = None
    keepalive_s: int = 5
    base_topic: str = BASE_TOPIC
    protocol: Protocol | None = None

    def __str__(self) -> str:
        """Name the broker in messages to people; never with the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        version = f"?protocol={self.protocol}" if self.protocol else ""
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}{version}"


def parse_broker_url(url: str) -> BrokerSettings:
    """Read the address of a broker.

    Args:
        url: ``mqtt://host:1883``, or ``mqtts://user@host`` for TLS; ``?protocol=3.1.1`` or
            ``?protocol=5`` at its end settles the version.

    Raises:
        ConfigError: If it is not such an address, or holds a password: an address ends up
            in process lists and shell histories.

    Example:
        >>> str(parse_broker_url("mqtts://nurse@broker.example"))
        'mqtts://broker.example:8883'
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        # Not chained and not shown: what is no port number may be a piece of a password.
        raise ConfigError(f"broker: {_EXPECTED}, with a port from 1 to 65535") from None
    if parts.password is not None:
        raise ConfigError(
            "broker: a password in the address is refused, since others can read it there. "
            "Try: STREAM_CLASSIFIER_MQTT__PASSWORD, or --password-file"
        )
    options = parse_qs(parts.query, keep_blank_values=True)
    [version] = options.pop("protocol", [None])[:1]
    if (
        parts.scheme not in {"mqtt", "mqtts"}
        or not host
        or not _is_host(host)
        or parts.path.strip("/")
        or options
        or version not in {None, *get_args(Protocol)}
    ):
        raise ConfigError(f"broker: {_EXPECTED}, found {url!r}")
    tls = TlsSettings() if parts.scheme == "mqtts" else None
    return BrokerSettings(
        host=host,
        port=port or (TLS_PORT if tls else PLAIN_PORT),
        username=parts.username or None,
        tls=tls,
        protocol=cast("Protocol | None", version),
    )


def _is_host(name: str) -> bool:
    """Whether a name can be looked up at all: what cannot is a UnicodeError deep in a library."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return name.isprintable()


def broker_settings(
    url: str,
    *,
    username: str | None = None,
    password: SecretStr | None = None,
    password_file: Path | None = None,
    ca_file: Path | None = None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
    client_id: str | None = None,
    keepalive_s: int = 5,
    base_topic: str = BASE_TOPIC,
) -> BrokerSettings:
    """Put an address and the settings about it together.

    Args:
        url: See ``parse_broker_url``.
        username: Overrides the one in the address.
        password: See ``BrokerSettings``.
        password_file: File whose first line is the password; for where ``password`` is None.
        ca_file: See ``TlsSettings``; only with ``mqtts``, as the next two.
        cert_file: See ``TlsSettings``.
        key_file: See ``TlsSettings``.
        client_id: See ``BrokerSettings``.
        keepalive_s: See ``BrokerSettings``.
        base_topic: See ``BrokerSettings``.

    Raises:
        ConfigError: If the address is none, a file cannot be read, there is a password
            without a user name, or certificates without TLS.
    """
    broker = parse_broker_url(url)
    if broker.tls is None and (ca_file or cert_file or key_file):
        raise ConfigError(
            f"broker: certificates are given, but {url!r} is plain text. Try: mqtts://"
        )
    if password is None and password_file is not None:
        password = _read_password(password_file)
    username = username or broker.username
    if password is not None and username is None:
        raise ConfigError("broker: a password is given, but no user name. Try: --username")
    return replace(
        broker,
        username=username,
        password=password,
        tls=broker.tls and TlsSettings(ca_file=ca_file, cert_file=cert_file, key_file=key_file),
        client_id=client_id,
        keepalive_s=keepalive_s,
        base_topic=base_topic,
    )


def _read_password(path: Path) -> SecretStr:
    try:
        raw = read_regular(path, limit_bytes=MAX_PASSWORD_FILE_BYTES)
        first_line, *_ = raw.decode("utf-8").splitlines() or [""]
    except OSError as error:
        raise ConfigError(
            f"password file {path} cannot be read: {error.strerror or error}"
        ) from error
    except UnicodeDecodeError as error:
        # Not chained, and without its bytes: they are the secret's.
        raise ConfigError(
            f"password file {path}: expected text in UTF-8, found other bytes at {error.start}"
        ) from None
    if not first_line:
        raise ConfigError(
            f"password file {path}: expected a password in its first line, found none"
        )
    return SecretStr(first_line)
