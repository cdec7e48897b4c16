"""When an engine takes a step and when a decision is due; and what every engine refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stream_classifier.bundle import Bundle, NetworkSpec
from stream_classifier.errors import EngineError, NotFiniteError, ShapeError

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the samples of a run become steps, and the steps decisions.

    Attributes:
        is_windowed: Whether each window starts from zero state; else the state runs on.
        lead_samples: Samples of a run before the first that a step covers, so that the last step
            of the first window ends with it. The newest of them counts by the difference.
        n_steps: Steps of the LSTM in a window.
        steps_per_hop: Steps from one decision to the next.
        n_states: LSTM states that a channel carries: windowed, one for each window that has begun.
    """

    is_windowed: bool
    lead_samples: int
    n_steps: int
    steps_per_hop: int
    n_states: int

    @classmethod
    def of(cls, bundle: Bundle, *, hop_samples: int) -> Self:
        """Plan a bundle's run.

        Raises:
            EngineError: If the hop is no multiple of the stem's stride up to the window, the stem
                sees more than a window, or the weights are those of another network.
        """
        net, window = bundle.network, bundle.window_samples
        stride = net.stride_samples
        if hop_samples % stride or not stride <= hop_samples <= window:
            raise EngineError(
                f"hop of {hop_samples} samples: expected a multiple of {stride}, from {stride} to "
                f"{window} samples. Try: --set model.hop_samples=8"
            )
        shapes = {name: weight.shape for name, weight in bundle.weights.items()}
        for name, shape in net.weight_shapes.items():
            if shapes.pop(name, None) != shape:
                found = bundle.weights[name].shape if name in bundle.weights else "none"
                raise EngineError(
                    f"bundle {bundle.name}: expected {name} of shape {shape}, as its network says; "
                    f"found {found}. Try: another bundle"
                )
        if shapes:
            raise EngineError(
                f"bundle {bundle.name}: found weights {', '.join(shapes)}, which its network has "
                "not. Try: another bundle"
            )
        steps = n_steps(net, window)
        per_hop = hop_samples // stride
        is_windowed = bundle.mode == "windowed"
        return cls(
            is_windowed=is_windowed,
            lead_samples=lead_samples(net, window),
            n_steps=steps,
            steps_per_hop=per_hop,
            n_states=math.ceil(steps / per_hop) if is_windowed else 1,
        )

    def begins(self, step: int) -> int | None:
        """Return the slot of the window that begins with a step of a run, if one does."""
        if not self.is_windowed or step % self.steps_per_hop:
            return None
        return step // self.steps_per_hop % self.n_states

    def ends(self, n_steps: int) -> int | None:
        """Return the slot of the window that is finished after so many steps, if one is."""
        begun = n_steps - self.n_steps
        if begun < 0 or begun % self.steps_per_hop:
            return None
        return begun // self.steps_per_hop % self.n_states


def n_steps(net: NetworkSpec, window_samples: int) -> int:
    """Steps of the LSTM in one window.

    Raises:
        EngineError: If the stem sees more than a window.
    """
    seen = net.before_samples + net.receptive_samples
    steps = (window_samples - seen) // net.stride_samples + 1
    if steps < 1:
        raise EngineError(
            f"the stem sees {seen} samples, a window has {window_samples}. Try: another bundle"
        )
    return steps


def lead_samples(net: NetworkSpec, window_samples: int) -> int:
    """Samples of a window before the stem's first input, so that its last ends the window."""
    steps = n_steps(net, window_samples)
    return window_samples - net.receptive_samples - (steps - 1) * net.stride_samples


def check_samples(samples: Mapping[int, F32], n_lanes: Callable[[int], int]) -> None:
    """Refuse what an engine cannot take, before it changes anything.

    Args:
        samples: What ``Engine.feed`` was given.
        n_lanes: Channels of a stream, by its handle.

    Raises:
        KeyError: If there is no such stream.
        ShapeError: If an array has another number of axes or channels.
        NotFiniteError: If a sample is NaN or infinite.
    """
    for handle, new in samples.items():
        expected = n_lanes(handle)
        if new.ndim != 2 or new.shape[1] != expected:
            raise ShapeError(expected=f"(n, {expected})", actual=new.shape)
        if not np.isfinite(new).all():
            row, channel = map(int, np.argwhere(~np.isfinite(new))[0])
            raise NotFiniteError(
                where=f"row {row}, channel {channel} of stream {handle}",
                found=str(new[row, channel]),
            )
