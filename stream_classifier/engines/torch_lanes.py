"""The network's state in torch, of all lanes (channels of streams) of an engine, on one device.

Live, every lane that has a new block takes one step, all in one batch; a windowed lane advances
one LSTM state for each window that has begun, as in the reference engine. On a GPU that batch is
a CUDA graph. Recordings come in long pieces, whose windows or steps are known at once and run
without a round through Python for each step.

A batch reads the rows of its lanes and writes them back, so that its cost is that of its lanes,
not of all. One more row, the last, is nobody's: a batch of fixed size is filled up with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream_classifier.bundle import Bundle
from stream_classifier.engines import torch_graphs
from stream_classifier.engines.plan import Plan
from stream_classifier.engines.torch_stem import Stem

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

FEW_STEPS: Final = 4
"""Up to so many, a step at a time costs less than a call of torch's own LSTM, which prepares itself
for each length and divides each step between threads, to wait for all of them."""

_Function = Callable[[Tensor, Tensor], Tensor]

MAX_PIECE_BLOCKS: Final = 2**16
"""Blocks, of all lanes together, that a long piece runs at once: bounds its memory, at some 1.5 kB
each."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What lanes carry, on the host; L lanes, S states, H units.

    Attributes:
        stem: Shape ``(L, width)``, as ``Stem`` lays it out.
        state: Shape ``(L, S, K, H)``: h and c of each layer; windowed, then the sum and the maximum
            of the last layer's h over the window so far.
        past: Continuous, shape ``(L, n_steps, H)``: the last layer's h of a run's step *i* at
            ``i % n_steps``. Windowed ``(L, 0, H)``.
    """

    stem: F32
    state: F32
    past: F32

    def of(self, lanes: slice) -> Rows:
        """Return the rows of some lanes."""
        return Rows(self.stem[lanes], self.state[lanes], self.past[lanes])

    @classmethod
    def together(cls, some: Sequence[Rows]) -> Rows:
        """Put the rows of several streams together."""
        return cls(
            np.concatenate([rows.stem for rows in some]),
            np.concatenate([rows.state for rows in some]),
            np.concatenate([rows.past for rows in some]),
        )


class Lanes:
    """State and steps of all lanes on one device; not thread-safe.

    Memory of a lane, for the shipped networks at hop 8: 13 kB windowed, 8 kB continuous.

    Args:
        bundle: Network and weights, which fit each other.
        plan: Of the bundle's run.
        device: Where.
        n_rows: Places for lanes, at first.

    Attributes:
        is_gpu: Whether steps are CUDA graphs, and the device may be lost.

    Raises:
        RuntimeError: From any method: as torch, wherever the device fails.
    """

    @torch.inference_mode()
    def __init__(self, bundle: Bundle, plan: Plan, *, device: torch.device, n_rows: int) -> None:
        net = bundle.network
        H = net.hidden
        self.device = device
        self.is_gpu = is_gpu(device)
        self._plan = plan
        self._n_layers = net.layers
        self._n_outputs = net.outputs
        self._stride = net.stride_samples
        weights = {
            name: torch.from_numpy(value.copy()).to(device)
            for name, value in bundle.weights.items()
        }
        self._see = Stem(net, weights)
        # Gates i, f, g, o become i, f, o, g: three sigmoids side by side.
        gates = torch.arange(4 * H, device=device).view(4, H)[[0, 1, 3, 2]].flatten()
        self._layers = [
            (
                weights[f"{layer}.weight_ih"][gates].T.contiguous(),  # (C or H, 4H)
                weights[f"{layer}.weight_hh"][gates].T.contiguous(),  # (H, 4H)
                weights[f"{layer}.bias"][gates],
            )
            for layer in net.layer_names
        ]
        self._head = weights["head.weight"].T.reshape(3, H, -1).contiguous()  # (3, H, outputs)
        self._head_bias = weights["head.bias"]
        # Not on a GPU: cuDNN would keep 10 bits of each factor, unless told otherwise.
        self._lstm = None if self.is_gpu or plan.is_windowed else _lstm(bundle)
        self._slots = torch.arange(plan.n_states, device=device)
        K = 2 * net.layers + (2 if plan.is_windowed else 0)
        self._top = 2 * (net.layers - 1)  # where in K the last layer's h is
        self._blank = torch.zeros((K, H), device=device)
        if plan.is_windowed:
            self._blank[-1] = -torch.inf
        self._widths = {
            "stem": (self._see.width,),
            "state": (plan.n_states, K, H),
            "past": (0 if plan.is_windowed else plan.n_steps, H),
        }
        self._place({}, n_rows)

    @property
    def n_rows(self) -> int:
        """Places for lanes."""
        return len(self._stem) - 1

    @torch.inference_mode()
    def grow(self, n_rows: int) -> None:
        """Make room; each lane keeps its row."""
        self._place({"stem": self._stem, "state": self._state, "past": self._past}, n_rows)

    @torch.inference_mode()
    def read(self, rows: I64) -> Rows:
        """Copy rows to the host."""
        index = torch.from_numpy(rows).to(self.device)
        kept = (self._stem, self._state, self._past)
        stem, state, past = (x.index_select(0, index).cpu().numpy() for x in kept)
        return Rows(stem, state, past)

    @torch.inference_mode()
    def write(self, rows: I64, kept: Rows) -> None:
        """Copy rows from the host."""
        index = torch.from_numpy(rows).to(self.device)
        for own, new in zip(
            (self._stem, self._state, self._past), (kept.stem, kept.state, kept.past), strict=True
        ):
            own.index_copy_(0, index, torch.from_numpy(np.ascontiguousarray(new)).to(self.device))

    @torch.inference_mode()
    def live(self, rows: I64, steps: I64, n_blocks: I64, z: F32) -> tuple[F32, NDArray[np.bool_]]:
        """Take each lane's new blocks, step by step, all lanes in one batch.

        Args:
            rows: Shape ``(L,)``: their places.
            steps: Likewise: number of the step that each one's first block is.
            n_blocks: Likewise: blocks that each has, at least 1.
            z: Shape ``(L, max(n_blocks), stride)``: z-scores.

        Returns:
            The head's outputs after each block, shape ``(L, max(n_blocks), outputs)``, and where a
            decision is due on them; zeros elsewhere.
        """
        # The lanes with the most blocks first: those still moving at a block are the first n of it.
        order = np.argsort(-n_blocks, kind="stable")
        rows, steps, n_blocks, z = rows[order], steps[order], n_blocks[order], z[order]
        blocks = np.arange(z.shape[1])
        step = steps + blocks[:, None]  # (n, L)
        begins, places = self._begins(step)
        numbers = np.stack([np.broadcast_to(rows, step.shape), begins, places], axis=1)
        n_moving = np.searchsorted(-n_blocks, -blocks)  # lanes with more blocks than that
        due, slots = self._ends(step + 1)
        due &= blocks[:, None] < n_blocks
        of_block, lane = np.nonzero(due)
        deciding = torch.from_numpy(np.stack([rows[lane], slots[due]])).to(self.device)
        ends = np.cumsum(due.sum(axis=1))
        z_by_block = np.ascontiguousarray(z.swapaxes(0, 1))  # (n, L, stride)
        fed = torch.from_numpy(z_by_block).to(self.device)
        placed = torch.from_numpy(numbers).to(self.device)
        decided = []
        with _full_precision(is_gpu=self.is_gpu):
            for block, (n, start, end) in enumerate(zip(n_moving, [0, *ends], ends, strict=False)):
                self._step(placed[block, :, :n], fed[block, :n])
                if end > start:
                    no_samples = fed[block, : end - start, :0]
                    decided.append(self._decide(deciding[:, start:end], no_samples).clone())
        outputs = np.zeros((len(rows), len(blocks), self._n_outputs), np.float32)
        is_due = np.zeros(outputs.shape[:2], np.bool_)
        if decided:
            outputs[order[lane], of_block] = torch.cat(decided).cpu().numpy()
            is_due[order[lane], of_block] = True
        return outputs, is_due

    @torch.inference_mode()
    def bulk(self, rows: I64, steps: I64, z: F32, *, phase: int, max_windows: int) -> F32:
        """Take a long piece of lanes that are equally far: decisions on them fall due together.

        Args:
            rows: Shape ``(L,)``: their places.
            steps: Likewise: number of the step that each one's first block is. They begin the same
                windows at the same blocks: are equal, or past the first window and as far in a hop.
            z: Shape ``(L, n_blocks, stride)``: z-scores; the first ``phase`` are not looked at.
            phase: Samples of the first block that the lanes have already.
            max_windows: Decided in one batch.

        Returns:
            The head's outputs, shape ``(L, n_decisions, outputs)``.
        """
        n_at_once = max(self._plan.n_steps, MAX_PIECE_BLOCKS // len(rows))
        decided = []
        index = torch.from_numpy(rows).to(self.device)
        with _full_precision(is_gpu=self.is_gpu):
            for block in range(0, z.shape[1], n_at_once):
                piece = z[:, block : block + n_at_once].reshape(len(rows), -1)
                piece = np.ascontiguousarray(piece[:, phase:])
                stem = self._stem.index_select(0, index)
                x, stem = self._see(stem, torch.from_numpy(piece).to(self.device), phase)
                self._stem.index_copy_(0, index, stem)
                run = self._windows if self._plan.is_windowed else self._run_on
                decided += run(index, steps + block, x, max_windows)
                phase = 0
        if not decided:
            return np.empty((len(rows), 0, self._n_outputs), np.float32)
        return torch.cat(decided, dim=1).cpu().numpy()

    def _place(self, kept: dict[str, Tensor], n_rows: int) -> None:
        """Allocate, copy what was there, and make the functions of this memory."""
        new = {}
        for name, width in self._widths.items():
            new[name] = torch.zeros((n_rows + 1, *width), device=self.device)
            if name in kept:
                new[name][: len(kept[name]) - 1] = kept[name][:-1]
        self._stem, self._state, self._past = new["stem"], new["state"], new["past"]
        self._step: _Function = self._step_at_once
        self._decide: _Function = self._decide_at_once
        if self.is_gpu:
            self._use_graphs()

    def _use_graphs(self) -> None:
        pool, nobody = torch_graphs.new_pool(), self.n_rows
        self._step = torch_graphs.Graphs(
            self._advance,
            idle=(nobody, -1, 0),
            n_samples=self._stride,
            n_results=0,
            device=self.device,
            pool=pool,
        )
        self._decide = torch_graphs.Graphs(
            self._read_out,
            idle=(nobody, 0),
            n_samples=0,
            n_results=self._n_outputs,
            device=self.device,
            pool=pool,
        )

    def _step_at_once(self, numbers: Tensor, z: Tensor) -> Tensor:
        self._advance(numbers, z, z)
        return z

    def _decide_at_once(self, numbers: Tensor, none: Tensor) -> Tensor:
        result = torch.empty((numbers.shape[1], self._n_outputs))
        self._read_out(numbers, none, result)
        return result

    def _advance(self, numbers: Tensor, z: Tensor, _: Tensor) -> None:
        """Take one step.

        Args:
            numbers: Shape ``(3, B)``: row, the slot that begins or -1, place in ``past``.
            z: Shape ``(B, stride)``.
        """
        rows, begins, place = numbers.unbind()
        x, stem = self._see(self._stem.index_select(0, rows), z, 0)  # (B, 1, C)
        self._stem.index_copy_(0, rows, stem)
        is_new = begins[:, None] == self._slots  # (B, S)
        state = self._state.index_select(0, rows)
        state = torch.where(is_new[:, :, None, None], self._blank, state)  # (B, S, K, H)
        w_in, _, bias = self._layers[0]
        self._cells(torch.addmm(bias, x[:, 0], w_in)[:, None], state)
        self._state.index_copy_(0, rows, state)
        if not self._plan.is_windowed:
            self._past[rows, place] = state[:, 0, self._top]

    def _read_out(self, numbers: Tensor, _: Tensor, result: Tensor) -> None:
        """Fill in the head's outputs, ``(B, outputs)``, for rows and slots ``(2, B)``."""
        rows, slot = numbers.unbind()
        state = self._state[rows, slot]  # (B, K, H)
        if self._plan.is_windowed:
            result.copy_(self._finished(state))
        else:
            past = self._past.index_select(0, rows)  # (B, n_steps, H)
            last = state[:, self._top]
            result.copy_(self._outputs(last, past.mean(dim=1), past.amax(dim=1)))

    def _finished(self, state: Tensor) -> Tensor:
        """Return the head's outputs, ``(B, outputs)``, for finished windows ``(B, K, H)``."""
        return self._outputs(state[:, self._top], state[:, -2] / self._plan.n_steps, state[:, -1])

    def _outputs(self, last: Tensor, mean: Tensor, highest: Tensor) -> Tensor:
        """Return the head's outputs, ``(B, outputs)``, for readouts of ``(B, H)`` each."""
        # Part by part, which rounds less than one long sum.
        return (
            torch.bmm(torch.stack([last, mean, highest]), self._head).sum(dim=0) + self._head_bias
        )

    def _cells(self, inputs: Tensor, state: Tensor) -> None:
        """Advance states ``(B, S, K, H)`` in place, by inputs ``(B, S or 1, 4H)``."""
        n_lanes, n_states, _, H = state.shape
        for layer, (_, w_rec, _) in enumerate(self._layers):
            h, c = state[:, :, 2 * layer], state[:, :, 2 * layer + 1]  # (B, S, H)
            gates = (h.reshape(-1, H) @ w_rec).view(n_lanes, n_states, 4 * H).add_(inputs)
            i, f, o = gates[:, :, : 3 * H].sigmoid().chunk(3, dim=2)
            g = gates[:, :, 3 * H :].tanh()
            new_c = torch.addcmul(f * c, i, g)
            new_h = o * new_c.tanh()
            h.copy_(new_h)
            c.copy_(new_c)
            if layer + 1 < self._n_layers:
                w_in, _, bias = self._layers[layer + 1]
                inputs = torch.addmm(bias, new_h.reshape(-1, H), w_in)
                inputs = inputs.view(n_lanes, n_states, 4 * H)
        if self._plan.is_windowed:
            state[:, :, -2] += new_h
            highest = state[:, :, -1]
            torch.maximum(highest, new_h, out=highest)

    def _windows(self, rows: Tensor, steps: I64, x: Tensor, max_windows: int) -> list[Tensor]:
        """Take the steps of inputs ``(L, T, C)`` window by window, many windows side by side."""
        plan, n_lanes, T = self._plan, len(x), x.shape[1]
        first = int(steps[0])  # of the lanes' steps; the same windows begin for all
        oldest = max(0, -((plan.n_steps - 1 - first) // plan.steps_per_hop))
        begun = np.arange(oldest, (first + T - 1) // plan.steps_per_hop + 1)  # numbers of windows
        w_in, _, bias = self._layers[0]
        inputs = torch.addmm(bias, x.flatten(0, 1), w_in).view(n_lanes, T, -1)
        n_at_once = max(1, max_windows // n_lanes)
        decided = []
        for some in np.split(begun, range(n_at_once, len(begun), n_at_once)):
            begins = some * plan.steps_per_hop - first
            starts, stops = np.maximum(begins, 0), np.minimum(begins + plan.n_steps, T)
            order = np.argsort(starts - stops, kind="stable")  # longest first
            n_steps = (stops - starts)[order]
            slots = some[order] + ((steps - first) // plan.steps_per_hop)[:, None]  # (L, W)
            place = rows[:, None], torch.from_numpy(slots % plan.n_states).to(self.device)
            went_on = torch.from_numpy(begins[order] < 0).to(self.device)
            state = torch.where(went_on[:, None, None], self._state[place], self._blank)
            at = torch.from_numpy(starts[order]).to(self.device)
            for step in range(n_steps[0] if len(some) else 0):
                n_moving = int(np.searchsorted(-n_steps, -step))  # windows longer than that
                moving = at[:n_moving] + step
                self._cells(inputs.index_select(1, moving), state[:, :n_moving])
            is_done = begins + plan.n_steps <= T
            sorted_in = np.argsort(order)  # where each window of ``some`` went
            done = torch.from_numpy(sorted_in[is_done]).to(self.device)
            if len(done):
                ended = state.index_select(1, done)  # (L, n, K, H)
                decided.append(self._finished(ended.flatten(0, 1)).view(n_lanes, len(done), -1))
            going_on = torch.from_numpy(sorted_in[~is_done]).to(self.device)
            own_rows, own_slots = place
            self._state[own_rows, own_slots[:, going_on]] = state[:, going_on]
        return decided

    def _run_on(self, rows: Tensor, steps: I64, x: Tensor, max_windows: int) -> list[Tensor]:
        """Take the steps of inputs ``(L, T, C)`` one after the other, from the state that is."""
        plan, n_lanes = self._plan, len(x)
        n_warm = min(max(0, -int(steps[0])), x.shape[1])
        steps, x = steps + n_warm, x[:, n_warm:]
        first, T = int(steps[0]), x.shape[1]
        if not T:
            return []
        state = self._state[rows]  # (L, 1, K, H)
        if first == 0:
            state = torch.zeros_like(state)
        h = self._through(x, state)  # (L, T, H)
        self._state[rows] = state
        places = torch.from_numpy((steps[:, None] + np.arange(plan.n_steps)) % plan.n_steps)
        past = self._past[rows[:, None], places.to(self.device)]  # (L, n_steps, H), oldest first
        n_kept = min(T, plan.n_steps)
        places = torch.from_numpy((steps[:, None] + np.arange(T - n_kept, T)) % plan.n_steps)
        self._past[rows[:, None], places.to(self.device)] = h[:, T - n_kept :]
        is_due, _ = self._ends(first + 1 + np.arange(T))
        due = torch.from_numpy(np.flatnonzero(is_due) + 1).to(self.device)  # first of its states
        seen = torch.cat([past, h], dim=1)
        window = torch.arange(plan.n_steps, device=self.device)
        decided = []
        for begins in torch.split(due, max(1, max_windows // n_lanes)) if len(due) else ():
            states = seen[:, begins[:, None] + window]  # (L, n, n_steps, H)
            states = states.flatten(0, 1)
            outputs = self._outputs(states[:, -1], states.mean(dim=1), states.amax(dim=1))
            decided.append(outputs.view(n_lanes, len(begins), -1))
        return decided

    def _through(self, x: Tensor, state: Tensor) -> Tensor:
        """Run inputs ``(L, T, C)`` through; state ``(L, 1, K, H)`` in place, h ``(L, T, H)``."""
        if self._lstm is not None and x.shape[1] > FEW_STEPS:
            h0, c0 = (state[:, 0, kind::2].transpose(0, 1).contiguous() for kind in (0, 1))
            h, (h_end, c_end) = self._lstm(x, (h0, c0))
            state[:, 0, 0::2], state[:, 0, 1::2] = h_end.transpose(0, 1), c_end.transpose(0, 1)
            return torch.as_tensor(h)
        w_in, _, bias = self._layers[0]
        inputs = torch.addmm(bias, x.flatten(0, 1), w_in).view(len(x), x.shape[1], -1)
        h = x.new_empty((len(x), x.shape[1], state.shape[3]))
        for step in range(x.shape[1]):
            self._cells(inputs[:, step, None], state)
            h[:, step] = state[:, 0, self._top]
        return h

    def _begins(self, steps: I64) -> tuple[I64, I64]:
        """Return the slot whose state starts from zero with each step, or -1; and the place."""
        place = steps % self._plan.n_steps
        if not self._plan.is_windowed:
            return np.where(steps == 0, 0, -1), place
        hops, within = np.divmod(steps, self._plan.steps_per_hop)
        return np.where(within == 0, hops % self._plan.n_states, -1), place

    def _ends(self, n_steps: I64) -> tuple[NDArray[np.bool_], I64]:
        """Return whether a decision is due after so many steps, and on which slot."""
        begun = n_steps - self._plan.n_steps
        hops, within = np.divmod(begun, self._plan.steps_per_hop)
        return (begun >= 0) & (within == 0), hops % self._plan.n_states


def is_gpu(device: torch.device) -> bool:
    """Whether steps are CUDA graphs there, and it may be lost."""
    return device.type != "cpu"


@contextmanager
def _full_precision(*, is_gpu: bool) -> Iterator[None]:
    """Keep products on a GPU in float32, whatever the rest of the program chose.

    TF32 keeps 10 bits of each factor; without it a GPU rounds as a CPU does.
    """
    if not is_gpu:
        yield
        return
    matmul = torch.backends.cuda.matmul
    # torch has two ways to say so, and fails where both are used: the one that is in use.
    option: str
    exact: Any
    try:
        option, exact, was = "allow_tf32", False, matmul.allow_tf32
    except RuntimeError:
        option, exact, was = "fp32_precision", "ieee", matmul.fp32_precision
    if was == exact:
        yield
        return
    setattr(matmul, option, exact)
    try:
        yield
    finally:
        setattr(matmul, option, was)


def _lstm(bundle: Bundle) -> torch.nn.LSTM:
    net, weights = bundle.network, bundle.weights
    n_inputs = weights["lstm.weight_ih"].shape[1]
    lstm = torch.nn.LSTM(n_inputs, net.hidden, num_layers=net.layers, batch_first=True)
    kept = {}
    for n, layer in enumerate(net.layer_names):
        for kind in ("ih", "hh"):
            kept[f"weight_{kind}_l{n}"] = torch.from_numpy(weights[f"{layer}.weight_{kind}"].copy())
        kept[f"bias_ih_l{n}"] = torch.from_numpy(weights[f"{layer}.bias"].copy())
        kept[f"bias_hh_l{n}"] = torch.zeros(4 * net.hidden)
    lstm.load_state_dict(kept)
    return lstm.eval()
