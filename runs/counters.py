"""The integer counters of S runs in lockstep, and what follows from them. Every figure of a report starts here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runs.flops import FlopCosts
from runs.schema import Counts, Flops

Ints = NDArray[np.int64]

_BY_SEED = ("frames_by_seed", "episodes", "eval_frames", "boot_frames", "eval_boot_frames", "eval_observations")


@dataclass
class Counters:
    """Arrays are [S], one entry per seed; scalars are the same for every seed, because they train in lockstep.

    The attributes ``steps``, ``frames``, ``play_s``, ``wall_s``, ``joules`` and ``flops`` are what a budget can be counted in:
    a budget in frames is used up when every seed has used it.
    """

    seeds: int
    costs: tuple[FlopCosts, ...]
    frame_rate_hz: float | None
    steps: int = 0
    updates: int = 0
    wall_s: float = 0.0
    joules: float = 0.0  # of one run: the process's joules over S
    act_flops: int | None = None  # None: one forward pass a step
    frames_by_seed: Ints = field(init=False)
    episodes: Ints = field(init=False)
    eval_frames: Ints = field(init=False)
    boot_frames: Ints = field(init=False)
    eval_boot_frames: Ints = field(init=False)
    eval_observations: Ints = field(init=False)

    def __post_init__(self) -> None:
        for name in _BY_SEED:
            setattr(self, name, np.zeros(self.seeds, np.int64))

    @property
    def frames(self) -> int:
        return int(self.frames_by_seed.min())

    @property
    def play_s(self) -> float | None:
        return None if self.frame_rate_hz is None else self.frames / self.frame_rate_hz

    @property
    def flops(self) -> int:
        return min(self.model_flops(k).total or 0 for k in range(self.seeds))  # ours are always known

    def model_flops(self, seed_index: int = 0) -> Flops:
        """Model FLOPs of one run so far."""
        costs = self.costs[seed_index]
        return Flops(
            act=self.steps * costs.forward if self.act_flops is None else self.act_flops,
            update=self.updates * costs.update,
            eval=int(self.eval_observations[seed_index]) * costs.eval_forward,
        )

    def state_dict(self) -> dict[str, Any]:
        """The exact counters; seconds and joules are the ledger's."""
        numbers = {name: getattr(self, name) for name in ("steps", "updates")}
        return numbers | {name: getattr(self, name).copy() for name in _BY_SEED}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("steps", "updates"):
            setattr(self, name, state[name])
        for name in _BY_SEED:
            setattr(self, name, state[name].copy())

    def counts(self, seed_index: int) -> Counts:
        """Training play of one run."""
        k = seed_index
        return Counts(int(self.frames_by_seed[k]), self.steps, self.updates, int(self.episodes[k]))
