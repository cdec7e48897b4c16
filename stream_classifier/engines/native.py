"""The engine in C++ (``cpp/``): staggered states at the speed of the core.

The extension is optional: it is built where there is a compiler when the package is installed.
docs/engine.md explains the algorithm, with a picture.
"""

from __future__ import annotations

import functools
import logging
import time
from operator import index
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_classifier.bundle import Bundle
from stream_classifier.engines.plan import Plan, check_samples
from stream_classifier.engines.selftest import selftest_deviation
from stream_classifier.engines.snapshot import StreamState, pack, unpack
from stream_classifier.errors import EngineError

F32 = NDArray[np.float32]

LOG = logging.getLogger(__name__)

MAX_BFLOAT16_ERROR: Final = 5e-3
"""Of a probability, on a bundle's self-test windows: with more, bfloat16 is refused.

Its 8 significant bits cost a trained network about 2e-3 there; alarm thresholds have two decimals.
Of thousands of decisions the worst may be off by several times as much as of those few.
"""

MAX_THREADS: Final = 256

_PEAK_S: Final = 0.01


class _Core(Protocol):
    """What the extension's engine offers; see ``cpp/module.cpp``."""

    def open(self, n_channels: int, /) -> int: ...
    def reset(self, stream: int, /) -> None: ...
    def close(self, stream: int, /) -> None: ...
    def n_lanes(self, stream: int, /) -> int: ...
    def feed(self, samples: dict[int, F32], /) -> tuple[bytearray, tuple[int, ...]] | None: ...
    def catch_up(self) -> None: ...
    def snapshot(self, stream: int, /) -> tuple[int, int, int, list[int], list[bytearray]]: ...
    def restore(
        self, n_lanes: int, n_skipped: int, n_steps: int, waiting: list[int], arrays: list[F32], /
    ) -> int: ...


def _extension() -> Any:
    """Return the extension's module.

    Raises:
        EngineError: If it was not built, or not for this machine.
    """
    try:
        from stream_classifier.engines import _native  # type: ignore[attr-defined]  # noqa: PLC0415
    except ImportError as error:
        raise EngineError(
            "the native engine is not here: the package was installed without a C++ compiler "
            f"({error}). Try: install one (Debian: sudo apt-get install g++ python3-dev) and then "
            "the package again; or --engine reference"
        ) from error
    return _native


def _listed(kind: str) -> tuple[str, ...]:
    """Return what the extension lists; nothing where it was not built."""
    try:
        return tuple(getattr(_extension(), kind)())
    except EngineError:
        return ()


def instruction_sets() -> tuple[str, ...]:
    """Names of the instruction sets that can be used here, the widest first; none: not built."""
    return _listed("instructions")


def bfloat16_instruction_sets() -> tuple[str, ...]:
    """Names of those with products of bfloat16 in hardware that can be used here; mostly none."""
    return _listed("bfloat16_instructions")


def emulated_instruction_sets() -> tuple[str, ...]:
    """Names of those that give the same bits without the hardware, slowly: for tests of it."""
    return _listed("emulated_instructions")


def fma_peak_gflops(instructions: str | None = None, *, seconds: float = 0.2) -> float:
    """Measure how fast this core multiplies and adds in registers, in 10^9 operations a second.

    What no program can surpass; the best of several rounds, as others may use the core meanwhile.

    Args:
        instructions: One of ``instruction_sets()``, or of those with bfloat16; None takes the
            widest of the former.
        seconds: How long to measure, roughly.
    """
    module = _extension()
    name = instructions or module.instructions()[0]
    best, n, left_s = 0.0, 20_000, seconds
    while left_s > 0:
        start = time.perf_counter()
        done = module.busy(name, n)
        took_s = time.perf_counter() - start
        best, left_s = max(best, done / took_s), left_s - took_s
    return best / 1e9


