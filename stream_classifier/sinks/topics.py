"""Where on the broker a stream's messages go: ``<base>/<stream>/<what>``.

A stream may call itself anything, so its name never becomes part of a topic as it is. It
becomes one level made of ``[a-z0-9_-]``: the name itself where it is fit to be one, else
what can be read of it and 32 hexadecimal digits of its SHA-256. Two names never share a
level: only a level made from a digest ends like one.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

BASE_TOPIC = "stream_classifier"

_FIT = re.compile(r"[a-z0-9_-]{1,64}")
_DIGEST = re.compile(r"-[0-9a-f]{32}\Z")
_BASE = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_READABLE_CHARACTERS = 64


def stream_level(name: str) -> str:
    """Return the topic level of a stream.

    Different names have different levels (as far as 128 bits of SHA-256 tell them apart).

    Args:
        name: The stream's full name: any characters and length, unpaired surrogates too.

    Example:
        >>> stream_level("bed3")
        'bed3'
        >>> stream_level("Bed 3 / left")
        'bed-3-left-bbd2643ac7ceecb451ce2244c36279ea'
    """
    if _FIT.fullmatch(name) and not _DIGEST.search(name):
        return name
    start = re.sub(r"[^a-z0-9_]+", "-", name[:_READABLE_CHARACTERS].lower())
    readable = start[:_READABLE_CHARACTERS].strip("-")
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{readable or 'stream'}-{digest}"


def levels_meant(text: str) -> tuple[str, ...]:
    """Return the levels that a person may mean by a stream's name, or by its level.

    Example:
        >>> levels_meant("bed3")
        ('bed3',)
        >>> len(levels_meant("bed-3-left-bbd2643ac7ceecb451ce2244c36279ea"))
        2
    """
    level = stream_level(text)
    is_level = _DIGEST.search(text) and re.fullmatch(r"[a-z0-9_-]{1,97}", text)
    return (level, text) if is_level else (level,)


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one stream.

    Attributes:
        stream: The stream's full name.
        base: What all topics start with.

    Raises:
        ValueError: If the base is not made of ``[A-Za-z0-9_-]`` levels.

    Example:
        >>> Topics("bed3").event
        'stream_classifier/bed3/alert/event'
    """

    stream: str
    base: str = BASE_TOPIC

    def __post_init__(self) -> None:
        if not _BASE.fullmatch(self.base):
            raise ValueError(
                f"base topic: expected letters, digits, '_', '-' and single '/' between them, "
                f"found {self.base!r}"
            )

    @property
    def prefix(self) -> str:
        """What all of this stream's topics start with."""
        return f"{self.base}/{stream_level(self.stream)}"

    @property
    def status(self) -> str:
        """Retained: ``online``, ``stopped``, or the last will ``offline``."""
        return f"{self.prefix}/status"

    @property
    def alert(self) -> str:
        """Retained: the alert state, on change and as a heartbeat."""
        return f"{self.prefix}/alert"

    @property
    def event(self) -> str:
        """Not retained: each step in the life of an alert, once."""
        return f"{self.prefix}/alert/event"

    @property
    def prediction(self) -> str:
        """Not retained: probabilities, about twice a second."""
        return f"{self.prefix}/prediction"

    @property
    def quality(self) -> str:
        """Retained: what each channel's signal is worth, on change and every 5 s."""
        return f"{self.prefix}/quality"

    @property
    def health(self) -> str:
        """Retained: the ladder from the outlet to the broker, on change and as a heartbeat."""
        return f"{self.prefix}/health"

    @property
    def info(self) -> str:
        """Retained: what the classifier is, for whom looks at its results."""
        return f"{self.prefix}/info"

    @property
    def canary(self) -> str:
        """Not retained: what the classifier tells itself, to see that the broker hands it on."""
        return f"{self.prefix}/canary"

    @property
    def commands(self) -> str:
        """The classifier listens to everything below."""
        return f"{self.prefix}/set"

    @property
    def answer(self) -> str:
        """Not retained: answers to commands, here or below, as a command asks."""
        return f"{self.prefix}/answer"

    def by_name(self) -> dict[str, str]:
        """Return the topics of results under their short names, as in the ``info`` message."""
        return {
            "status": self.status,
            "alert": self.alert,
            "event": self.event,
            "prediction": self.prediction,
            "quality": self.quality,
            "health": self.health,
            "info": self.info,
        }
