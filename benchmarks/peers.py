"""What else can run the network: torch, ONNX Runtime and OpenVINO, on whole windows.

Each of them gets all 120 samples of every window that is due, as one would write it first; none of
them keeps anything from one window to the next. All are held to one thread and to float32. With a
stem that is more arithmetic than overlapping windows need: the engines' gain lies there, too.

Importing this module needs torch; the others are optional and no dependency of the project
(``pip install onnx onnxruntime openvino``). The ONNX file is made by the older
exporter of ``torch.onnx``: it makes one ``LSTM`` node of each layer, in a second.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peer_names import (
    NAMES,
    ONNX_BATCHED,
    ONNX_ONE,
    OPENVINO_BATCHED,
    OPENVINO_ONE,
    TORCH_BATCHED,
    TORCH_COMPILED,
    TORCH_ONE,
)
from stream_classifier.bundle import Bundle
from stream_classifier.engines.plan import lead_samples

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Peer:
    """One way to classify windows.

    Attributes:
        name: Which.
        is_batched: Whether it takes all windows that are due in one call; else one a call.
        classify: z-scores, shape ``(n, window_samples)``, to probabilities, ``(n, n_classes)``;
            where not batched, n is 1.
    """

    name: str
    is_batched: bool
    classify: Callable[[F32], F32]

    def __call__(self, windows: F32) -> F32:
        """Classify any number of windows, shape ``(n, window_samples)``."""
        if self.is_batched:
            return self.classify(windows)
        return np.concatenate([self.classify(windows[i : i + 1]) for i in range(len(windows))])


class PlainNetwork(nn.Module):
    """The whole network as one would write it: z-scores (n, window) to probabilities (n, classes).

    Args:
        bundle: A windowed bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        net, weights = bundle.network, {k: torch.tensor(v) for k, v in bundle.weights.items()}
        self.lead = lead_samples(net, bundle.window_samples)
        self.features = net.features
        self.strides = [conv.stride for conv in net.stem]
        self.stem = nn.ParameterList()
        for n in range(1, len(net.stem) + 1):
            self.stem.extend([weights[f"conv{n}.weight"], weights[f"conv{n}.bias"]])
        inputs = net.stem[-1].channels if net.stem else net.n_features
        self.lstm = nn.LSTM(inputs, net.hidden, num_layers=net.layers, batch_first=True)
        self.head = nn.Linear(3 * net.hidden, net.outputs)
        state = {"head.weight": weights["head.weight"], "head.bias": weights["head.bias"]}
        for n, layer in enumerate(net.layer_names):
            state[f"lstm.weight_ih_l{n}"] = weights[f"{layer}.weight_ih"]
            state[f"lstm.weight_hh_l{n}"] = weights[f"{layer}.weight_hh"]
            state[f"lstm.bias_ih_l{n}"] = weights[f"{layer}.bias"]
            state[f"lstm.bias_hh_l{n}"] = torch.zeros(4 * net.hidden)
        self.load_state_dict(state, strict=False)  # the stem is there already
        classes = torch.zeros(net.outputs, len(bundle.class_names))
        classes[torch.arange(net.outputs), list(net.output_classes)] = 1
        self.register_buffer("classes", classes)  # (outputs, classes): which output counts for what
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, z: Tensor) -> Tensor:
        if self.features == "raw":
            x = z[:, None, self.lead :]  # (n, 1, samples)
        else:
            u = torch.asinh(4 * z[:, self.lead :]) / 2
            change = z[:, self.lead :] - z[:, self.lead - 1 : -1]
            x = torch.stack([u, torch.asinh(16 * change) / 2], dim=1)  # (n, 2, samples)
        for n, stride in enumerate(self.strides):
            x = functional.conv1d(x, self.stem[2 * n], self.stem[2 * n + 1], stride=stride).relu()
        h, _ = self.lstm(x.transpose(1, 2))  # (n, steps, H)
        readout = torch.cat([h[:, -1], h.mean(dim=1), h.amax(dim=1)], dim=1)  # (n, 3H)
        return torch.softmax(self.head(readout), dim=1) @ self.classes


def versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    found = {}
    for package in ("torch", "onnxruntime", "openvino"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class Peers:
    """The peers of one windowed bundle.

    Args:
        bundle: Network and weights.
        names: Which are wanted; of ``NAMES``.

    Attributes:
        skipped: Why a peer is not there, by name.
    """

    def __init__(self, bundle: Bundle, *, names: tuple[str, ...] = NAMES) -> None:
        torch.set_num_threads(1)
        self.skipped: dict[str, str] = {}
        self._window = bundle.window_samples
        self._network = PlainNetwork(bundle)
        self._names = names
        self._onnx: bytes | None = None
        self._made: dict[str, Callable[[F32], F32]] = {}

    def for_batch(self, n_windows: int) -> list[Peer]:
        """Return those that can classify so many windows at once; why not, is in ``skipped``.

        Those that one compiles for a shape are compiled for this one.
        """
        makers: dict[str, Callable[[], Callable[[F32], F32]]] = {
            TORCH_ONE: self._torch,
            TORCH_BATCHED: self._torch,
            TORCH_COMPILED: lambda: self._compiled(n_windows),
            ONNX_ONE: self._onnxruntime,
            ONNX_BATCHED: self._onnxruntime,
            OPENVINO_ONE: lambda: self._openvino(1),
            OPENVINO_BATCHED: lambda: self._openvino(n_windows),
        }
        peers = []
        for name in self._names:
            if name in self.skipped:
                continue
            try:
                classify = makers[name]()
            except Exception as error:  # noqa: BLE001 - whatever fails: no comparison, and why
                self.skipped[name] = _reason(error)
                continue
            peers.append(Peer(name, is_batched=name.endswith("batched"), classify=classify))
        return peers

    def _torch(self) -> Callable[[F32], F32]:
        return lambda windows: _run(self._network, windows)

    def _compiled(self, n_windows: int) -> Callable[[F32], F32]:
        if "compiled" not in self._made:
            # Left to itself dynamo leaves every LSTM, and all around it, as it is.
            from torch._dynamo import config

            config.allow_rnn = True
            network = torch.compile(self._network)
            self._made["compiled"] = lambda windows: _run(network, windows)
        classify = self._made["compiled"]
        for _ in range(2):
            classify(np.zeros((n_windows, self._window), np.float32))
        return classify

    def _onnxruntime(self) -> Callable[[F32], F32]:
        if "onnxruntime" not in self._made:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            session = onnxruntime.InferenceSession(
                self._exported(), options, providers=["CPUExecutionProvider"]
            )
            self._made["onnxruntime"] = lambda windows: session.run(None, {"z": windows})[0]
        return self._made["onnxruntime"]

    def _openvino(self, n_windows: int) -> Callable[[F32], F32]:
        os.environ.setdefault("OPENVINO_TELEMETRY", "0")
        import openvino

        core = openvino.Core()
        model = core.read_model(self._exported())
        model.reshape([n_windows, self._window])
        # Left to itself it computes in bfloat16 where the processor can.
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        return lambda windows: request.infer([windows])[0]

    def _exported(self) -> bytes:
        """Return the network as an ONNX file for any number of windows."""
        if self._onnx is None:
            import onnx  # noqa: F401 - the exporter needs it, and would say so less plainly

            file = io.BytesIO()
            torch.onnx.register_custom_op_symbolic("aten::asinh", _asinh, 9)
            with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
                # It warns of batches other than 1, and of its age; outputs are checked anyway.
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    self._network, (torch.zeros(2, self._window),), file, dynamo=False,
                    input_names=["z"], output_names=["p"],
                    dynamic_axes={"z": {0: "n"}, "p": {0: "n"}},
                )  # fmt: skip
            self._onnx = file.getvalue()
        return self._onnx


def _asinh(graph: Any, x: Any) -> Any:
    """Write what the older exporter leaves out; ONNX has had it since its opset 9."""
    return graph.op("Asinh", x)


@torch.inference_mode()
def _run(network: Any, windows: F32) -> F32:
    probabilities: F32 = network(torch.from_numpy(windows)).numpy()
    return probabilities


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[0][:160]}"
