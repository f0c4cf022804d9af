"""Random numbers for S seeds: drawn in bulk, each seed from its own generators, so that a seed does not depend on its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK_STEPS = 512  # numbers are drawn for this many steps at once
BLOCK_NUMBERS = 2**18  # or for fewer, where a step takes many: at most so many per seed

# What the generators of a seed are for; each has its own.
INIT_STREAM, ACT_STREAM, UPDATE_STREAM, EVAL_STREAM, ACT_NORMAL_STREAM, UPDATE_NORMAL_STREAM = range(6)


class Noise:
    """``width`` numbers per seed and call: uniform in [0, 1) as float64, or standard normal as float32."""

    def __init__(self, seeds: Sequence[int], stream: int, width: int, device: torch.device, normal: bool = False) -> None:
        self._generators = [generator(seed, stream) for seed in seeds]
        steps = max(1, min(BLOCK_STEPS, BLOCK_NUMBERS // max(1, width)))
        self._block = torch.empty(steps, len(seeds), width, dtype=torch.float32 if normal else torch.float64)
        self._device, self._sample = device, torch.randn if normal else torch.rand
        self._next = steps
        self._start = [g.get_state() for g in self._generators]  # of the present block, so that a checkpoint need not hold it

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
        self._start = [g.get_state() for g in self._generators]
        steps, _, width = self._block.shape
        for k, g in enumerate(self._generators):
            self._block[:, k] = self._sample(steps, width, dtype=self._block.dtype, generator=g)
        self._ready = self._block.to(self._device)
        self._next = 0

    def state_dict(self) -> dict[str, Any]:
        return {"start": torch.stack(self._start), "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for g, start in zip(self._generators, state["start"], strict=True):
            g.set_state(start.clone())  # a view would be read from the start of its base
        if state["next"] < len(self._block):
            self._fill()
        self._next = state["next"]


def generator(seed: int, stream: int) -> torch.Generator:
    """An independent generator for each (seed, stream)."""
    entropy = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
