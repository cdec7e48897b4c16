"""What the peers are called, for those who have no torch to import ``peers.py`` with."""

from __future__ import annotations

from typing import Final

TORCH_ONE: Final = "torch, one window at a time"
TORCH_BATCHED: Final = "torch, batched"
TORCH_COMPILED: Final = "torch.compile, batched"
ONNX_ONE: Final = "ONNX Runtime, one at a time"
ONNX_BATCHED: Final = "ONNX Runtime, batched"
OPENVINO_ONE: Final = "OpenVINO, one at a time"
OPENVINO_BATCHED: Final = "OpenVINO, batched"

NAMES: Final = (
    TORCH_ONE, TORCH_BATCHED, TORCH_COMPILED, ONNX_ONE, ONNX_BATCHED, OPENVINO_ONE,
    OPENVINO_BATCHED,
)  # fmt: skip
