"""One connection to the broker. The only file that imports the MQTT client.

aiomqtt 2 has three habits that this file evens out, at the price of touching its inside
(hence ``aiomqtt<3``): it drops the broker's answer to a publish, so that one denied by an
access list looks like a success; it waits out its whole timeout for an answer that cannot
come any more, to connecting as well; and it leaves a socket behind when connecting is cancelled.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import ssl
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from stream_classifier.errors import (
    BrokerRefusedError,
    BrokerUnavailableError,
    ConfigError,
    DuplicateIdError,
)
from stream_classifier.regular_file import open_regular
from stream_classifier.sinks.broker import BrokerSettings, TlsSettings

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 5.0
"""How long an acknowledgement may take before the connection counts as dead."""

PROBE_WITHIN_S = 2.5
"""Detection waits for the look at the broker that comes first, and for no longer than this."""

MAX_INCOMING = 1_000
"""Messages received and not yet read; when full, the oldest is dropped, counted and logged."""

DROPS_SAID_EVERY_S = 10.0

MAX_PACKET_BYTES = 65_536
"""An MQTT 5 broker leaves out what is larger: no message of ours is, and one of 256 MB would have
to be held whole."""

event_loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = (
    asyncio.SelectorEventLoop if sys.platform == "win32" else None
)
"""For ``asyncio.Runner``: on Windows the default loop cannot watch the client's socket."""

_PROTOCOLS: dict[str | None, tuple[aiomqtt.ProtocolVersion, ...]] = {
    None: (aiomqtt.ProtocolVersion.V5, aiomqtt.ProtocolVersion.V311),
    "5": (aiomqtt.ProtocolVersion.V5,),
    "3.1.1": (aiomqtt.ProtocolVersion.V311,),
}
# CONNACK reason codes (MQTT 5, 3.2.2.2); paho translates those of 3.1.1 into them.
_WRONG_PROTOCOL = 132
_NO_SUBSCRIBERS = 16  # PUBACK (MQTT 5, 3.4.2.1): taken, but there is nobody to give it to
_TAKEN_OVER = 142  # DISCONNECT (MQTT 5, 3.14.2.1): another client came under the same name
_REFUSED = {133, 134, 135, 138, 140}  # client id, password, not authorized, banned, method

# Without it the second of two messages waits up to 40 ms for the first one's delayed
# acknowledgement (Nagle, RFC 896): an alert behind a prediction was 40 ms late at p99.
_SEND_AT_ONCE = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

# The same, for what comes from a broker that does not send at once; to be repeated after each
# message, and known to Linux only.
_ACKNOWLEDGE_AT_ONCE = (
    (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1) if hasattr(socket, "TCP_QUICKACK") else None
)

log = logging.getLogger(__name__)
# What the client library says by itself is either in our errors or of no use.
_client_log = logging.getLogger(f"{__name__}.client")
_client_log.setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class LastWill:
    """What the broker tells everyone when this client vanishes; retained, QoS 1."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message from the broker.

    Attributes:
        topic: Where it was published.
        payload: As it came.
        retained: Whether it was there before we subscribed.
        response_topic: Where the sender wants an answer (MQTT 5 only, as the next).
        correlation: What the sender knows its answer by.
    """

    topic: str
    payload: bytes
    retained: bool
    response_topic: str | None = None
    correlation: bytes | None = None


