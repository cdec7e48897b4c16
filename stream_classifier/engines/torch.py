"""The network in torch: thousands of streams in one batch, on a GPU or a CPU.

``torch_lanes`` has the state and takes the steps, ``torch_stem`` is the stem, ``torch_graphs`` the
CUDA graphs. Here are the streams: whose samples go together, what they are owed, and what is done
when the GPU is lost (``torch_journal``) or a stream moves (``torch_state``).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from stream_classifier.bundle import Bundle
from stream_classifier.engines.plan import Plan, check_samples
from stream_classifier.engines.reference import to_classes
from stream_classifier.engines.snapshot import pack, unpack
from stream_classifier.errors import EngineError, MissingExtraError

try:
    import torch
except ModuleNotFoundError as error:  # pragma: no cover - the tests without torch check the text
    raise MissingExtraError(feature="the torch engine", extra="torch", module="torch") from error

from stream_classifier.engines.torch_journal import Journal
from stream_classifier.engines.torch_lanes import Lanes, Rows
from stream_classifier.engines.torch_state import Converter
from stream_classifier.engines.torch_stem import Blocks, Stem

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
T = TypeVar("T")
LOG = logging.getLogger(__name__)

_Key = tuple[int, int, int, int]

MAX_BATCH_WINDOWS = 4096
"""Windows of a long piece that are decided at once, so that memory stays bounded."""

LONG_BLOCKS: Final = 16
"""From so many blocks on, fed at once, a piece is run as a whole and not step by step."""

FIRST_ROWS: Final = 16


class TorchEngine:
    """Both modes in torch; for GPUs, for long recordings, and for checking the other engines.

    Within 2e-6 of float64 on the shipped networks on a CPU, and within 1e-6 of itself however
    samples are cut and batched; not bit-equal.

    If the GPU is lost, a warning says so, and all streams go on on the CPU as if nothing had
    happened: the host keeps what their states are made of. Where the GPU's memory does not
    suffice, that is an error, and nothing has changed.

    Not thread-safe. Memory grows with the channels that are open at once and is not given back.

    Args:
        bundle: Network, weights and mode.
        hop_samples: As for the reference engine.
        device: ``cpu`` or ``cuda``.

    Raises:
        EngineError: If the hop or the weights do not fit, or there is no CUDA device that works.
    """

    def __init__(self, bundle: Bundle, *, hop_samples: int, device: str = "cpu") -> None:
        plan = Plan.of(bundle, hop_samples=hop_samples)
        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError(
                "device cuda: torch finds no CUDA device. Try: --device cpu, or install a CUDA "
                "build of torch"
            )
        self.hop_samples = hop_samples
        self.fault: str | None = None
        self._bundle = bundle
        self._plan = plan
        self._n_classes = len(bundle.class_names)
        self._blocks = Blocks.of(bundle.network, plan)
        weights = {name: torch.from_numpy(value.copy()) for name, value in bundle.weights.items()}
        stem = Stem(bundle.network, weights)
        self._converter = Converter(bundle, plan, self._blocks, stem)
        try:
            where = torch.device(device)
            self.name = _name(where)
            self._lanes = Lanes(bundle, plan, device=where, n_rows=FIRST_ROWS)
        except RuntimeError as error:
            raise EngineError(
                f"device {device}: {_first_line(error)}. Try: --device cpu"
            ) from error
        self._journal = (
            Journal(plan, self._blocks, n_rows=FIRST_ROWS) if self._lanes.is_gpu else None
        )
        self._lost: Lanes | None = None
        self._free = list(range(FIRST_ROWS))[::-1]  # the last is taken next
        self._streams: dict[int, _Stream] = {}
        self._overdue: set[_Stream] = set()  # whose state should be copied to the host
        self._next_handle = 0

    def open(self, n_channels: int) -> int:
        """Add a stream and return its handle.

        Raises:
            EngineError: If the GPU's memory does not suffice.
        """
        return self._add(self._fresh(self._places(n_channels)))

    def reset(self, stream: int) -> None:
        """Forget a stream's past."""
        old = self._streams[stream]
        self._overdue.discard(old)
        self._streams[stream] = self._fresh(old.rows)  # what its rows hold goes unread

    def close(self, stream: int) -> None:
        """Remove a stream."""
        old = self._streams.pop(stream)
        self._overdue.discard(old)
        self._free += old.rows.tolist()

    def feed(self, samples: dict[int, F32]) -> dict[int, F32]:
        """Add z-scores to streams and return the windows they finish (``signals.Engine``).

        Raises:
            EngineError: If the GPU's memory does not suffice; nothing has changed then.
        """
        self._check(samples)
        self.catch_up()
        batches, pending = self._cut(samples)
        decided, copies = self._try(lambda: self._run(batches), self._all_of(batches))
        # What is below cannot fail; what is above changed nothing on the host.
        for batch in batches:
            if self._journal is not None:
                self._journal.write(batch.rows, batch.blocks, batch.z)
            n_samples = batch.z.shape[1] * self._blocks.stride_samples - batch.phase
            for stream in batch.streams:
                stream.n_done += n_samples
        for stream, left_over in pending:
            stream.pending = left_over
        if self._journal is not None:
            self._note(self._journal, self._all_of(batches), copies)
        none = np.empty((0, 1, self._n_classes), np.float32)
        return {
            handle: decided[self._streams[handle]]
            if self._streams[handle] in decided
            else np.repeat(none, self._streams[handle].n_lanes, axis=1)
            for handle in samples
        }

    def catch_up(self) -> None:
        """Copy to the host the states of streams that have gone on for long since."""
        if not self._overdue:
            return
        streams = list(self._overdue)
        rows = np.concatenate([stream.rows for stream in streams])
        copies = self._try(lambda: self._lanes.read(rows), [])
        if self._journal is None:
            return  # the GPU is lost: no need any more
        for stream, copy in zip(streams, _shares(streams, copies), strict=True):
            stream.copy, stream.n_copied = copy, stream.n_done
        self._overdue.clear()

    def snapshot(self, stream: int) -> bytes:
        """Return all that a stream carries."""
        own = self._streams[stream]
        rows = self._try(lambda: self._lanes.read(own.rows), [])
        state = self._converter.state(rows, n_done=own.n_done, pending=own.pending)
        return pack(state, self._bundle, hop_samples=self.hop_samples)

    def restore(self, snapshot: bytes) -> int:
        """Add a stream that goes on from a snapshot, and return its handle."""
        state = unpack(snapshot, self._bundle, self._plan, hop_samples=self.hop_samples)
        kept, n_done = self._converter.rows(state)
        rows = self._places(len(state.previous))
        try:
            self._try(lambda: self._lanes.write(rows, kept), [])
        except EngineError:
            self._free += rows.tolist()
            raise
        none = np.empty((0, len(rows)), np.float32)
        return self._add(_Stream(rows, none, n_done, copy=kept, n_copied=n_done))

    def _add(self, stream: _Stream) -> int:
        handle = self._next_handle
        self._next_handle += 1
        self._streams[handle] = stream
        return handle

    def _fresh(self, rows: I64) -> _Stream:
        return _Stream(rows, np.zeros((self._blocks.pad_samples, len(rows)), np.float32))

    def _places(self, n: int) -> I64:
        """Take rows for so many lanes, of new memory if need be."""
        n_rows = self._lanes.n_rows
        while len(self._free) + n_rows - self._lanes.n_rows < n:
            n_rows *= 2
        if n_rows > self._lanes.n_rows:
            n_before = self._lanes.n_rows
            self._try(lambda: self._lanes.grow(n_rows), [])
            if self._journal is not None:
                self._journal.grow(n_rows)
            self._free = [*range(n_rows - 1, n_before - 1, -1), *self._free]
        return np.array([self._free.pop() for _ in range(n)], np.int64)

    def _check(self, samples: dict[int, F32]) -> None:
        """Refuse what cannot be taken (``check_samples``), of thousands of streams at a glance."""
        for handle, new in samples.items():
            if new.ndim != 2 or new.shape[1] != self._streams[handle].n_lanes:
                break
        else:
            flat = [new.ravel() for new in samples.values()]
            if not flat or np.isfinite(np.concatenate(flat)).all():
                return
        check_samples(samples, lambda handle: self._streams[handle].n_lanes)

    def _cut(self, samples: dict[int, F32]) -> tuple[list[_Batch], list[tuple[_Stream, F32]]]:
        """Put together the blocks that can go together, and what is left over of each stream."""
        stride, n_steps, per_hop = (
            self._blocks.stride_samples,
            self._plan.n_steps,
            self._plan.steps_per_hop,
        )
        groups: dict[_Key, list[tuple[_Stream, F32]]] = defaultdict(list)
        pending = []
        for handle, given in samples.items():
            stream = self._streams[handle]
            new = given.astype(np.float32, copy=False)
            if len(stream.pending):
                new = np.concatenate([stream.pending, new])
            phase = stream.n_done % stride
            n_blocks = (phase + len(new)) // stride
            if n_blocks:
                # What is alike may be taken as a whole: it begins the same windows at one time.
                step = self._blocks.step(stream.n_done)
                key = (phase, n_blocks, min(step, n_steps), step % per_hop)
                taken = n_blocks * stride - phase
                groups[key].append((stream, new[:taken]))
                new = new[taken:]
            if len(new) or len(stream.pending):
                pending.append((stream, new.copy()))
        batches = []
        for (phase, n_blocks, *_), members in groups.items():
            streams = [stream for stream, _ in members]
            z = np.concatenate([new for _, new in members], axis=1)  # (n_samples, L)
            z = np.concatenate([np.zeros((phase, z.shape[1]), np.float32), z]) if phase else z
            z = np.ascontiguousarray(z.T).reshape(-1, n_blocks, stride)
            first = [stream.n_done // stride for stream in streams]
            batches.append(_Batch.of(streams, first, z, phase))
        return batches, pending

    def _run(self, batches: Sequence[_Batch]) -> tuple[dict[_Stream, F32], dict[_Stream, Rows]]:
        """Take the blocks; return the decisions, and the states that must go to the host now."""
        n_warm = self._blocks.n_warm
        decided: dict[_Stream, F32] = {}
        short = [batch for batch in batches if batch.is_short]
        if len(short) == 1 and not self._lanes.is_gpu:
            short = []  # nothing to put together: as a whole it costs less, but for a GPU's graphs
        if short:
            n_blocks = np.repeat(
                [batch.z.shape[1] for batch in short], [len(batch.rows) for batch in short]
            )
            z = np.zeros((len(n_blocks), n_blocks.max(), self._blocks.stride_samples), np.float32)
            ends = np.cumsum([len(batch.rows) for batch in short])
            for batch, end in zip(short, ends, strict=True):
                z[end - len(batch.rows) : end, : batch.z.shape[1]] = batch.z
            rows = np.concatenate([batch.rows for batch in short])
            blocks = np.concatenate([batch.blocks for batch in short])
            outputs, due = self._lanes.live(rows, blocks - n_warm, n_blocks, z)
            self._share(self._all_of(short), outputs, due, decided)
        for batch in batches:
            if batch not in short:
                outputs = self._lanes.bulk(
                    batch.rows,
                    batch.blocks - n_warm,
                    batch.z,
                    phase=batch.phase,
                    max_windows=MAX_BATCH_WINDOWS,
                )
                self._share(batch.streams, outputs, None, decided)
        return decided, self._copies(batches)

    def _share(
        self,
        streams: Sequence[_Stream],
        outputs: F32,
        due: NDArray[np.bool_] | None,
        decided: dict[_Stream, F32],
    ) -> None:
        """Hand out decisions: the head's outputs ``(L, n, outputs)``, where they are due."""
        if due is not None and (due == due[0]).all():  # as far as each other, as they mostly are
            outputs, due = outputs[:, due[0]], None
        p = to_classes(outputs, self._bundle.network.output_classes, self._n_classes)
        start = 0
        for stream in streams:
            own = p[start : start + stream.n_lanes]  # (L, n, classes)
            if due is not None:
                own = own[:, due[start]]
            decided[stream] = own.swapaxes(0, 1)
            start += stream.n_lanes

    def _copies(self, batches: Iterable[_Batch]) -> dict[_Stream, Rows]:
        """Copy the states of streams that these blocks are too many for, in the journal."""
        if self._journal is None or self._plan.is_windowed:
            return {}
        streams = [
            stream
            for batch in batches
            for stream in batch.streams
            if self._since(stream) + batch.z.shape[1] > self._journal.n_kept
        ]
        if not streams:
            return {}
        rows = self._lanes.read(np.concatenate([stream.rows for stream in streams]))
        return dict(zip(streams, _shares(streams, rows), strict=True))

    def _since(self, stream: _Stream) -> int:
        """Return how many blocks the journal has of a stream."""
        stride = self._blocks.stride_samples
        return stream.n_done // stride - stream.n_copied // stride

    def _note(
        self, journal: Journal, streams: Iterable[_Stream], copies: dict[_Stream, Rows]
    ) -> None:
        """Forget what the journal makes superfluous, and see whose state is to be copied."""
        stride, n_kept = self._blocks.stride_samples, journal.n_kept
        for stream, copy in copies.items():
            stream.copy, stream.n_copied = copy, stream.n_done
            self._overdue.discard(stream)
        if self._plan.is_windowed:
            for stream in streams:
                if stream.n_done // stride - stream.n_copied // stride > n_kept:
                    stream.copy = None
                    stream.n_copied = stream.n_done - n_kept * stride
            return
        for stream in streams:  # in good time, and not all of them in one call
            since = stream.n_done // stride - stream.n_copied // stride
            if since > n_kept * stream.patience:
                self._overdue.add(stream)

    def _try(self, do: Callable[[], T], streams: Iterable[_Stream]) -> T:
        """Do what needs the device; without it, do it on the CPU.

        Args:
            do: Changes nothing but the state of the lanes.
            streams: Whose.

        Raises:
            EngineError: If memory does not suffice; the streams' states are as before.
        """
        try:
            return do()
        except RuntimeError as error:
            if self._journal is None or not (_is_lost(error) or _is_out_of_memory(error)):
                raise
            if _is_out_of_memory(error):
                self._mend(self._journal, list(streams))
                raise EngineError(
                    f"{self.name}: memory does not suffice ({_first_line(error)}). Nothing has "
                    "changed. Try: fewer streams, or --device cpu"
                ) from error
            self._go_on_on_the_cpu(self._journal, error)
        return do()

    def _mend(self, journal: Journal, streams: Sequence[_Stream]) -> None:
        """Put back the states that streams had before a call that failed half way."""
        if not streams:
            return
        rows = np.concatenate([stream.rows for stream in streams])
        spare = self._on_the_cpu()
        self._redo(journal, streams, spare)
        try:
            torch.cuda.empty_cache()
            self._lanes.write(rows, spare.read(rows))
        except RuntimeError as error:
            self._go_on_on_the_cpu(journal, error)

    def _go_on_on_the_cpu(self, journal: Journal, error: RuntimeError) -> None:
        lanes = self._on_the_cpu()
        self._redo(journal, list(self._streams.values()), lanes)
        LOG.warning(
            "%s: the GPU is lost (%s); %d streams go on on the CPU, no decision is lost",
            self.name,
            _first_line(error),
            len(self._streams),
        )
        # Never freed: its destructors would speak to a device that is not there.
        self._lost, self._lanes, self._journal = self._lanes, lanes, None
        self.name = f"{_name(lanes.device)}, the GPU was lost"
        self.fault = f"the GPU is lost ({_first_line(error)}); {self.name} goes on"
        self._overdue.clear()
        for stream in self._streams.values():
            stream.copy = None

    def _on_the_cpu(self) -> Lanes:
        device = torch.device("cpu")
        return Lanes(self._bundle, self._plan, device=device, n_rows=self._lanes.n_rows)

    def _redo(self, journal: Journal, streams: Sequence[_Stream], lanes: Lanes) -> None:
        """Make streams' states anew, from the last copy and the journal."""
        copied = [(stream.rows, stream.copy) for stream in streams if stream.copy is not None]
        if copied:
            rows = np.concatenate([rows for rows, _ in copied])
            lanes.write(rows, Rows.together([copy for _, copy in copied]))
        stride, n_steps, n_warm = (
            self._blocks.stride_samples,
            self._plan.n_steps,
            self._blocks.n_warm,
        )
        alike: dict[_Key, list[_Stream]] = defaultdict(list)
        for stream in streams:
            if n_blocks := self._since(stream):
                step = self._blocks.step(stream.n_copied)
                within = step % self._plan.steps_per_hop
                key = (stream.n_copied % stride, n_blocks, min(step, n_steps), within)
                alike[key].append(stream)
        for (phase, n_blocks, *_), some in alike.items():
            first = [stream.n_copied // stride for stream in some]
            batch = _Batch.of(some, first, np.empty((0, 0, 0), np.float32), phase)
            lanes.bulk(
                batch.rows,
                batch.blocks - n_warm,
                journal.read(batch.rows, batch.blocks, n_blocks),
                phase=phase,
                max_windows=MAX_BATCH_WINDOWS,
            )

    @staticmethod
    def _all_of(batches: Iterable[_Batch]) -> list[_Stream]:
        return [stream for batch in batches for stream in batch.streams]


@dataclass(slots=True, eq=False)
class _Stream:
    """One stream; L channels.

    Attributes:
        rows: Shape ``(L,)``: places of its lanes.
        pending: Shape ``(n, L)``: samples that the lanes do not have yet, for want of a block.
        n_done: Samples that they have, with the zeros ahead of the run.
        copy: What they were when they had ``n_copied``; None: nothing that counts.
        n_copied: See there; the journal has the blocks since.
        patience: Share of the journal that they may fill until a copy is made.
    """

    rows: I64
    pending: F32
    n_done: int = 0
    copy: Rows | None = None
    n_copied: int = 0
    n_lanes: int = field(init=False)
    patience: float = field(init=False)

    def __post_init__(self) -> None:
        self.n_lanes = len(self.rows)
        self.patience = 0.5 + int(self.rows[:1].sum()) % 64 / 256


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Blocks of streams that go together; L lanes.

    Attributes:
        streams: Whose, in the order of the lanes.
        rows: Shape ``(L,)``: places of the lanes.
        blocks: Likewise: number of each one's first block.
        z: Shape ``(L, n_blocks, stride)``: z-scores; the first ``phase`` are not there.
        phase: Samples of the first block that the lanes have already.
    """

    streams: Sequence[_Stream]
    rows: I64
    blocks: I64
    z: F32
    phase: int

    @classmethod
    def of(cls, streams: Sequence[_Stream], first: Sequence[int], z: F32, phase: int) -> _Batch:
        """Put streams together, by the number of each one's first block."""
        rows = np.concatenate([stream.rows for stream in streams])
        blocks = np.repeat(np.array(first, np.int64), [stream.n_lanes for stream in streams])
        return cls(streams, rows, blocks, z, phase)

    @property
    def is_short(self) -> bool:
        """Whether they are taken step by step."""
        return not self.phase and self.z.shape[1] < LONG_BLOCKS


def _shares(streams: Iterable[_Stream], rows: Rows) -> list[Rows]:
    """Divide the rows of several streams' lanes."""
    shares, start = [], 0
    for stream in streams:
        shares.append(rows.of(slice(start, start + stream.n_lanes)))
        start += stream.n_lanes
    return shares


def _name(device: torch.device) -> str:
    where = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return f"torch ({where})"


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether that is what an error is, or came of: in a capture other errors follow it."""
    if error is None:
        return False
    is_one = isinstance(error, torch.OutOfMemoryError) or any(
        mark in str(error) for mark in ("out of memory", "ALLOC_FAILED")
    )
    return is_one or _is_out_of_memory(error.__context__)


def _is_lost(error: RuntimeError) -> bool:
    """Whether an error is the device's: of torch itself, or of a library that it calls."""
    kind = getattr(torch, "AcceleratorError", None)  # since torch 2.8
    if kind is not None and isinstance(error, kind):
        return True
    return any(mark in str(error) for mark in ("CUDA", "CUBLAS", "cuBLAS", "CUDNN", "cuDNN"))


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0]
