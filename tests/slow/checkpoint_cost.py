"""What checkpoints of an Atari agent with a replay of a million frames cost: time, size, memory.

    python -m tests.slow.checkpoint_cost --frames 1000000 --pace 60 1000

The frames are those of a game played at random, over and over, with noise of a few pixels in each, so that no two are the same. In
turns, the same new frames are written by the thread that trains (``Store``), and handed over to another as they come (``Writer``).
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from agents.family import agent_config
from agents.learner import Learner
from agents.replay import ReplayLayout
from envs import make
from runs.background import Writer
from runs.checkpoint import SEGMENT_BYTES, State, Store
from runs.family import ReplayRing, flatten
from runs.folder import write_atomically


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
    parser.add_argument("--pace", type=int, nargs="+", default=[60], help="steps a second")
    parser.add_argument("--interval", type=int, default=600, help="seconds between two checkpoints")
    parser.add_argument("--turns", type=int, default=3)
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
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        measure(learner, Path(folder), asked)
        print(f"the replay in memory: {layout.nbytes / 1e9:.2f} GB")


def measure(learner: Learner, folder: Path, asked: argparse.Namespace) -> None:
    ring = ReplayRing(learner.replay)
    alone, handed = Store(folder / "alone"), Store(folder / "handed")
    writer, before = Writer(handed), peak_gb()
    print(f"peak memory before the first checkpoint: {before:.2f} GB", flush=True)
    began, cpu = time.monotonic(), time.process_time()
    writer.save(learner.replay.row, state_of(learner), in_memory(learner, folder))
    blocked_s = time.monotonic() - began
    writer.settle()
    wall_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
    print(
        f"the whole replay, handed over: {wall_s:.1f} s ({cpu_s:.1f} s of CPU), {blocked_s:.1f} s of them held up; {size(handed)}"
    )
    alone.save(learner.replay.row, state_of(learner))
    for pace in asked.pace:
        new = pace * asked.interval
        print(f"{asked.interval} s at {pace} steps/s, {new:,} new frames:", flush=True)
        for _ in range(asked.turns):
            held = hand_over(learner, ring, writer, new, folder)
            print(f"  handed over: {held}, {100 * held.seconds / asked.interval:.3f} %; {size(handed)}", flush=True)
            began, cpu = time.monotonic(), time.process_time()
            alone.save(learner.replay.row, state_of(learner))
            in_memory(learner, folder)()
            wall_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
            share = 100 * wall_s / asked.interval
            print(f"  by itself:   {wall_s:.2f} s ({cpu_s:.1f} s of CPU), {share:.3f} %; {size(alone)}", flush=True)
    writer.close()
    print(f"on the disk: {sum(path.stat().st_size for path in handed.folder.iterdir()) / 1e9:.2f} GB")
    print(f"peak memory after the last: {peak_gb():.2f} GB")
    began, again = time.monotonic(), Store(handed.folder)
    loaded = again.load()
    assert loaded is not None
    again.fill(loaded, ring)
    print(f"checked and read back: {time.monotonic() - began:.1f} s")


@dataclass
class Held:
    """What handing over took of the training thread."""

    seconds: float = 0.0
    own_cpu_s: float = 0.0  # of it, whatever else the core did meanwhile
    longest_s: float = 0.0
    cpu_s: float = 0.0  # of both threads
    busy_s: float = 0.0  # the longest time that the other took for what it was given

    def __str__(self) -> str:
        return (
            f"{self.seconds:.2f} s of the training thread, {self.own_cpu_s:.2f} s of them CPU, {self.longest_s:.2f} s at once "
            f"({self.cpu_s:.1f} s of CPU in all, "
            f"the other thread busy for {self.busy_s:.1f} s at once)"
        )


def hand_over(learner: Learner, ring: ReplayRing, writer: Writer, new: int, folder: Path) -> Held:
    """New frames come segment by segment, and the other thread is through with each before the next: at 1,000 steps/s in 9 s."""
    held, length, start = Held(), SEGMENT_BYTES // ring.row_bytes, learner.replay.row
    cpu = time.process_time()
    while learner.replay.row < start + new:
        learner.replay.row += min(length, start + new - learner.replay.row)
        last = learner.replay.row == start + new
        began, own_cpu = time.monotonic(), time.thread_time()
        if last:
            writer.settle()
            writer.save(learner.replay.row, state_of(learner), in_memory(learner, folder))
        else:
            writer.ahead(ring, (learner.replay.row - start) / new)
        seconds = time.monotonic() - began
        held.seconds += seconds
        held.own_cpu_s += time.thread_time() - own_cpu
        held.longest_s = max(held.longest_s, seconds)
        began = time.monotonic()
        while not writer.idle:
            time.sleep(0.01)
        held.busy_s = max(held.busy_s, time.monotonic() - began)
    writer.settle()
    held.cpu_s = time.process_time() - cpu
    return held


def in_memory(learner: Learner, folder: Path) -> Callable[[], None]:
    """The agent itself, which is saved beside each checkpoint."""
    file = BytesIO()
    torch.save({"params": learner.params[0]}, file)
    return lambda: write_atomically(folder / "final.pt", file.getbuffer())


def size(store: Store) -> str:
    """What the latest checkpoint wrote."""
    manifest = store.latest
    assert manifest is not None
    new = [s for s in manifest.segments if s.name.startswith(f"replay-{manifest.number:06d}")]
    return f"{sum(s.nbytes for s in new) / 1e6:.0f} MB of replay in {len(new)} files, {manifest.state.nbytes / 1e6:.0f} MB of state"


if __name__ == "__main__":
    main()
