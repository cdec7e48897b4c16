"""Lanes of the torch engine as a portable stream state, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from stream_classifier.bundle import Bundle
from stream_classifier.engines.plan import Plan
from stream_classifier.engines.snapshot import F32, StreamState
from stream_classifier.engines.torch_lanes import Rows
from stream_classifier.engines.torch_stem import Blocks, Stem
from stream_classifier.errors import EngineError


@dataclass(frozen=True, slots=True)
class Converter:
    """Puts streams of one bundle into the form of ``engines.snapshot``, and back.

    A snapshot may be of a moment within a block, when some convolutions have seen its first
    samples. Lanes stop at the block's start and keep those samples; lanes that were restored
    stand where the snapshot does, until their next block ends.
    """

    bundle: Bundle
    plan: Plan
    blocks: Blocks
    stem: Stem

    @torch.inference_mode()
    def state(self, rows: Rows, *, n_done: int, pending: F32) -> StreamState:
        """Return what a stream carries.

        Args:
            rows: Of its lanes.
            n_done: Samples that they have, with the zeros ahead of the run.
            pending: Shape ``(n, L)``: samples since.
        """
        plan, net, blocks = self.plan, self.bundle.network, self.blocks
        phase = n_done % blocks.stride_samples
        z = torch.from_numpy(np.ascontiguousarray(pending.T))
        stem = self.stem(torch.from_numpy(rows.stem), z, phase)[1].numpy()  # (L, width)
        n_seen = n_done + len(pending) - blocks.pad_samples
        n_inputs = max(0, n_seen - plan.lead_samples)  # of the run, to the first convolution
        waiting = []
        at = 1
        n_waiting = self.stem.waiting(phase + len(pending))
        for (C, conv, _, _), wanted in zip(self.stem.layers, n_waiting, strict=True):
            stop = at + (conv.kernel - 1) * C
            n = min(wanted, n_inputs)
            queue = stem[:, stop - n * C : stop].reshape(len(stem), n, C)
            waiting.append(np.ascontiguousarray(queue.swapaxes(0, 1)))  # (n, L, C)
            n_inputs = max(0, (n_inputs - conv.kernel) // conv.stride + 1)
            at = stop
        n_steps = max(0, blocks.step(n_done))
        state = self._begun(rows.state, n_steps)
        of_run = np.arange(max(0, n_steps - plan.n_steps), n_steps)
        past = rows.past[:, of_run % plan.n_steps] if not plan.is_windowed else rows.past
        n_layers = net.layers
        return StreamState(
            n_skipped=min(max(0, n_seen), plan.lead_samples),
            n_steps=n_steps,
            previous=stem[:, 0] if n_seen > 0 else np.zeros(len(stem), np.float32),
            waiting=waiting,
            h=[state[:, :, 2 * layer] for layer in range(n_layers)],
            c=[state[:, :, 2 * layer + 1] for layer in range(n_layers)],
            h_sum=state[:, :, -2] if plan.is_windowed else state[:0, :, 0],
            h_max=state[:, :, -1] if plan.is_windowed else state[:0, :, 0],
            past=past.swapaxes(0, 1),  # (n, L, H)
        )

    def rows(self, state: StreamState) -> tuple[Rows, int]:
        """Return a stream's lanes, and the samples that they have, with the zeros ahead of the run.

        Raises:
            EngineError: If its parts contradict each other.
        """
        plan, blocks = self.plan, self.blocks
        n_lanes = len(state.previous)
        n_inputs = state.n_steps  # each step takes one of the last convolution's outputs
        for (_, conv, _, _), waiting in zip(
            reversed(self.stem.layers), reversed(state.waiting), strict=True
        ):
            n_inputs = len(waiting) + n_inputs * conv.stride
        n_done = blocks.pad_samples + state.n_skipped + n_inputs
        none = np.empty((0, n_lanes), np.float32)
        expected = self.state(self._blank(n_lanes), n_done=n_done, pending=none)
        n_waiting = [len(waiting) for waiting in state.waiting]
        n_expected = [len(waiting) for waiting in expected.waiting]
        if (expected.n_steps, n_expected) != (state.n_steps, n_waiting):
            raise EngineError(
                f"snapshot of a stream: expected {n_expected} inputs that wait after "
                f"{expected.n_steps} steps, found {n_waiting}. Try: open the stream anew"
            )
        rows = self._blank(n_lanes)
        rows.stem[:, 0] = state.previous
        at = 1
        for (C, conv, _, _), waiting in zip(self.stem.layers, state.waiting, strict=True):
            at += (conv.kernel - 1) * C
            rows.stem[:, at - len(waiting) * C : at] = waiting.swapaxes(0, 1).reshape(n_lanes, -1)
        for layer, (h, c) in enumerate(zip(state.h, state.c, strict=True)):
            rows.state[:, :, 2 * layer], rows.state[:, :, 2 * layer + 1] = h, c
        if plan.is_windowed:
            rows.state[:, :, -2], rows.state[:, :, -1] = state.h_sum, state.h_max
        else:
            of_run = np.arange(state.n_steps - len(state.past), state.n_steps)
            rows.past[:, of_run % plan.n_steps] = state.past.swapaxes(0, 1)
        return rows, n_done

    def _begun(self, state: F32, n_steps: int) -> F32:
        """Blank the slots of windows that have not begun: a row may have been another stream's."""
        n_begun = -(-n_steps // self.plan.steps_per_hop) if self.plan.is_windowed else n_steps
        state = state.copy()
        state[:, n_begun:] = 0
        if self.plan.is_windowed:
            state[:, n_begun:, -1] = -np.inf
        return state

    def _blank(self, n_lanes: int) -> Rows:
        net, plan = self.bundle.network, self.plan
        K = 2 * net.layers + (2 if plan.is_windowed else 0)
        n_past = 0 if plan.is_windowed else plan.n_steps
        return Rows(
            np.zeros((n_lanes, self.stem.width), np.float32),
            np.zeros((n_lanes, plan.n_states, K, net.hidden), np.float32),
            np.zeros((n_lanes, n_past, net.hidden), np.float32),
        )