class Connection:
    """An open connection; made by ``Connector.connect``.

    For two tasks at most: one publishes and subscribes, one after the other; another may read
    ``messages`` meanwhile.

    Attributes:
        protocol: ``"5"`` or ``"3.1.1"``.
        lost: Why it broke, or None while it holds.
        unheard: Whether the broker said of the last message that it has nobody to give it
            to (MQTT 5 only).
    """

    def __init__(
        self, client: _Client, *, broker: BrokerSettings, on_lost: Callable[[], None]
    ) -> None:
        self.protocol = "5" if client.protocol is aiomqtt.ProtocolVersion.V5 else "3.1.1"
        self.lost: str | None = None
        self.unheard = False
        self._client = client
        self._broker = broker
        self._on_lost = on_lost
        self._deadlines: set[asyncio.Timeout] = set()
        client.ended.add_done_callback(self._notice_end)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int,
        retain: bool = False,
        content_type: str = "application/json",
        expires_s: int | None = None,
        labels: Mapping[str, str] = MappingProxyType({}),
        correlation: bytes | None = None,
    ) -> None:
        """Send a message; with QoS 1, wait until the broker has it.

        Args:
            topic: Where to.
            payload: What.
            qos: 0 or 1. With 0 nothing is known of its arrival.
            retain: Whether the broker keeps it for later subscribers.
            content_type: MQTT 5 only, as all that follows.
            expires_s: After which the broker need not deliver it any more, seconds.
            labels: User properties.
            correlation: What the receiver knows an answer by.

        Raises:
            BrokerUnavailableError: If the connection broke or no answer came in time.
            BrokerRefusedError: If the broker denied it (only MQTT 5 brokers say so).
        """
        properties = None
        if self.protocol == "5":
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ContentType = content_type
            properties.PayloadFormatIndicator = 1  # UTF-8
            if labels:
                properties.UserProperty = list(labels.items())
            if expires_s is not None:
                properties.MessageExpiryInterval = expires_s
            if correlation is not None:
                properties.CorrelationData = correlation
        self._client.denial = None
        self._client.unheard = False
        async with self._answer_in_time():
            await self._client.publish(
                topic, payload, qos=qos, retain=retain, properties=properties, timeout=float("inf")
            )
        self.unheard = self._client.unheard
        if self._client.denial is not None:
            raise BrokerRefusedError(
                f"{self._broker} denied publishing to {topic}: {self._client.denial}. "
                "Try: allow it in the broker's access list (deploy/mosquitto/acl shows how)"
            )

    async def subscribe(self, *topics: str) -> None:
        """Ask for messages, with QoS 1.

        Raises:
            BrokerUnavailableError: As for ``publish``.
            BrokerRefusedError: If the broker denied it.
        """
        async with self._answer_in_time():
            answers = await self._client.subscribe(
                [(topic, 1) for topic in topics], timeout=float("inf")
            )
        codes = [answer if isinstance(answer, int) else answer.value for answer in answers]
        denied = [topic for topic, code in zip(topics, codes, strict=False) if code >= 0x80]
        if denied:
            raise BrokerRefusedError(
                f"{self._broker} denied subscribing to {', '.join(denied)}. "
                "Try: allow it in the broker's access list (deploy/mosquitto/acl shows how)"
            )

    async def messages(self) -> AsyncIterator[Incoming]:
        """Yield what arrives, until the connection breaks.

        Raises:
            BrokerUnavailableError: If the connection broke.
            DuplicateIdError: If it broke for another client of our name (as the broker says in
                MQTT 5); so do all others here.
        """
        try:
            async for message in self._client.messages:
                yield _incoming(message)
        except aiomqtt.MqttError as error:
            raise self._lost_error() from error

    def raise_if_lost(self) -> None:
        """Raise BrokerUnavailableError if the connection broke."""
        if self.lost is not None:
            raise self._lost_error()

    @asynccontextmanager
    async def _answer_in_time(self) -> AsyncIterator[None]:
        """Bound the wait for an answer, and end it at once when none can come any more."""
        self.raise_if_lost()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S) as deadline:
                self._deadlines.add(deadline)
                try:
                    yield
                finally:
                    self._deadlines.discard(deadline)
        except TimeoutError as error:
            self.lost = self.lost or f"no answer within {ANSWER_TIMEOUT_S:g} s"
            raise self._lost_error() from error
        except aiomqtt.MqttError as error:
            self.lost = self.lost or str(error)
            raise self._lost_error() from error

    def _notice_end(self, ended: asyncio.Future[None]) -> None:
        if ended.cancelled():
            return
        self.lost = self.lost or str(ended.exception() or "closed")
        for deadline in self._deadlines:
            deadline.reschedule(asyncio.get_running_loop().time())
        self._on_lost()

    def _lost_error(self) -> BrokerUnavailableError:
        ended = self._client.ended
        reason = ended.exception() if ended.done() and not ended.cancelled() else None
        if isinstance(reason, aiomqtt.MqttCodeError) and _code(reason) == _TAKEN_OVER:
            return DuplicateIdError(self._client.identifier, broker=str(self._broker))
        return BrokerUnavailableError(f"connection to {self._broker} lost: {self.lost}")


