"""The LSTM over sliding windows: one contract (``signals.Engine``), three engines."""

from __future__ import annotations

from typing import Literal

from stream_classifier.bundle import Bundle
from stream_classifier.engines.native import NativeEngine, bfloat16_engine, instruction_sets
from stream_classifier.engines.reference import ReferenceEngine
from stream_classifier.errors import EngineError
from stream_classifier.signals import Engine

__all__ = ["EngineName", "Precision", "default_engine", "instruction_sets", "make_engine"]

EngineName = Literal["auto", "native", "reference", "torch"]
Precision = Literal["float32", "bfloat16"]


def make_engine(
    bundle: Bundle,
    *,
    name: EngineName = "auto",
    device: Literal["cpu", "cuda"] = "cpu",
    hop_samples: int | None = None,
    n_threads: int = 1,
    precision: Precision = "float32",
) -> Engine:
    """Build the engine that runs a bundle.

    Args:
        bundle: Network and weights.
        name: ``native`` (C++), ``reference`` (numpy, always there), ``torch``; ``auto``: torch when
            a GPU is asked for, else native where it was built, else reference.
        device: Where the torch engine runs.
        hop_samples: Samples from one window to the next; None takes the bundle's.
        n_threads: Threads of the native engine, which share the streams of a call.
        precision: Of the LSTM's products; ``bfloat16``: the native engine only, see
            ``native.bfloat16_engine``.

    Raises:
        EngineError: If the engine, the hop or the weights do not fit, the device or bfloat16 is not
            there, or bfloat16 would change the bundle's self-test too much.
        MissingExtraError: If torch is asked for and not installed.
    """
    hop = bundle.hop_samples if hop_samples is None else hop_samples
    if device == "cuda" and name in {"native", "reference"}:
        raise EngineError(f"the {name} engine runs on cpu only. Try: --engine torch --device cuda")
    if precision == "bfloat16":
        if name in {"reference", "torch"} or device == "cuda":
            found = name if device == "cpu" else device
            raise EngineError(
                f"precision bfloat16: expected the native engine, found {found}. "
                "Try: --engine native, or --set model.precision=float32"
            )
        return bfloat16_engine(bundle, hop_samples=hop, n_threads=n_threads)
    if name == "torch" or device == "cuda":
        from stream_classifier.engines.torch import TorchEngine  # noqa: PLC0415 - optional extra

        return TorchEngine(bundle, hop_samples=hop, device=device)
    if name == "native" or (name == "auto" and instruction_sets()):
        return NativeEngine(bundle, hop_samples=hop, n_threads=n_threads)
    return ReferenceEngine(bundle, hop_samples=hop)


def default_engine() -> str:
    """Say which engine ``auto`` is on the CPU of this machine, and why.

    Example:
        >>> default_engine().split()[0] in {"native", "reference"}
        True
    """
    usable = instruction_sets()
    if usable:
        return f"native (C++, {usable[0]})"
    return "reference (numpy); the native engine was not built: that takes a C++ compiler"
