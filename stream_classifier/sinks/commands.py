"""What a person may ask of a running classifier over MQTT: to acknowledge an alert, or for quiet.

Off unless ``mqtt.commands`` is set; who may send any is for the broker's access list to say. Every
command carries a nonce that is good once and a time after which it is void, so that one that was
overheard, retained or delayed does nothing. No command silences, ends or hides an alert.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from stream_classifier.errors import StreamClassifierError, printable
from stream_classifier.sinks.connection import Incoming
from stream_classifier.sinks.messages import ANSWER_SCHEMA

MAX_COMMAND_BYTES = 1_024
"""A longer command is none."""

VALID_AT_MOST = timedelta(minutes=2)
"""A command that is good for longer could be overheard and kept."""

MUTE_AT_MOST_MIN = 60

WAITING_AT_MOST = 32
"""Commands that wait to be carried out; more are dropped, and logged."""

DONE_WITHIN_S = 5.0

SAID_EVERY_S = 1.0
"""Refusals are logged this often at most, and those between counted: a flood fills no disk."""

log = logging.getLogger(__name__)

Nonce = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,64}$")]


class CommandRefusedError(StreamClassifierError):
    """What arrived is no command that may be carried out now.

    Attributes:
        nonce: Of the command, as far as it could be read, so that its sender knows his answer.
    """

    def __init__(self, why: str, *, nonce: str | None = None) -> None:
        super().__init__(why)
        self.nonce = nonce


class Command(BaseModel):
    """What every command carries.

    Attributes:
        nonce: 16 to 64 letters, digits, ``-`` and ``_`` that nobody can guess; good once.
        expires: When the command becomes void; two minutes ahead at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)
    what: ClassVar[str]
    nonce: Nonce
    expires: AwareDatetime


class Acknowledge(Command):
    """A person has seen an alert. Ends its latch and its reminders, nothing else."""

    what: ClassVar[str] = "ack"
    alert_id: str = Field(pattern=r"^[0-9a-f]{32}$")


class Mute(Command):
    """A person asks for quiet: ``muted_until`` is set; a new alert ends it, and so does time."""

    what: ClassVar[str] = "mute"
    minutes: Annotated[int, Field(ge=0, le=MUTE_AT_MOST_MIN)]


_COMMANDS: dict[str, type[Acknowledge | Mute]] = {kind.what: kind for kind in (Acknowledge, Mute)}


