"""What crosses between the monitor and its viewers: frames of samples, and what viewers ask for.

A frame is binary, little-endian: a header of 32 bytes (``seq``, ``n_samples``, ``n_channels``, all
uint32, 4 bytes of nothing, then ``first_index`` and ``start_unix_s``, float64), then the samples,
float32, µV, sample by sample. Frames laid end to end are read the same way. All else is JSON.
"""

from __future__ import annotations

import struct
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

_HEADER = struct.Struct("<IIIIdd")
HEADER_BYTES = _HEADER.size


def frame(
    samples: NDArray[np.float32], *, seq: int, first_index: int, start_unix_s: float
) -> bytes:
    """Return samples as viewers receive them.

    Args:
        samples: Shape ``(n_samples, n_channels)``, µV.
        seq: Counts frames, so that a viewer notices one that it did not get.
        first_index: Absolute index of the first sample.
        start_unix_s: When that was taken.

    Example:
        >>> len(frame(np.zeros((3, 2), np.float32), seq=0, first_index=7, start_unix_s=0.0))
        56
    """
    n_samples, n_channels = samples.shape
    header = _HEADER.pack(seq % 2**32, n_samples, n_channels, 0, first_index, start_unix_s)
    return header + np.ascontiguousarray(samples, dtype="<f4").tobytes()


class _Ask(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Acknowledge(_Ask):
    """A person has seen an alert."""

    do: Literal["acknowledge"]
    alert_id: Annotated[str, Field(min_length=1, max_length=100)]


class Mute(_Ask):
    """A person asks for quiet; 0 ends it."""

    do: Literal["mute"]
    minutes: Annotated[float, Field(ge=0, le=60)]


class Mark(_Ask):
    """A person marks an instant of the signal, Unix time."""

    do: Literal["mark"]
    at: float
    text: Annotated[str, Field(max_length=80)]


Ask = Acknowledge | Mute | Mark
_ASK: TypeAdapter[Ask] = TypeAdapter(Annotated[Ask, Field(discriminator="do")])


def parse_ask(text: str | bytes) -> Ask:
    """Read what a viewer asks for.

    Raises:
        ValueError: If it is nothing that can be asked for.
    """
    return _ASK.validate_json(text)
