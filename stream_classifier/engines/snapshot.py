"""All that a stream carries in an engine, as bytes: to move it, or to go on after a restart.

Every engine reads what any other wrote. It goes on within rounding (1e-6), and to the bit where
both are of one kind (native: and of one instruction set). The format is safetensors, whose arrays
are checked against the network before they are taken; nothing is unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as format_safetensors

from stream_classifier.bundle import Bundle, NetworkSpec, canonical_json
from stream_classifier.engines.plan import Plan
from stream_classifier.errors import EngineError

F32 = NDArray[np.float32]

MAX_BYTES: Final = 256 * 2**20
MAX_LANES: Final = 65_536
MAX_STEPS: Final = 2**53
"""Of one run: the native engine counts in 64 bits."""


@dataclass(slots=True, eq=False)
class StreamState:
    """One stream, between two calls of ``feed``; L lanes (channels), S states, H units.

    Attributes:
        n_skipped: Samples of this run that no step covers, left out so far.
        n_steps: Steps of this run done.
        previous: Shape ``(L,)``: the last z-score taken, for the difference.
        waiting: By convolution, ``(n, L, C)``: inputs that its next outputs need.
        h: By layer, ``(L, S, H)``: hidden states.
        c: Likewise: cell states.
        h_sum: Windowed, ``(L, S, H)``: sum over the steps of the window so far, of the last layer.
        h_max: Windowed, likewise: maximum, -inf before the first step.
        past: Continuous, ``(n, L, H)``: the last layer's h of the newest steps, oldest first, at
            most a window's.
    """

    n_skipped: int
    n_steps: int
    previous: F32
    waiting: list[F32]
    h: list[F32]
    c: list[F32]
    h_sum: F32
    h_max: F32
    past: F32


def pack(state: StreamState, bundle: Bundle, *, hop_samples: int) -> bytes:
    """Write a stream's state, and what it is a state of."""
    tensors: dict[str, NDArray[Any]] = {
        "run": np.array([state.n_skipped, state.n_steps], np.int64),
        "previous": state.previous,
        "h_sum": state.h_sum,
        "h_max": state.h_max,
        "past": state.past,
        **{f"waiting{n}": x for n, x in enumerate(state.waiting)},
        **{f"h{n}": x for n, x in enumerate(state.h)},
        **{f"c{n}": x for n, x in enumerate(state.c)},
    }
    tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    owner = np.frombuffer(_owner(bundle, hop_samples), np.uint8)
    return bytes(format_safetensors({**tensors, "owner": owner}))


def unpack(packed: bytes, bundle: Bundle, plan: Plan, *, hop_samples: int) -> StreamState:
    """Read a stream's state.

    Raises:
        EngineError: If it is damaged, or of another bundle, mode or hop.
    """
    if len(packed) > MAX_BYTES:
        raise _unusable(f"at most {MAX_BYTES:,} bytes", f"{len(packed):,}")
    try:
        tensors = parse_safetensors(packed)
    except (SafetensorError, KeyError, ValueError) as error:
        raise _unusable("a snapshot", str(error)[:200]) from error
    owner = tensors.pop("owner", np.zeros(0, np.uint8))
    expected = _owner(bundle, hop_samples)
    if owner.tobytes() != expected:
        found = owner.tobytes()[:200].decode("ascii", "replace").strip()
        raise _unusable(f"one of {expected.decode().strip()}", found or "none")
    net = bundle.network
    previous, run = tensors.get("previous"), tensors.get("run")
    if previous is None or previous.ndim != 1 or not 0 < len(previous) <= MAX_LANES:
        raise _unusable(f"1 to {MAX_LANES} channels", "another number")
    if run is None or run.dtype != np.int64 or run.shape != (2,) or run.min() < 0:
        raise _unusable("two counts of a run", "others")
    n_skipped, n_done = map(int, run)
    if n_done > MAX_STEPS:
        raise _unusable(f"at most {MAX_STEPS:,} steps", f"{n_done:,}")
    if n_skipped > plan.lead_samples or (n_done and n_skipped < plan.lead_samples):
        raise _unusable(f"{plan.lead_samples} samples left out", f"{n_skipped}")
    _check_arrays(tensors, net, plan, n_lanes=len(previous), n_steps=n_done)
    return StreamState(
        n_skipped=n_skipped,
        n_steps=n_done,
        previous=previous.copy(),
        waiting=[tensors[f"waiting{n}"].copy() for n in range(len(net.stem))],
        h=[tensors[f"h{n}"].copy() for n in range(net.layers)],
        c=[tensors[f"c{n}"].copy() for n in range(net.layers)],
        h_sum=tensors["h_sum"].copy(),
        h_max=tensors["h_max"].copy(),
        past=tensors["past"].copy(),
    )


def _check_arrays(
    tensors: dict[str, NDArray[Any]], net: NetworkSpec, plan: Plan, *, n_lanes: int, n_steps: int
) -> None:
    L, S, H = n_lanes, plan.n_states, net.hidden
    past = 0 if plan.is_windowed else min(n_steps, plan.n_steps)
    inputs = [net.n_features, *(conv.channels for conv in net.stem)]
    windows = (L if plan.is_windowed else 0, S, H)
    shapes: dict[str, tuple[int, ...]] = {"run": (2,), "previous": (L,), "past": (past, L, H)}
    shapes |= {"h_sum": windows, "h_max": windows}
    shapes |= {f"{kind}{n}": (L, S, H) for n in range(net.layers) for kind in "hc"}
    for n, conv in enumerate(net.stem):
        n_waiting = len(tensors[f"waiting{n}"]) if f"waiting{n}" in tensors else 0
        shapes[f"waiting{n}"] = (min(n_waiting, conv.kernel - 1), L, inputs[n])
    if {name: x.shape for name, x in tensors.items()} != shapes:
        raise _unusable("the arrays of this network", "others")
    for name, x in tensors.items():
        if name != "run" and x.dtype != np.float32:
            raise _unusable(f"{name} in float32", str(x.dtype))
        unfinished = name == "h_max"  # -inf until its window's first step
        if not (np.isfinite(x) | (unfinished & (x == -np.inf))).all():
            raise _unusable(f"finite numbers in {name}", "NaN or infinity")


def _owner(bundle: Bundle, hop_samples: int) -> bytes:
    return canonical_json(
        {"bundle": bundle.digest, "mode": bundle.mode, "hop_samples": hop_samples, "format": 1}
    )


def _unusable(expected: str, found: str) -> EngineError:
    return EngineError(
        f"snapshot of a stream: expected {expected}, found {found}. Try: open the stream anew"
    )
