"""Does a step stay as fast as the replay grows, and how much memory does a million frames take?

    taskset -c 1 python -m tests.slow.growth [--rows 10000 100000 1000000]

The same update, compiled, of agents whose replays hold more and more rows, in turns within one process: on a machine that others share
only neighbours in time compare. Frames are noise; what is sampled and copied does not depend on what they show. Beside it the memory
of the replay in use, and of stable-baselines3's for the same frames, by the arrays that both allocate.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
import warnings
from dataclasses import replace

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.buffers import ReplayBuffer

from agents.family import agent_config
from agents.learner import Learner
from agents.replay import ACTION, AGE, ReplayLayout

CASES = (("dqn", "classic"), ("rainbow", "classic"), ("dqn", "atari"), ("der", "atari"))
BLOCK_UPDATES = 20


def learner(agent: str, domain: str, rows: int) -> Learner:
    """An agent of S = 1 whose replay is full."""
    config = replace(agent_config(agent, domain), replay_capacity=rows)
    shape, pixels, stack = ((84, 84), True, 4) if domain == "atari" else ((8,), False, 1)
    layout = ReplayLayout(
        1, 1, rows, shape, pixels, stack, "zeros", 27_000, config.n_step, config.gamma, True, config.prioritized
    )
    made = Learner(config, layout, 6, (0,), compile=True)
    storage, rng = made.replay.storage, np.random.default_rng(0)
    frames = storage.frames[0].numpy()
    noise = rng.integers(0, 256, size=(1000, *shape)).astype(frames.dtype)
    for start in range(0, len(frames), len(noise)):
        frames[start : start + len(noise)] = noise[: len(frames) - start]
    storage.meta[..., ACTION] = torch.randint(0, 6, (rows,))
    storage.meta[..., AGE] = stack
    if config.prioritized:
        value = storage.priorities.value
        value.flatten(1)[:, stack : rows - config.n_step] = torch.rand(rows - stack - config.n_step, dtype=value.dtype)
        storage.priorities.block_sum.copy_(value.sum(-1))
    made.replay.row = rows - 1
    made.replay.begin(np.zeros((1, *layout.obs_shape), noise.dtype))
    return made


def spent(made: Learner) -> float:
    """Seconds of one update, sampling included."""
    began = time.perf_counter()
    for _ in range(BLOCK_UPDATES):
        made.update()
    return (time.perf_counter() - began) / BLOCK_UPDATES


def growth(agent: str, domain: str, rows: list[int], turns: int) -> None:
    learners = [learner(agent, domain, count) for count in rows]
    for made in learners:
        spent(made)
    times = [[spent(made) for made in learners] for _ in range(turns)]
    print(f"{agent} on {domain}, batch {learners[0].config.batch_size}:")
    for at, count in enumerate(rows):
        own = statistics.median(turn[at] for turn in times)
        ratios = sorted(turn[at] / turn[0] for turn in times)
        low, high = np.percentile(ratios, (25, 75))
        seen = f"{statistics.median(ratios):.3f} times the first (quartiles {low:.3f} to {high:.3f})"
        print(f"  {count:>9,} rows: {1e3 * own:.3f} ms an update, {seen}", flush=True)


def memory(rows: int) -> None:
    """A replay of so many Atari frames: ours in use, and what stable-baselines3 would allocate, from a hundredth of it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours = learner("dqn", "atari", rows)
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    print(f"{rows:,} Atari frames, agent included: {used:.2f} GB in use; the replay alone {ours.layout.nbytes / 1e9:.2f} GB")
    space = Box(0, 255, (4, 84, 84), np.uint8)
    for economical in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = ReplayBuffer(
                rows // 100, space, Discrete(6), optimize_memory_usage=economical, handle_timeout_termination=False
            )
        arrays = (value for value in vars(peer).values() if isinstance(value, np.ndarray))
        size = 100 * sum(array.nbytes for array in arrays) / 1e9
        print(f"stable-baselines3, optimize_memory_usage={economical}: {size:.1f} GB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--turns", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    memory(max(asked.rows))
    for agent, domain in CASES:
        growth(agent, domain, asked.rows, asked.turns)


if __name__ == "__main__":
    main()
