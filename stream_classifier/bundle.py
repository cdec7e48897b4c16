"""Everything a trained model is, as one checked folder; nothing in it is ever unpickled.

    manifest.json           every setting; SHA-256 and size of each other file; its own digest
    weights.safetensors     the network's weights, and the scaler's mean and deviation
    split.json              the rows or recordings used for training, validation and test
    selftest.safetensors    real held-out windows, with the probabilities they must give
    CARD.md                 the model card: how, on what, how good, what it is not
    ATTRIBUTION.md          whose data the weights were made of, and on what terms

The manifest lists all other files and is itself the canonical JSON that this version
writes, so that any changed byte in any file is refused. That detects damage and mix-ups. It does
not prove who made a bundle: whoever can write the folder can also write new digests.

Weights are laid out as in PyTorch, gates in the order i, f, g, o (C channels, K kernel, H hidden
units): ``conv1.weight`` (C, features, K), ``conv1.bias`` (C), ``conv2.weight`` (C, C before, K),
and so on, ``lstm.weight_ih`` (4H, C), ``lstm.weight_hh`` (4H, H), ``lstm.bias`` (4H, the only one),
for a second layer ``lstm2.weight_ih`` (4H, H) and so on, ``head.weight`` (outputs, 3H; over the
last, mean and maximal state of the last layer), ``head.bias``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as format_safetensors

from stream_classifier.errors import BundleInvalidError
from stream_classifier.signals import CLASS_NAMES

Mode = Literal["windowed", "continuous"]
FORMAT: Final = "stream_classifier/bundle/2"
MAX_PARAMETERS: Final = 65_000

MANIFEST: Final = "manifest.json"
MAX_BYTES: Final = {
    MANIFEST: 256 * 2**10,
    "weights.safetensors": 512 * 2**10,
    "split.json": 512 * 2**10,
    "selftest.safetensors": 512 * 2**10,
    "CARD.md": 128 * 2**10,
    "ATTRIBUTION.md": 32 * 2**10,
}
"""The files of a bundle, all of them, and how large each may be."""

_TEXTS: Final = ("CARD.md", "ATTRIBUTION.md")
_MAX_HEADER_BYTES: Final = 16 * 2**10
_MODELS: Final = Path(__file__).parent / "models"
BUNDLE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""What a bundle may be called: its name becomes part of topics and paths."""

_STRICT: Final = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


