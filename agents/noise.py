"""Random numbers for S seeds: drawn in bulk, each seed from its own generators, so that a seed does not depend on its neighbours."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK_STEPS = 512  # numbers are drawn for this many steps at once
BLOCK_NUMBERS = 2**18  # or for fewer, where a step takes many: at most so many per seed

# What the generators of a seed are for; each has its own.
INIT_STREAM, ACT_STREAM, UPDATE_STREAM, EVAL_STREAM, ACT_NORMAL_STREAM, UPDATE_NORMAL_STREAM, RESET_STREAM = range(7)
CUDA_STATE_BYTES = 16  # of a generator: a seed and an offset. A CPU's are 5,056, and never zeros from there on


class Noise:
    """``width`` numbers per seed and call: uniform in [0, 1) as float64, or standard normal as float32.

    A GPU draws its own, other ones than a CPU: a noisy network can take longer to be given its numbers than to compute with them.
    """

    def __init__(self, seeds: Sequence[int], stream: int, width: int, device: torch.device, normal: bool = False) -> None:
        self._device, self._drawn_on = device, device if device.type == "cuda" else torch.device("cpu")
        self._generators = [generator(seed, stream, self._drawn_on) for seed in seeds]
        steps = max(1, min(BLOCK_STEPS, BLOCK_NUMBERS // max(1, width)))
        dtype, self._sample = (torch.float32, torch.randn) if normal else (torch.float64, torch.rand)
        self._block = torch.empty(steps, len(seeds), width, dtype=dtype, device=self._drawn_on)
        self._next = steps
        self._start = [state_of(g) for g in self._generators]  # of the present block, so that a checkpoint need not hold it

    def draw(self) -> Tensor:
        """[S, width]."""
        if self._next == len(self._block):
            self._fill()
        values = self._ready[self._next]
        self._next += 1
        return values

    def peek(self) -> Tensor:
        """A tensor of the shape and place that ``draw`` gives."""
        return self._block[0].to(self._device)

    def _fill(self) -> None:
        self._start = [state_of(g) for g in self._generators]
        steps, _, width = self._block.shape
        for k, g in enumerate(self._generators):
            self._block[:, k] = self._sample(steps, width, dtype=self._block.dtype, generator=g, device=self._drawn_on)
        self._ready = self._block.to(self._device).unbind()  # now, and not one by one at every step
        self._next = 0

    def state_dict(self) -> dict[str, Any]:
        used_up = self._next == len(self._block)  # and the next block begins where the generators are now
        start = [state_of(g) for g in self._generators] if used_up else self._start
        return {"start": torch.stack(start), "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for g, start in zip(self._generators, state["start"], strict=True):
            set_state(g, start)
        if state["next"] < len(self._block):
            self._fill()
        self._next = state["next"]


def generator(seed: int, stream: int, device: torch.device | str = "cpu", part: tuple[int, ...] = ()) -> torch.Generator:
    """An independent generator for each (seed, stream, part of the stream)."""
    entropy = np.random.SeedSequence([seed, stream, *part]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(entropy >> np.uint64(1)))


def state_of(g: torch.Generator) -> Tensor:
    """The state of a generator [5056] uint8, zeros behind a GPU's, so that checkpoints have one form on every device."""
    state, padded = g.get_state(), torch.zeros_like(torch.Generator().get_state())
    padded[: len(state)] = state
    return padded


def set_state(g: torch.Generator, state: Tensor) -> None:
    """Go on from a state; from one of another kind of device with numbers that depend on it alone."""
    of_cpu = bool(state[CUDA_STATE_BYTES:].any())
    if of_cpu is (g.device.type == "cpu"):
        g.set_state(state[: len(g.get_state())].clone())  # a view would be read from the start of its base
    else:
        digest = hashlib.sha256(state.numpy().tobytes()).digest()
        g.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