class NativeEngine:
    """Both modes in C++, for any number of streams; bit-equal however samples are cut or batched.

    Of the last step of a call that finishes a window, ``feed`` does what the decision needs;
    ``catch_up``, or the next call, does the rest.

    Not thread-safe; the interpreter's lock is released while it computes.

    Args:
        bundle: Network, weights and mode.
        hop_samples: Samples from one decision to the next: a multiple of the stem's stride, at
            most the window.
        n_threads: Threads that share the streams of a call, 1 to ``MAX_THREADS``.
        instructions: One of ``instruction_sets()``; None takes the widest. Or one of
            ``bfloat16_instruction_sets()`` or ``emulated_instruction_sets()``: with the LSTM's
            products in bfloat16, its sums and all else in float32, and no look at the error.

    Raises:
        EngineError: If the extension or the instruction set is not there, the threads are out of
            range, or the hop or the weights do not fit the network.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        hop_samples: int,
        n_threads: int = 1,
        instructions: str | None = None,
    ) -> None:
        module = _extension()
        usable = tuple(module.instructions())
        usable += bfloat16_instruction_sets()
        if instructions is not None and instructions not in usable + emulated_instruction_sets():
            raise EngineError(
                f"instructions {instructions!r}: expected one of {', '.join(usable)}, which this "
                "processor has; found none of them. Try: leave it out"
            )
        if not 1 <= n_threads <= MAX_THREADS:
            raise EngineError(
                f"threads of the native engine: expected 1 to {MAX_THREADS}, found {n_threads}"
            )
        self.hop_samples = hop_samples
        self.fault: str | None = None
        self._bundle = bundle
        self._plan = Plan.of(bundle, hop_samples=hop_samples)
        self._n_classes = len(bundle.class_names)
        self.instructions = instructions or usable[0]
        self.name = f"native (C++, {self.instructions})"
        self._core: _Core = module.Engine(
            _described(bundle, self._plan), self.instructions, n_threads
        )

    def open(self, n_channels: int) -> int:
        """Add a stream and return its handle."""
        return self._core.open(n_channels)

    def reset(self, stream: int) -> None:
        """Forget a stream's past; its next sample starts a new run."""
        self._core.reset(stream)

    def close(self, stream: int) -> None:
        """Remove a stream."""
        self._core.close(stream)

    def feed(self, samples: dict[int, F32]) -> dict[int, F32]:
        """Add z-scores to streams and return the windows they finish (``signals.Engine``)."""
        fed = self._core.feed(samples)
        if fed is None:  # something is not as it should be: find out what, and say so
            samples = {
                int(index(handle)): np.require(new, np.float32, ["C", "A"])
                for handle, new in samples.items()
            }
            check_samples(samples, self._core.n_lanes)
            fed = self._core.feed(samples)
            if fed is None:
                raise EngineError("the native engine refused samples that look right")
        decided, counts = fed
        probabilities = np.frombuffer(decided, np.float32)
        n_streams = len(counts)
        first = next(iter(samples.values())).shape[1] if n_streams else 0
        alike = n_streams > 1 and counts[0] > 0 and counts.count(counts[0]) == n_streams
        if alike and all(new.shape[1] == first for new in samples.values()):
            # As streams mostly are: one reshape is far quicker than one for each.
            shape = (n_streams, counts[0], first, self._n_classes)
            return dict(zip(samples, probabilities.reshape(shape), strict=True))
        out = {}
        start = 0
        for (handle, new), count in zip(samples.items(), counts, strict=True):
            n_lanes = new.shape[1]
            stop = start + count * n_lanes * self._n_classes
            out[handle] = probabilities[start:stop].reshape(count, n_lanes, self._n_classes)
            start = stop
        return out

    def catch_up(self) -> None:
        """Advance the windows that ``feed`` put off so as to decide sooner."""
        self._core.catch_up()

    def snapshot(self, stream: int) -> bytes:
        """Return all that a stream carries."""
        n_lanes, n_skipped, n_steps, waiting, arrays = self._core.snapshot(stream)
        net, states = self._bundle.network, self._plan.n_states
        given = iter(np.frombuffer(array, np.float32) for array in arrays)
        inputs = (net.n_features, *(conv.channels for conv in net.stem))
        shape = (-1, states, net.hidden)
        state = StreamState(
            n_skipped=n_skipped,
            n_steps=n_steps,
            previous=next(given),
            waiting=[
                next(given).reshape(n, n_lanes, c) for n, c in zip(waiting, inputs, strict=False)
            ],
            h=[next(given).reshape(shape) for _ in range(net.layers)],
            c=[next(given).reshape(shape) for _ in range(net.layers)],
            h_sum=next(given).reshape(shape),
            h_max=next(given).reshape(shape),
            past=next(given).reshape(-1, n_lanes, net.hidden),
        )
        return pack(state, self._bundle, hop_samples=self.hop_samples)

    def restore(self, snapshot: bytes) -> int:
        """Add a stream that goes on from a snapshot, and return its handle."""
        state = unpack(snapshot, self._bundle, self._plan, hop_samples=self.hop_samples)
        arrays = [
            state.previous, *state.waiting, *state.h, *state.c, state.h_sum, state.h_max,
            state.past,
        ]  # fmt: skip
        return self._core.restore(
            len(state.previous),
            state.n_skipped,
            state.n_steps,
            [len(waiting) for waiting in state.waiting],
            [np.ascontiguousarray(array) for array in arrays],
        )