@dataclass(frozen=True, slots=True)
class ConvSpec:
    """One unpadded causal convolution of the stem, followed by a ReLU.

    Attributes:
        channels: Its outputs.
        kernel: Its length, in steps of what it reads.
        stride: Steps of what it reads from one output to the next.

    Raises:
        ValueError: If a number is out of range.
    """

    __pydantic_config__ = _STRICT

    channels: int
    kernel: int
    stride: int

    def __post_init__(self) -> None:
        if not (0 < self.channels <= 256 and 0 < self.kernel <= 64):
            raise ValueError("a convolution has 1 to 256 channels and a kernel of 1 to 64 steps")
        if not 0 < self.stride <= self.kernel:
            raise ValueError("the stride of a convolution must be 1 to its kernel: none is skipped")


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """The shape of the network: features, a stem of unpadded convolutions, an LSTM, a head.

    Attributes:
        stem: The convolutions, first to last; none at all gives the LSTM each sample's features.
        hidden: Units of each layer of the LSTM.
        outputs: Classes that the head tells apart.
        output_classes: For each output the index, in ``CLASS_NAMES``, of the class that its
            probability counts for.
        layers: Layers of the LSTM, each fed with the states of the one below.
        features: What is made of a z-score z: ``asinh``: asinh(4 z) / 2 and asinh(16 dz) / 2, where
            dz is its difference from the sample before; ``raw``: z itself.

    Raises:
        ValueError: If a number is out of range, or the outputs do not cover the classes.
    """

    __pydantic_config__ = _STRICT

    stem: tuple[ConvSpec, ...] = (ConvSpec(24, 8, 2), ConvSpec(24, 8, 2))
    hidden: int = 64
    outputs: int = 5
    output_classes: tuple[int, ...] = (0, 1, 2, 2, 2)
    layers: int = 1
    features: Literal["asinh", "raw"] = "asinh"

    def __post_init__(self) -> None:
        if not (len(self.stem) <= 8 and 0 < self.hidden <= 256 and 0 < self.layers <= 8):
            raise ValueError(
                "expected at most 8 convolutions, 1 to 256 hidden units, 1 to 8 layers"
            )
        if len(self.output_classes) != self.outputs or self.outputs > 64:
            raise ValueError("output_classes must have one entry for each of up to 64 outputs")
        if set(self.output_classes) != set(range(len(CLASS_NAMES))):
            raise ValueError(f"output_classes must cover the classes 0..{len(CLASS_NAMES) - 1}")
        if self.n_parameters > MAX_PARAMETERS:
            raise ValueError(f"{self.n_parameters:,} parameters, at most {MAX_PARAMETERS:,}")

    @property
    def n_features(self) -> int:
        """Numbers made of each sample."""
        return 2 if self.features == "asinh" else 1

    @property
    def before_samples(self) -> int:
        """Samples before the first that a step covers which count, too: for the difference."""
        return 1 if self.features == "asinh" else 0

    @property
    def stride_samples(self) -> int:
        """Samples from one step of the LSTM to the next."""
        return math.prod(conv.stride for conv in self.stem)

    @property
    def receptive_samples(self) -> int:
        """Samples that one step covers, without the one before, for the difference."""
        covered, stride = 1, 1
        for conv in self.stem:
            covered += (conv.kernel - 1) * stride
            stride *= conv.stride
        return covered

    @property
    def layer_names(self) -> tuple[str, ...]:
        """What the weights of each layer of the LSTM begin with, first to last."""
        return ("lstm", *(f"lstm{n}" for n in range(2, self.layers + 1)))

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight."""
        shapes: dict[str, tuple[int, ...]] = {}
        C, H = self.n_features, self.hidden
        for number, conv in enumerate(self.stem, start=1):
            shapes[f"conv{number}.weight"] = (conv.channels, C, conv.kernel)
            shapes[f"conv{number}.bias"] = (conv.channels,)
            C = conv.channels
        for layer in self.layer_names:
            shapes[f"{layer}.weight_ih"] = (4 * H, C)
            shapes[f"{layer}.weight_hh"] = (4 * H, H)
            shapes[f"{layer}.bias"] = (4 * H,)
            C = H
        return shapes | {
            "head.weight": (self.outputs, 3 * H),
            "head.bias": (self.outputs,),
        }

    @property
    def n_parameters(self) -> int:
        """How many numbers are learnt."""
        return sum(math.prod(shape) for shape in self.weight_shapes.values())


@dataclass(frozen=True, slots=True)
class AlarmSpec:
    """When p(seizure) becomes an alert, as chosen on validation data.

    Attributes:
        raise_threshold: Smoothed probability from which an alert is raised, above 0, below 1.
        clear_threshold: Below this the seizure is held to be over; at most the raise threshold.
        smoothing_s: Time over which window probabilities are averaged.
        persistence_s: How long the raise threshold must be met.
        refractory_s: How long p must stay below clear before the alert ends.
        channels_needed: How many channels must agree: a channel and its neighbours, where the
            labels say where on the head they are; else any channels.

    Raises:
        ValueError: If a threshold, time or count is out of range.
    """

    __pydantic_config__ = _STRICT

    raise_threshold: float
    clear_threshold: float
    smoothing_s: float
    persistence_s: float
    refractory_s: float
    channels_needed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.channels_needed <= 512:
            raise ValueError("channels_needed must be 1 to 512")
        if not 0 < self.clear_threshold <= self.raise_threshold < 1:
            raise ValueError("expected 0 < clear_threshold <= raise_threshold < 1")
        if not all(
            0 <= seconds <= 3600
            for seconds in (self.smoothing_s, self.persistence_s, self.refractory_s)
        ):
            raise ValueError("smoothing, persistence and refractory time must be 0 to 3600 s")


@dataclass(frozen=True, slots=True)
class FilterSpec:
    """One causal filter that the model was trained behind.

    Attributes:
        sos: Second-order sections ``(b0, b1, b2, a0, a1, a2)`` at the bundle's rate.
        settle_s: Time after a (re)start during which its output is not to be trusted.
        describes: What it does, for people.
        mains_hz: Applied only where the mains have this frequency; None: always.

    Raises:
        ValueError: If a section has not six coefficients, or a0 is not 1.
    """

    __pydantic_config__ = _STRICT

    sos: tuple[tuple[float, ...], ...]
    settle_s: float
    describes: str
    mains_hz: float | None = None

    def __post_init__(self) -> None:
        if not self.sos or any(len(section) != 6 or section[3] != 1 for section in self.sos):
            raise ValueError("each section of sos must have six coefficients, the fourth 1")
        if self.settle_s < 0:
            raise ValueError("settle_s must not be negative")


@dataclass(frozen=True, slots=True)
class GainSpec:
    """How a live channel's amplitude is brought to that of the training data.

    The gain of a channel is measured once, on a baseline of good signal, and then frozen: one
    that followed the signal would normalise away the seizure that it should show.

    Attributes:
        target_uv: Robust standard deviation (1.4826 times the median absolute deviation) that
            the filtered baseline has after the gain.
        baseline_s: Good signal needed, seconds.
        low: Smallest gain, above 0.
        high: Largest gain; a larger one would hide a wrong unit.

    Raises:
        ValueError: If a number is out of range.
    """

    __pydantic_config__ = _STRICT

    target_uv: float
    baseline_s: float = 60.0
    low: float = 0.1
    high: float = 10.0

    def __post_init__(self) -> None:
        if not (self.target_uv > 0 and 1 <= self.baseline_s <= 3600):
            raise ValueError("target_uv must be above 0, baseline_s 1 to 3600")
        if not 0 < self.low <= 1 <= self.high:
            raise ValueError("expected 0 < low <= 1 <= high")


@dataclass(frozen=True, slots=True)
class Split:
    """What a model was trained, tuned and tested on.

    Attributes:
        protocol: ``rows``: rows shuffled, so that one recording lies on both sides (as the
            figures in the literature were made); ``recordings``: whole recordings held out.
        seed: Of the shuffle.
        train: Row numbers from 0 in file order, or the keys of recordings.
        validation: As ``train``: what every choice was made on.
        test: As ``train``: what no choice was made on.
        data_digest: SHA-256 of the table they refer to.

    Raises:
        ValueError: If a row or recording is on two sides, or on one of them twice.
    """

    __pydantic_config__ = _STRICT

    protocol: Literal["rows", "recordings"]
    seed: int
    train: tuple[int, ...] | tuple[str, ...]
    validation: tuple[int, ...] | tuple[str, ...]
    test: tuple[int, ...] | tuple[str, ...]
    data_digest: str

    def __post_init__(self) -> None:
        everything = (*self.train, *self.validation, *self.test)
        if len(set(everything)) != len(everything):
            raise ValueError("a row or recording is on two sides of the split, or twice on one")
        kind = int if self.protocol == "rows" else str
        if not all(isinstance(member, kind) for member in everything):
            raise ValueError(f"the protocol {self.protocol!r} splits by {kind.__name__}")


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A trained model, read from a folder and checked. Arrays are read-only.

    Attributes:
        name: Of the model; lower-case letters, digits, ``-`` and ``_``.
        version: Of the model.
        digest: SHA-256 of the manifest, and through it of everything, in hexadecimal.
        mode: ``windowed``: each window from zero state; ``continuous``: the LSTM's state runs on
            from the last gap, and the readout slides over its last ``window_samples``.
        rate_hz: Rate of the samples it was trained on.
        window_samples: Length of a window.
        hop_samples: Samples from one window to the next, unless set otherwise.
        class_names: In the order of every probability axis.
        network: Shape of the network.
        filters: Causal filters before the gain and the scaler, in order.
        gain: How a live channel's amplitude is calibrated; None: taken as it comes.
        scaler_mean_uv: Subtracted from every sample.
        scaler_std_uv: What the difference is divided by.
        alarm: When p(seizure) becomes an alert.
        weights: By name, float32; see the module.
        selftest_windows: Shape ``(n, n_samples)``, µV, float32, held-out data behind the filters;
            ``window_samples`` long, or longer in continuous mode.
        selftest_probabilities: Shape ``(n, n_classes)``, float32: the last decision on each.
        split: What it was trained on.
        provenance: How it was made: versions, seed, recipe, command.
        metrics: How good it is, measured once, on the split's test side.
        path: The folder.
    """

    name: str
    version: str
    digest: str
    mode: Mode
    rate_hz: float
    window_samples: int
    hop_samples: int
    class_names: tuple[str, ...]
    network: NetworkSpec
    filters: tuple[FilterSpec, ...]
    gain: GainSpec | None
    scaler_mean_uv: float
    scaler_std_uv: float
    alarm: AlarmSpec
    weights: dict[str, NDArray[np.float32]]
    selftest_windows: NDArray[np.float32]
    selftest_probabilities: NDArray[np.float32]
    split: Split
    provenance: dict[str, Any]
    metrics: dict[str, Any]
    path: Path