class Connector:
    """Opens connections to one broker, again and again.

    Speaks MQTT 5 if the broker does, else 3.1.1.

    Args:
        broker: Where, and how to be let in.
        client_id: How to call ourselves. A second client of the same name throws out the
            first.
        will: What the broker tells everyone if we vanish.

    Raises:
        ConfigError: If a certificate file cannot be read.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        *,
        client_id: str,
        will: LastWill | None = None,
    ) -> None:
        self.broker = broker
        self.client_id = client_id
        self.will = will
        self._tls = _tls_context(broker.tls) if broker.tls else None
        self._protocols: tuple[aiomqtt.ProtocolVersion, ...] = _PROTOCOLS[broker.protocol]

    @asynccontextmanager
    async def connect(
        self, *, on_lost: Callable[[], None] = lambda: None
    ) -> AsyncIterator[Connection]:
        """Hold a connection open for the length of a ``with`` block.

        Left in order, it says farewell, and the broker forgets the last will. Left by an
        exception or cancelled, it just breaks off, and the broker publishes the will.

        Args:
            on_lost: Called once, from the event loop, when the connection breaks.

        Raises:
            BrokerUnavailableError: If the broker does not answer.
            BrokerRefusedError: If it does not let us in, or its certificate is not good.
        """
        client = await self._dial()
        try:
            yield Connection(client, broker=self.broker, on_lost=on_lost)
            with suppress(aiomqtt.MqttError):
                await client.__aexit__(None, None, None)
        finally:
            client.break_off()

    async def _dial(self) -> _Client:
        failure: aiomqtt.MqttError | None = None
        for protocol in self._protocols:
            client = self._client(protocol)
            try:
                await client.__aenter__()
            except aiomqtt.MqttError as error:
                client.break_off()
                failure = error
                if not _may_mind_protocol(error):
                    break
            except BaseException:
                client.break_off()
                raise
            else:
                self._protocols = (protocol,)
                return client
        self._protocols = _PROTOCOLS[self.broker.protocol]
        assert failure is not None  # noqa: S101 - the loop runs at least once
        raise self._explain(failure) from failure

    def _client(self, protocol: aiomqtt.ProtocolVersion) -> _Client:
        broker, will = self.broker, self.will
        return _Client(
            broker.host,
            broker.port,
            username=broker.username,
            password=broker.password.get_secret_value() if broker.password else None,
            identifier=self.client_id,
            protocol=protocol,
            # The outbox is the truth: the broker need not remember this client.
            clean_session=None if protocol is aiomqtt.ProtocolVersion.V5 else True,
            properties=_only_small() if protocol is aiomqtt.ProtocolVersion.V5 else None,
            will=will and aiomqtt.Will(will.topic, will.payload, qos=1, retain=True),
            keepalive=_asked_after_s(broker.keepalive_s),
            timeout=CONNECT_TIMEOUT_S,
            queue_type=_LatestMessages,
            max_queued_incoming_messages=MAX_INCOMING,
            tls_context=self._tls,
            socket_options=[_SEND_AT_ONCE],
            logger=_client_log,
        )

    def _explain(self, error: aiomqtt.MqttError) -> BrokerUnavailableError | BrokerRefusedError:
        cause, tls = error.__context__, self.broker.tls
        if isinstance(error, aiomqtt.MqttCodeError) and _code(error) in _REFUSED:
            who = f"user {self.broker.username!r}" if self.broker.username else "no user name"
            return BrokerRefusedError(
                f"{self.broker} refused the connection with {who}: {error.rc}. Try: --username "
                "and --password-file, or STREAM_CLASSIFIER_MQTT__PASSWORD"
            )
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            return BrokerRefusedError(
                f"{self.broker}: no secure connection: {cause}. It is never tried without TLS. "
                "Try: --ca-file with the authority that signed the broker's certificate"
            )
        hint = ""
        if isinstance(cause, ConnectionAbortedError) and tls is None:
            hint = ". Perhaps it speaks only TLS. Try: mqtts://"
        elif isinstance(cause, ConnectionAbortedError) and tls is not None and not tls.cert_file:
            hint = ". Perhaps it asks for a certificate of ours. Try: mqtt.cert_file"
        return BrokerUnavailableError(f"{self.broker} does not answer: {error}{hint}")


class _Client(aiomqtt.Client):
    """aiomqtt's client, without the three habits named at the top."""

    def __init__(self, *arguments: Any, protocol: aiomqtt.ProtocolVersion, **more: Any) -> None:
        super().__init__(*arguments, protocol=protocol, **more)
        self.protocol = protocol
        self.denial: str | None = None
        self.unheard = False
        self._given_up = False
        self._client.connect_timeout = CONNECT_TIMEOUT_S
        if protocol is aiomqtt.ProtocolVersion.V5:
            self._receive: Callable[[int], bytes] = self._client._sock_recv  # noqa: SLF001
            self._client._sock_recv = self._receive_little  # type: ignore[method-assign] # noqa: SLF001
        self._disconnected.add_done_callback(self._notice_end_of_connecting)

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done once the connection is over; its exception says why."""
        return self._disconnected

    def break_off(self) -> None:
        """Close the socket without a farewell. Nothing happens if it is closed already."""
        self._given_up = True
        self._client._sock_close()  # noqa: SLF001

    def _receive_little(self, bufsize: int) -> bytes:
        """Break off where a broker does not leave out what is too large, as it was asked to."""
        if bufsize > MAX_PACKET_BYTES:
            raise OSError(errno.EMSGSIZE, f"the broker sends more than {MAX_PACKET_BYTES} bytes")
        return self._receive(bufsize)

    def _notice_end_of_connecting(self, ended: asyncio.Future[None]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            self._fail_connecting(error)

    def _fail_connecting(self, why: BaseException) -> None:
        if not self._connected.done():
            failure = aiomqtt.MqttError(str(why))
            failure.__context__ = why
            self._connected.set_exception(failure)

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None
    ) -> None:
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        self._fail_connecting(ConnectionAbortedError("it hung up"))

    def _client_connect(self) -> None:
        super()._client_connect()  # on a thread, which no cancellation stops
        if self._given_up:
            self._loop.call_soon_threadsafe(self._client._sock_close)  # noqa: SLF001

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any
    ) -> None:
        self.unheard = reason_code.value == _NO_SUBSCRIBERS
        if reason_code.is_failure:
            self.denial = str(reason_code)
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        super()._on_message(client, userdata, message)
        sock = client.socket()
        if _ACKNOWLEDGE_AT_ONCE is not None and sock is not None:
            sock.setsockopt(*_ACKNOWLEDGE_AT_ONCE)


def _only_small() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    return properties


def _incoming(message: aiomqtt.Message) -> Incoming:
    return Incoming(
        str(message.topic),
        bytes(message.payload),
        bool(message.retain),
        getattr(message.properties, "ResponseTopic", None),
        getattr(message.properties, "CorrelationData", None),
    )


class _TlsSocket(ssl.SSLSocket):
    """Does not stay open after a handshake that failed; paho forgets it then."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class _LatestMessages(asyncio.Queue[aiomqtt.Message]):
    """A bounded queue that drops its oldest message rather than the newest."""

    _n_dropped = 0
    _said_s = -math.inf

    def put_nowait(self, item: aiomqtt.Message) -> None:
        if self.full():
            self.get_nowait()
            self._n_dropped += 1
            if time.monotonic() >= self._said_s + DROPS_SAID_EVERY_S:
                self._said_s = time.monotonic()
                log.warning(
                    "more than %d messages not yet read: the oldest are dropped, %d so far",
                    self.maxsize,
                    self._n_dropped,
                )
        super().put_nowait(item)