def bfloat16_engine(bundle: Bundle, *, hop_samples: int, n_threads: int = 1) -> NativeEngine:
    """Build the engine with the LSTM's products in bfloat16, if that changes next to nothing.

    The error is measured on the bundle's self-test windows, and logged. So is a warning where the
    processor is no faster with bfloat16, as some are not.

    Raises:
        EngineError: If the processor has no such instructions, the error is not below
            ``MAX_BFLOAT16_ERROR``, or the hop or the weights do not fit the network.
    """
    usable = bfloat16_instruction_sets()
    if not usable:
        here = instruction_sets()
        raise EngineError(
            "precision bfloat16: expected the native engine and a processor with AVX-512 BF16; "
            f"found {', '.join(here) or 'no native engine'}. "
            "Try: --set model.precision=float32"
        )
    build = functools.partial(NativeEngine, n_threads=n_threads, instructions=usable[0])
    engine = build(bundle, hop_samples=hop_samples)
    error = selftest_deviation(bundle, build=build)
    if not error < MAX_BFLOAT16_ERROR:
        raise EngineError(
            f"precision bfloat16: expected the probabilities of bundle {bundle.name}'s self-test "
            f"to change by less than {MAX_BFLOAT16_ERROR:g}; found {error:.1e}. "
            "Try: --set model.precision=float32"
        )
    LOG.info("bfloat16 changes the self-test of bundle %s by %.1e", bundle.name, error)
    half, single = (fma_peak_gflops(name, seconds=_PEAK_S) for name in (usable[0], None))
    if half <= single:
        LOG.warning(
            "bfloat16 is no gain on this processor: %.0f GFLOP/s, against %.0f with float32",
            half,
            single,
        )
    return engine


def _described(bundle: Bundle, plan: Plan) -> dict[str, int | F32]:
    """Return settings and weights by name, as ``cpp/module.cpp`` reads them."""
    net = bundle.network
    settings: dict[str, int | F32] = {
        "asinh": net.features == "asinh",
        "hidden": net.hidden,
        "n_classes": len(bundle.class_names),
        "n_convs": len(net.stem),
        "n_layers": net.layers,
        "n_outputs": net.outputs,
        "is_windowed": plan.is_windowed,
        "lead_samples": plan.lead_samples,
        "n_steps": plan.n_steps,
        "steps_per_hop": plan.steps_per_hop,
        "n_states": plan.n_states,
    }
    for n, conv in enumerate(net.stem, start=1):
        settings |= {
            f"conv{n}.channels": conv.channels,
            f"conv{n}.kernel": conv.kernel,
            f"conv{n}.stride": conv.stride,
        }
    settings |= {f"output{n}": target for n, target in enumerate(net.output_classes)}
    return settings | {
        name: np.ascontiguousarray(weight) for name, weight in bundle.weights.items()
    }