class _FileEntry(BaseModel):
    model_config = _STRICT

    sha256: str
    size: int


class _Manifest(BaseModel):
    """``manifest.json``, apart from its digest."""

    model_config = _STRICT

    format: Literal["stream_classifier/bundle/2"] = FORMAT
    name: str
    version: str
    mode: Mode
    rate_hz: float
    window_samples: int
    hop_samples: int
    class_names: tuple[str, ...]
    network: NetworkSpec
    filters: tuple[FilterSpec, ...]
    gain: GainSpec | None
    alarm: AlarmSpec
    provenance: dict[str, JsonValue]
    metrics: dict[str, JsonValue]
    files: dict[str, _FileEntry]


def shipped() -> tuple[str, ...]:
    """Names of the bundles that come with the package."""
    return tuple(sorted(path.parent.name for path in _MODELS.glob(f"*/{MANIFEST}")))


def default_bundle(kind: Literal["live", "dataset"]) -> str:
    """Return the name of the bundle for a kind of signal, where the user names none.

    Args:
        kind: ``live``: of a head, or a recording of one; ``dataset``: the data set's own replays.
    """
    return "headset" if kind == "live" and "headset" in shipped() else "bonn"


def load_bundle(name_or_path: str | Path) -> Bundle:
    """Read a bundle, and refuse it unless every byte is what was written.

    Args:
        name_or_path: The name of a shipped bundle, or a folder. A folder that is called like
            a shipped bundle is reached by ``./name``.

    Raises:
        BundleInvalidError: If it is not there, damaged, or its parts do not fit together.
    """
    path = Path(os.path.expanduser(name_or_path))  # noqa: PTH111 - Path's refuses unknown users
    if name_or_path in shipped():
        path = _MODELS / name_or_path
    contents = _read_files(path)
    manifest, digest = _parse_manifest(path, contents.pop(MANIFEST))
    _check_files(path, manifest, contents)
    weights = _parse_tensors(
        path,
        "weights.safetensors",
        contents,
        shapes=manifest.network.weight_shapes | {"scaler.mean_uv": (1,), "scaler.std_uv": (1,)},
    )
    mean_uv, std_uv = weights.pop("scaler.mean_uv")[0], weights.pop("scaler.std_uv")[0]
    if std_uv <= 0:
        raise _invalid(path=str(path), expected="a scaler deviation above 0", found=f"{std_uv:g}")
    selftest = _parse_tensors(
        path,
        "selftest.safetensors",
        contents,
        shapes={
            "windows": (None, None),
            "probabilities": (None, len(manifest.class_names)),
        },
    )
    if len(selftest["windows"]) != len(selftest["probabilities"]) or not len(selftest["windows"]):
        raise _invalid(
            path=str(path), expected="one row of probabilities for each self-test window",
            found=f"{len(selftest['windows'])} windows, {len(selftest['probabilities'])} rows",
        )  # fmt: skip
    n_samples = selftest["windows"].shape[1]
    longest = manifest.window_samples * (1 if manifest.mode == "windowed" else 64)
    if not manifest.window_samples <= n_samples <= longest:
        raise _invalid(
            path=str(path), found=f"{n_samples}",
            expected=f"self-test windows of {manifest.window_samples} to {longest} samples",
        )  # fmt: skip
    sums = selftest["probabilities"].sum(axis=1)
    if selftest["probabilities"].min() < 0 or np.abs(sums - 1).max() > 1e-4:
        raise _invalid(
            path=str(path), expected="self-test probabilities that sum to 1", found="others"
        )
    try:
        split = TypeAdapter(Split).validate_json(contents["split.json"])
    except ValidationError as error:
        raise _unfit(path, "split.json", error) from error
    return Bundle(
        name=manifest.name,
        version=manifest.version,
        digest=digest,
        mode=manifest.mode,
        rate_hz=manifest.rate_hz,
        window_samples=manifest.window_samples,
        hop_samples=manifest.hop_samples,
        class_names=manifest.class_names,
        network=manifest.network,
        filters=manifest.filters,
        gain=manifest.gain,
        scaler_mean_uv=float(mean_uv),
        scaler_std_uv=float(std_uv),
        alarm=manifest.alarm,
        weights=weights,
        selftest_windows=selftest["windows"],
        selftest_probabilities=selftest["probabilities"],
        split=split,
        provenance=dict(manifest.provenance),
        metrics=dict(manifest.metrics),
        path=path,
    )


