"""The LSTM over sliding windows: one contract (``signals.Engine``), several engines."""

from __future__ import annotations

from typing import Literal

from stream_classifier.bundle import Bundle
from stream_classifier.engines.reference import ReferenceEngine
from stream_classifier.errors import EngineError
from stream_classifier.signals import Engine

EngineName = Literal["auto", "reference", "torch"]


def make_engine(
    bundle: Bundle,
    *,
    name: EngineName = "auto",
    device: Literal["cpu", "cuda"] = "cpu",
    hop_samples: int | None = None,
) -> Engine:
    """Build the engine that runs a bundle.

    Args:
        bundle: Network and weights.
        name: ``reference`` (numpy, always there), ``torch``, or ``auto``: torch when a GPU is
            asked for, else reference.
        device: Where the torch engine runs.
        hop_samples: Samples from one window to the next; None takes the bundle's.

    Raises:
        EngineError: If the hop does not fit the network, or the device is not there.
        MissingExtraError: If torch is asked for and not installed.
    """
    hop = bundle.hop_samples if hop_samples is None else hop_samples
    if device == "cuda" and name == "reference":
        raise EngineError(
            "the reference engine runs on cpu only. Try: --engine torch --device cuda"
        )
    if name == "torch" or device == "cuda":
        from stream_classifier.engines.torch import TorchEngine  # noqa: PLC0415 - optional extra

        return TorchEngine(bundle, hop_samples=hop, device=device)
    return ReferenceEngine(bundle, hop_samples=hop)
