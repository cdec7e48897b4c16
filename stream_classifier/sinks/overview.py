"""How the classifiers at a broker stand, from what the broker keeps of them, for whom looks now.

What is kept outlives who said it. So nothing counts as well unless its publisher is online and said
so lately.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from stream_classifier.errors import BrokerUnavailableError
from stream_classifier.health import Condition
from stream_classifier.sinks.broker import BrokerSettings
from stream_classifier.sinks.messages import shown
from stream_classifier.sinks.subscriber import Received, watch

OLD_AFTER_S = 30.0
"""Three heartbeats: what is older is not how things are now."""

QUIET_S = 0.5
"""What a broker keeps comes at once; when nothing new came for so long, it was all there is."""

Verdict = Literal["ok", "starting", "broken", "old", "offline", "stopped", "unknown"]
_NAME_BYTES = 60
_WORDS_BYTES = 500


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung of a ladder, as it was received: anybody may have sent it.

    Attributes:
        name: Such as ``outlet``.
        state: Such as ``fault``.
        since_s: Unix time; None if it cannot be read.
        reason: Why it is not ok.
        remedy: What to do about it.
    """

    name: str
    state: str
    since_s: float | None
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How one stream's classifier stands.

    Attributes:
        level: Topic level of the stream.
        name: Its name.
        status: ``online``, ``offline``, ``stopped``, or ``unknown`` if the broker keeps none.
        verdict: ``ok`` only if it is online and said lately that every rung is ok.
        why: Why it is not, for a person.
        remedy: What to do about it.
        age_s: Age of its health, seconds, by both clocks; None: it never said any.
        rungs: Its ladder.
        alert: The alert state; empty if there is none.
        alert_age_s: As ``age_s``.
        health: The state of health; empty if there is none.
    """

    level: str
    name: str
    status: str
    verdict: Verdict
    why: str
    remedy: str
    age_s: float | None
    rungs: tuple[Rung, ...]
    alert: Mapping[str, Any]
    alert_age_s: float | None
    health: Mapping[str, Any]


async def look(
    broker: BrokerSettings, *, stream: str | None = None, within_s: float
) -> list[Standing]:
    """Say how one stream's classifier stands, or all, sorted by name.

    Args:
        broker: Where, and how to be let in.
        stream: Name or topic level; None: all.
        within_s: How long to listen at most.

    Raises:
        BrokerUnavailableError: If the broker does not answer.
        BrokerRefusedError: If it does not let us in.
    """
    is_listening = asyncio.Event()
    kept: dict[str, dict[str, Received]] = {}
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(within_s) as limit,
            contextlib.aclosing(
                watch(broker, stream=stream, on_listening=is_listening.set)
            ) as messages,
        ):
            async for received in messages:
                is_new = received.what not in kept.setdefault(received.level, {})
                kept[received.level][received.what] = received
                if is_new:
                    _bring_forward(limit, QUIET_S)
    if not is_listening.is_set():
        raise BrokerUnavailableError(
            f"{broker} did not answer within {within_s:g} s. "
            f"Try: stream-classifier doctor --broker {broker}"
        )
    standing = [_standing(level, messages) for level, messages in kept.items()]
    return sorted(standing, key=lambda s: s.name)


def _bring_forward(limit: asyncio.Timeout, seconds: float) -> None:
    """End the wait so much from now, if that is sooner."""
    soon = asyncio.get_running_loop().time() + seconds
    at = limit.when()
    if at is not None and not limit.expired():
        limit.reschedule(min(at, soon))


def _standing(level: str, kept: Mapping[str, Received]) -> Standing:
    health, alert = kept.get("health"), kept.get("alert")
    status = kept["status"].text if "status" in kept else "unknown"
    rungs = rungs_of(health.fields) if health else ()
    verdict, why, remedy = _verdict(status, health, rungs)
    name = next(
        (str(r.fields["stream"]) for r in (health, alert) if r and "stream" in r.fields), ""
    )
    return Standing(
        level=level,
        name=shown(name or level, max_bytes=_NAME_BYTES),
        status=shown(status, max_bytes=_NAME_BYTES),
        verdict=verdict,
        why=why,
        remedy=remedy,
        age_s=_age_s(health),
        rungs=rungs,
        alert=alert.fields if alert else {},
        alert_age_s=_age_s(alert),
        health=health.fields if health else {},
    )


def _verdict(
    status: str, health: Received | None, rungs: tuple[Rung, ...]
) -> tuple[Verdict, str, str]:
    if status != "online":
        return _when_not_online(status, rungs)
    age_s = _age_s(health)
    if health is None or age_s is None:
        remedy = "bring it up to date, or let it write health (deploy/mosquitto/acl)"
        return "unknown", "it said nothing of its health", remedy
    if abs(age_s) > OLD_AFTER_S:
        said = f"it said nothing for {age_s:.0f} s"
        if age_s < 0:
            said = f"its clock is {-age_s:.0f} s ahead of this one"
        return "old", said, "look whether it runs, and whether both clocks are right"
    first, state = lowest_broken(rungs), health.fields.get("state")
    if first is not None:
        is_starting = state == Condition.STARTING and first.state == Condition.STARTING
        said = f"{first.name} {first.state}: {first.reason}"
        return "starting" if is_starting else "broken", said, first.remedy
    if not rungs or state != Condition.OK:
        return "broken", f"its health is {shown(str(state), max_bytes=20)}", "look at its log"
    return "ok", "", ""


def _when_not_online(status: str, rungs: tuple[Rung, ...]) -> tuple[Verdict, str, str]:
    first = lowest_broken(rungs)
    if status == "stopped" and first is not None and first.state == Condition.FAULT:
        return "stopped", f"it gave up: {first.name}: {first.reason}", first.remedy
    return _NOT_ONLINE.get(status, _NEVER_ONLINE)


_NOT_ONLINE: dict[str, tuple[Verdict, str, str]] = {
    "offline": ("offline", "it or its connection died", "start it again, and look at its log"),
    "stopped": ("stopped", "somebody stopped it", "start it, if alerts are wanted"),
}
_NEVER_ONLINE: tuple[Verdict, str, str] = (
    "unknown",
    "it never said that it is online",
    "look whether it runs",
)


def lowest_broken(rungs: tuple[Rung, ...]) -> Rung | None:
    """Return the rung that a person looks at first; None if all are ok.

    One of which nothing can be said is looked at only if nothing else is broken.
    """
    broken = [rung for rung in rungs if rung.state != Condition.OK]
    known = [rung for rung in broken if rung.state != Condition.UNKNOWN]
    return next(iter(known or broken), None)


def rungs_of(fields: Mapping[str, Any]) -> tuple[Rung, ...]:
    """Return the ladder in a state of health, whatever somebody wrote there."""
    listed = fields.get("rungs")
    return tuple(
        Rung(
            name=shown(str(rung.get("rung")), max_bytes=_NAME_BYTES),
            state=shown(str(rung.get("state")), max_bytes=_NAME_BYTES),
            since_s=unix_time(rung.get("since")),
            reason=shown(str(rung.get("reason") or ""), max_bytes=_WORDS_BYTES),
            remedy=shown(str(rung.get("remedy") or ""), max_bytes=_WORDS_BYTES),
        )
        for rung in (listed if isinstance(listed, list) else [])
        if isinstance(rung, dict)
    )


def _age_s(received: Received | None) -> float | None:
    if received is None:
        return None
    published_s = unix_time(received.fields.get("published"))
    return None if published_s is None else received.received_s - published_s


def unix_time(text: object) -> float | None:
    """Return when a text says, Unix time; None if it is no time."""
    try:
        at = datetime.fromisoformat(str(text))
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