def save_bundle(
    path: Path,
    *,
    name: str,
    version: str,
    network: NetworkSpec,
    scaler_mean_uv: float,
    scaler_std_uv: float,
    alarm: AlarmSpec,
    weights: Mapping[str, NDArray[np.float32]],
    selftest_windows: NDArray[np.float32],
    selftest_probabilities: NDArray[np.float32],
    split: Split,
    provenance: Mapping[str, JsonValue],
    metrics: Mapping[str, JsonValue],
    card: str,
    attribution: str,
    mode: Mode = "windowed",
    filters: tuple[FilterSpec, ...] = (),
    gain: GainSpec | None = None,
    rate_hz: float = 178.0,
    window_samples: int = 120,
    hop_samples: int = 8,
    replace: bool = False,
) -> Bundle:
    """Write a bundle beside its place, read it back, and only then move it there.

    Args:
        path: The folder to make; its parent is made if need be.
        name: See ``Bundle``, also for the other parts.
        version: See ``Bundle``.
        network: See ``Bundle``.
        scaler_mean_uv: See ``Bundle``; rounded to float32.
        scaler_std_uv: See ``Bundle``; rounded to float32.
        alarm: See ``Bundle``.
        weights: See ``Bundle``.
        selftest_windows: See ``Bundle``.
        selftest_probabilities: See ``Bundle``.
        split: See ``Bundle``.
        provenance: See ``Bundle``.
        metrics: See ``Bundle``.
        card: Text of ``CARD.md``.
        attribution: Text of ``ATTRIBUTION.md``.
        mode: See ``Bundle``.
        filters: See ``Bundle``.
        gain: See ``Bundle``.
        rate_hz: See ``Bundle``.
        window_samples: See ``Bundle``.
        hop_samples: See ``Bundle``.
        replace: Whether a bundle that is already there may go.

    Returns:
        The bundle, as read back.

    Raises:
        FileExistsError: If something is there already, and it is no bundle or ``replace`` is
            false.
        BundleInvalidError: If the parts do not fit together; nothing is left behind.
    """
    if path.exists() and not (replace and (path / MANIFEST).is_file()):
        raise FileExistsError(f"{path} exists")
    scaler = {
        "scaler.mean_uv": np.array([scaler_mean_uv], np.float32),
        "scaler.std_uv": np.array([scaler_std_uv], np.float32),
    }
    selftest = {"windows": selftest_windows, "probabilities": selftest_probabilities}
    contents = {
        "weights.safetensors": _format_tensors(dict(weights) | scaler),
        "split.json": canonical_json(TypeAdapter(Split).dump_python(split, mode="json")),
        "selftest.safetensors": _format_tensors(selftest),
        "CARD.md": card.encode(),
        "ATTRIBUTION.md": attribution.encode(),
    }
    manifest = _Manifest(
        name=name,
        version=version,
        mode=mode,
        rate_hz=rate_hz,
        window_samples=window_samples,
        hop_samples=hop_samples,
        class_names=CLASS_NAMES,
        network=network,
        filters=filters,
        gain=gain,
        alarm=alarm,
        provenance=dict(provenance),
        metrics=dict(metrics),
        files={
            file: _FileEntry(sha256=hashlib.sha256(raw).hexdigest(), size=len(raw))
            for file, raw in contents.items()
        },
    ).model_dump(mode="json")
    manifest["digest"] = hashlib.sha256(canonical_json(manifest, indent=1)).hexdigest()
    contents[MANIFEST] = canonical_json(manifest, indent=1)

    path.parent.mkdir(parents=True, exist_ok=True)
    # On the same file system, so that moving it is one rename: readers see all or nothing.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        made = Path(scratch) / "new"
        made.mkdir()
        for file, raw in contents.items():
            (made / file).write_bytes(raw)
        load_bundle(made)
        if path.exists():
            path.rename(Path(scratch) / "old")
        made.rename(path)
    return load_bundle(path.resolve())