async def probe(broker: BrokerSettings) -> str | None:
    """Look whether the broker lets us in, publishing nothing.

    Returns:
        The protocol version spoken, ``"5"`` or ``"3.1.1"``; None if the broker is away or takes
        longer than 2.5 s, which is logged and no error: it may come later.

    Raises:
        BrokerRefusedError: If it does not let us in.
        ConfigError: If a certificate file cannot be read.
    """
    connector = Connector(broker, client_id=passing_client_id("probe"))
    try:
        async with asyncio.timeout(PROBE_WITHIN_S), connector.connect() as connection:
            return connection.protocol
    except BrokerUnavailableError as error:
        log.warning("%s", error)
    except TimeoutError:
        log.warning("%s does not answer within %g s", broker, PROBE_WITHIN_S)
    return None


def passing_client_id(what: str) -> str:
    """Return a client id that throws nobody out."""
    return f"stream_classifier-{what}-{uuid.uuid4().hex[:12]}"


def _asked_after_s(noticed_after_s: int) -> int:
    """Return the keep-alive to agree on with the broker.

    paho asks after that long a silence, waits as long for the answer, and looks once a
    second; the broker gives up after 1.5 times as long.
    """
    return max(1, int((1.5 * noticed_after_s - 1) / 2))


def _tls_context(tls: TlsSettings) -> ssl.SSLContext:
    try:
        for file in (tls.ca_file, tls.cert_file, tls.key_file):
            if file is not None:
                open_regular(file).close()  # OpenSSL would wait for a pipe, and read a device on
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.sslsocket_class = _TlsSocket
        if tls.cert_file is not None:
            # Without a password OpenSSL would ask for one, at a terminal that nobody looks at.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except (OSError, ssl.SSLError) as error:
        files = [str(file) for file in (tls.ca_file, tls.cert_file, tls.key_file) if file]
        raise ConfigError(
            f"broker: expected certificates (PEM) in {', '.join(files)}, found: {error}"
        ) from error
    return context


def _code(error: aiomqtt.MqttCodeError) -> int:
    return error.rc if isinstance(error.rc, int) else int(getattr(error.rc, "value", 0))


def _may_mind_protocol(error: aiomqtt.MqttError) -> bool:
    """Whether the broker may only dislike the version: it says so, or hangs, or hangs up."""
    if isinstance(error, aiomqtt.MqttCodeError):
        return _code(error) == _WRONG_PROTOCOL
    return isinstance(error.__context__, TimeoutError | ConnectionAbortedError)