class Answer(BaseModel):
    """What became of a command."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)
    schema_: Literal["stream_classifier/answer/1"] = Field(ANSWER_SCHEMA, alias="schema")
    nonce: str | None = Field(description="of the command; null: it could not be read")
    done: bool
    reason: str = Field(description="why not, or what there was to be done; for a person")

    def to_json(self) -> bytes:
        """Return the payload, UTF-8."""
        return self.model_dump_json(by_alias=True).encode()


def read_command(what: str, payload: bytes, *, now: datetime) -> Acknowledge | Mute:
    """Read a command that somebody sent.

    Args:
        what: The rest of its topic.
        payload: As it came; anything at all.
        now: The time of day.

    Raises:
        CommandRefusedError: If it is none, or is void, or will be good for too long.

    Example:
        >>> from datetime import UTC
        >>> sent = b'{"nonce":"0123456789abcdef","expires":"2026-11-24T12:00:30Z","minutes":5}'
        >>> read_command("mute", sent, now=datetime(2026, 11, 24, 12, tzinfo=UTC)).minutes
        5
    """
    kind = _COMMANDS.get(what)
    if kind is None:
        raise CommandRefusedError(f"expected {' or '.join(_COMMANDS)}, found {printable(what)!r}")
    if len(payload) > MAX_COMMAND_BYTES:
        raise CommandRefusedError(
            f"expected at most {MAX_COMMAND_BYTES} bytes, found {len(payload)}"
        )
    try:
        command = kind.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "JSON"
        said = printable(f"{where[:64]}: {first['msg'][:200]}")
        raise CommandRefusedError(f"expected a command, found: {said}") from None
    left_s = (command.expires - now).total_seconds()
    clocks = "Try: look at the clocks of both sides, and send it anew"
    if left_s <= 0:
        raise CommandRefusedError(
            f"expected a time to come in expires, found one {-left_s:.0f} s ago. {clocks}",
            nonce=command.nonce,
        )
    if left_s > VALID_AT_MOST.total_seconds():
        raise CommandRefusedError(
            f"expected expires at most {VALID_AT_MOST.total_seconds():.0f} s ahead, found "
            f"{left_s:.0f} s. {clocks}",
            nonce=command.nonce,
        )
    return command


class CommandDesk:
    """Carries out commands, one after the other; what is none is refused and changes nothing.

    Every command is answered. What a command falls over is logged and answered, too, and ends
    neither the desk nor the classifier.

    Args:
        topic: Commands arrive one level below.
        acknowledge: Marks an alert as seen; returns whether that was news, raises ``LookupError``
            where there is no such alert.
        mute: Asks for quiet until then; None ends it.
        spend: Uses up a nonce that is good until a Unix time; returns False if it was used before.
        answer: Sends an answer.
        now: The time of day.
    """

    def __init__(
        self,
        *,
        topic: str,
        acknowledge: Callable[[str], Awaitable[bool]],
        mute: Callable[[datetime | None], None],
        spend: Callable[[str, float], Awaitable[bool]],
        answer: Callable[[Incoming, bytes], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._prefix = f"{topic}/"
        self._acknowledge = acknowledge
        self._mute = mute
        self._spend = spend
        self._answer = answer
        self._now = now
        self._waiting: asyncio.Queue[Incoming] = asyncio.Queue(WAITING_AT_MOST)
        self.n_done = 0
        self.n_refused = 0
        self._n_unsaid = 0
        self._said_s = -math.inf

    def take(self, message: Incoming) -> None:
        """Take what arrived on a command topic; never waits."""
        if message.retained:
            self._refuse(message, "retained: a command is not kept for later")
            return
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            self._refuse(message, f"{WAITING_AT_MOST} commands wait already")

    async def work(self) -> None:
        """Carry out commands for ever."""
        while True:
            message = await self._waiting.get()
            nonce = None
            try:
                command = read_command(
                    message.topic.removeprefix(self._prefix), message.payload, now=self._now()
                )
                nonce = command.nonce
                async with asyncio.timeout(DONE_WITHIN_S):
                    done = await self._carry_out(command)
            except CommandRefusedError as error:
                self._refuse(message, str(error), nonce=error.nonce or nonce)
            except (StreamClassifierError, TimeoutError) as error:
                self._refuse(
                    message, str(error) or f"not done within {DONE_WITHIN_S:g} s", nonce=nonce
                )
            except Exception as error:  # anybody who may send commands could end the desk else
                log.exception("a command failed")
                self._refuse(message, f"failed: {type(error).__name__}", nonce=nonce)
            else:
                self.n_done += 1
                log.warning("%s: %s", printable(message.topic), done)
                self._answer(message, Answer(nonce=nonce, done=True, reason=done).to_json())

    async def _carry_out(self, command: Acknowledge | Mute) -> str:
        """Return what was done."""
        if not await self._spend(command.nonce, command.expires.timestamp()):
            raise CommandRefusedError("this nonce was used before")
        if isinstance(command, Mute):
            until = self._now() + timedelta(minutes=command.minutes)
            self._mute(until if command.minutes else None)
            return f"quiet is asked for until {until:%H:%M} UTC" if command.minutes else "no mute"
        try:
            is_news = await self._acknowledge(command.alert_id)
        except LookupError:
            raise CommandRefusedError(f"no alert {command.alert_id[:8]} stands") from None
        return f"alert {command.alert_id[:8]} {'is' if is_news else 'was already'} acknowledged"

    def _refuse(self, message: Incoming, why: str, *, nonce: str | None = None) -> None:
        self.n_refused += 1
        if time.monotonic() < self._said_s + SAID_EVERY_S:
            self._n_unsaid += 1
        else:
            more = f" (and {self._n_unsaid} since the last that was said)" if self._n_unsaid else ""
            log.warning("command on %s refused: %s%s", printable(message.topic)[:200], why, more)
            self._n_unsaid, self._said_s = 0, time.monotonic()
        self._answer(message, Answer(nonce=nonce, done=False, reason=why).to_json())