def canonical_json(value: JsonValue, *, indent: int | None = None) -> bytes:
    """JSON that is always spelt the same: keys sorted, ASCII, no NaN, one line end at the end."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, sort_keys=True, indent=indent, separators=separators, allow_nan=False)
    return f"{text}\n".encode("ascii")


def _read_files(path: Path) -> dict[str, bytes]:
    """Every file of the folder, which must hold the files of a bundle and nothing else."""
    try:
        found = sorted(entry.name for entry in path.iterdir())
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or str(error)
        raise BundleInvalidError(
            path=str(path),
            expected=f"a folder, or the name of a shipped bundle ({', '.join(shipped())})",
            found="neither" if isinstance(error, FileNotFoundError) else reason,
            fix="stream-classifier model list",
        ) from error
    if found != sorted(MAX_BYTES):
        absent, extra = MAX_BYTES.keys() - set(found), set(found) - MAX_BYTES.keys()
        raise _invalid(
            path=str(path),
            expected=f"exactly the files {', '.join(MAX_BYTES)}",
            found="; ".join(
                f"{what} {', '.join(map(repr, sorted(names)))}"[:400]
                for what, names in (("absent:", absent), ("too many:", extra))
                if names
            ),
        )
    contents = {file: _read_file(path / file, limit=limit) for file, limit in MAX_BYTES.items()}
    for file in _TEXTS:
        try:
            contents[file].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _invalid(
                path=str(path / file), expected="text in UTF-8", found=error.reason
            ) from error
    return contents


def _read_file(path: Path, *, limit: int) -> bytes:
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):  # a link leads out of the folder, a pipe never ends
            raise _invalid(path=str(path), expected="a regular file", found=stat.filemode(mode))
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise _invalid(
            path=str(path), expected="a readable file", found=error.strerror or str(error)
        ) from error
    if len(raw) > limit:
        raise _invalid(path=str(path), expected=f"at most {limit:,} bytes", found="more")
    return raw


def _parse_manifest(path: Path, raw: bytes) -> tuple[_Manifest, str]:
    """Return the manifest and its digest, which must be that of all the rest of it."""
    where = str(path / MANIFEST)
    try:
        content = json.loads(raw)
        canonical = isinstance(content, dict) and canonical_json(content, indent=1) == raw
    except (ValueError, RecursionError) as error:
        raise _invalid(path=where, expected="JSON", found=str(error)[:200]) from error
    if not canonical:
        raise _invalid(
            path=where, expected="a JSON object in canonical spelling", found="another spelling"
        )
    claimed = content.pop("digest", None)
    digest = hashlib.sha256(canonical_json(content, indent=1)).hexdigest()
    if claimed != digest:
        raise _invalid(path=where, expected=f"its digest {digest}", found=str(claimed)[:80])
    try:
        # From JSON, not from Python objects: there a list is a tuple, even when strict.
        manifest = _Manifest.model_validate_json(canonical_json(content))
    except ValidationError as error:
        raise _unfit(path, MANIFEST, error) from error
    for expected, fits in (
        (
            "a name of lower-case letters, digits, - and _",
            bool(BUNDLE_NAME.fullmatch(manifest.name)),
        ),
        (f"the classes {', '.join(CLASS_NAMES)}", manifest.class_names == CLASS_NAMES),
        ("a rate of 1 to 100,000 Hz", 1 <= manifest.rate_hz <= 100_000),
        ("a window of 32 to 4,096 samples", 32 <= manifest.window_samples <= 4096),
        ("a hop of 1 sample to a window", 1 <= manifest.hop_samples <= manifest.window_samples),
    ):
        if not fits:
            raise _invalid(path=where, expected=expected, found="another")
    return manifest, digest


def _check_files(path: Path, manifest: _Manifest, contents: Mapping[str, bytes]) -> None:
    if manifest.files.keys() != contents.keys():
        raise _invalid(
            path=str(path / MANIFEST),
            expected=f"digests of {', '.join(contents)}",
            found=f"of {', '.join(map(repr, sorted(manifest.files)))}"[:200],
        )
    for file, raw in contents.items():
        entry = manifest.files[file]
        if len(raw) != entry.size:
            raise _invalid(
                path=str(path / file), expected=f"{entry.size:,} bytes", found=f"{len(raw):,}"
            )
        digest = hashlib.sha256(raw).hexdigest()
        if digest != entry.sha256:
            raise _invalid(path=str(path / file), expected=f"SHA-256 {entry.sha256}", found=digest)


def _parse_tensors(
    path: Path,
    file: str,
    contents: Mapping[str, bytes],
    *,
    shapes: Mapping[str, tuple[int | None, ...]],
) -> dict[str, NDArray[np.float32]]:
    """Finite float32 arrays of exactly these names and shapes (None: any length)."""
    where, raw = str(path / file), contents[file]
    # The format (safetensors 0.4): 8 bytes little-endian length of a JSON header, header, data.
    if not 8 < 8 + int.from_bytes(raw[:8], "little") <= min(len(raw), 8 + _MAX_HEADER_BYTES):
        raise _invalid(
            path=where,
            expected=f"a safetensors header of at most {_MAX_HEADER_BYTES:,} bytes",
            found="another",
        )
    try:
        tensors = parse_safetensors(raw)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: an unknown dtype
        raise _invalid(path=where, expected="safetensors", found=str(error)[:200]) from error
    if tensors.keys() != shapes.keys():
        raise _invalid(
            path=where,
            expected=f"the arrays {', '.join(shapes)}",
            found=f"{', '.join(map(repr, sorted(tensors)))}"[:400],
        )
    for name, shape in shapes.items():
        tensor = tensors[name]
        fits = tensor.ndim == len(shape) and all(
            wanted is None or wanted == actual
            for wanted, actual in zip(shape, tensor.shape, strict=True)
        )
        if not fits or tensor.dtype != np.float32:
            raise _invalid(
                path=f"{where}, {name}",
                expected=f"float32 {shape}",
                found=f"{tensor.dtype} {tensor.shape}",
            )
        if not np.isfinite(tensor).all():
            raise _invalid(
                path=f"{where}, {name}", expected="finite numbers", found="NaN or infinity"
            )
        tensor.flags.writeable = False
    return tensors


def _format_tensors(tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    # Contiguous, or safetensors would write the memory of a transposed view in its own order.
    return format_safetensors({name: np.ascontiguousarray(t) for name, t in tensors.items()})


def _unfit(path: Path, file: str, error: ValidationError) -> BundleInvalidError:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or "its content"
    return _invalid(
        path=f"{path / file}, {key}", expected="a valid setting", found=first["msg"][:200]
    )


def _invalid(*, path: str, expected: str, found: str) -> BundleInvalidError:
    """The error for a damaged bundle; who must act depends on whose bundle it is."""
    facts = {"path": path, "expected": expected, "found": found}
    if Path(path).is_relative_to(_MODELS):
        return BundleInvalidError(**facts, fix="install the package again")
    return BundleInvalidError(**facts)
