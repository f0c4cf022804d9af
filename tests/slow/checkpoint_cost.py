"""What checkpoints of an Atari agent with a replay of a million frames cost: time, size, memory.

    python -m tests.slow.checkpoint_cost --frames 1000000

The frames are those of a game played at random, over and over, with noise of a few pixels in each, so that no two are the same.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from agents.family import agent_config
from agents.learner import Learner
from agents.replay import ReplayLayout
from envs import make
from runs.checkpoint import State, Store
from runs.family import ReplayRing, flatten


def screens(game: str, count: int) -> np.ndarray:
    """Newest frames uint8 [count, 84, 84] of random play."""
    world = make(game, 1, [0])
    rng, frames = np.random.default_rng(0), np.zeros((count, 84, 84), np.uint8)
    obs, _ = world.reset()
    for k in range(count):
        frames[k] = obs[0, -1]
        obs, *_ = world.step(rng.integers(world.env_spec.num_actions, size=1))
    return frames


def state_of(learner: Learner) -> State:
    state = learner.state_dict()
    replay = state["replay"]
    del replay["frames"], replay["meta"]
    return State(*flatten(state), ReplayRing(learner.replay))


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--agent", default="rainbow")
    parser.add_argument("--game", default="ALE/MsPacman-v5")
    parser.add_argument("--new", type=int, default=36_000, help="frames between two checkpoints: ten minutes at 60 steps/s")
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    agent = agent_config(asked.agent, "atari")
    layout = ReplayLayout(1, 1, asked.frames, (84, 84), True, 4, "zeros", 27_000, agent.n_step, 0.99, True, agent.prioritized)
    learner = Learner(agent, layout, 9, (0,))
    played, rng = screens(asked.game, 20_000), np.random.default_rng(1)
    frames = learner.replay.storage.frames[0].numpy()
    for start in range(0, asked.frames, len(played)):
        some = frames[start : start + len(played)]
        some[: asked.frames - start] = played[: min(len(played), asked.frames - start)]
        noisy = rng.integers(0, 84, size=(len(some), 2, 8))
        some[np.arange(len(some))[:, None], noisy[:, 0], noisy[:, 1]] ^= 255
    learner.replay.storage.meta.copy_(torch.rand_like(learner.replay.storage.meta))
    learner.replay.row = asked.frames - 1
    before = peak_gb()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        store = Store(Path(folder) / "checkpoints")
        for name, more in (("the whole replay", 0), *[(f"{asked.new:,} new frames", asked.new)] * 3):
            learner.replay.row += more
            began, cpu = time.monotonic(), time.process_time()
            manifest = store.save(learner.replay.row, state_of(learner))
            wall_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
            new = [s for s in manifest.segments if s.name.startswith(f"replay-{manifest.number:06d}")]
            print(
                f"{name}: {wall_s:.1f} s ({cpu_s:.1f} s of CPU), wrote {sum(s.nbytes for s in new) / 1e6:.0f} MB of replay in "
                f"{len(new)} files and {manifest.state.nbytes / 1e6:.0f} MB of state",
                flush=True,
            )
        on_disk = sum(path.stat().st_size for path in (Path(folder) / "checkpoints").iterdir())
        print(f"on the disk: {on_disk / 1e9:.2f} GB; the replay in memory: {layout.nbytes / 1e9:.2f} GB")
        print(f"peak memory: {before:.2f} GB before the first checkpoint, {peak_gb():.2f} GB after the last")
        began = time.monotonic()
        again = Store(Path(folder) / "checkpoints")
        loaded = again.load()
        assert loaded is not None
        again.fill(loaded, ReplayRing(learner.replay))
        print(f"checked and read back: {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
