"""Speed beside stable-baselines3's DQN: the same settings, the same machine, in turns within one run.

    python -m tests.slow.speed_beside_sb3 [--repeats 5] [--only cartpole1|cartpole16|atari|atari_bf16]

Both sides are whole trainings: environment, replay, updates, and on our side ledger, monitor and TensorBoard too. Steps per second
are taken after the warm-up, from the ledger's own clock (ours) and from a callback (theirs), so that compiling and start-up, which
a long run does not notice, are left out. The ratio is taken pair by pair; the median and the range over the pairs are printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ale_py
import gymnasium
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from agents.config import AgentConfig
from agents.family import agent_config
from runs import schema
from runs.config import RunConfig
from runs.train import train

THREADS = 2
CLASSIC = AgentConfig(hidden=(128, 128), batch_size=64, replay_ratio=1.0, learning_starts_steps=500, target_period_updates=100)
ATARI = replace(agent_config("dqn", "atari"), learning_starts_steps=500, replay_capacity=20_000)


def ours(env: str, agent: AgentConfig, seeds: int, steps: int) -> float:
    """Steps per second, in sum over seeds."""
    with tempfile.TemporaryDirectory() as out:
        config = RunConfig("dqn", env, agent, tuple(range(seeds)), f"{steps}-steps", evals=1, eval_episodes=1, out=out,
                           device="cpu", compile="on", threads=THREADS, heartbeat_s=0.5)  # fmt: skip
        lines = schema.read_ledger(train(config)[0].folder)
    inside = [line for line in lines if line.lineage.updates > 0 and line.lineage.steps < steps]
    first, last = inside[0], inside[-1]
    return seeds * (last.lineage.steps - first.lineage.steps) / (last.wall_s - first.wall_s)


class Stopwatch(BaseCallback):
    """Wall time at step ``start`` and at the last step."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start, self.times = start, [0.0, 0.0]

    def _on_step(self) -> bool:
        if self.num_timesteps == self.start:
            self.times[0] = time.perf_counter()
        self.times[1] = time.perf_counter()
        return True


def theirs(make: Callable[[], Any], policy: str, agent: AgentConfig, steps: int, **options: Any) -> float:
    torch.set_num_threads(THREADS)
    model = DQN(
        policy,
        make(),
        learning_rate=agent.learning_rate,
        batch_size=agent.batch_size,
        buffer_size=agent.replay_capacity,
        learning_starts=agent.learning_starts_steps,
        train_freq=round(1 / agent.replay_ratio),
        gradient_steps=1,
        target_update_interval=round(agent.target_period_updates / agent.replay_ratio),
        seed=0,
        device="cpu",
        **options,
    )
    start = agent.learning_starts_steps + 100
    watch = Stopwatch(start)
    model.learn(steps, callback=watch)
    return (steps - start) / (watch.times[1] - watch.times[0])


def atari() -> Any:
    gymnasium.register_envs(ale_py)
    return VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=1, seed=0), 4)


Side = Callable[[], float]
MLP = {"policy_kwargs": {"net_arch": [128, 128]}}
CASES: dict[str, tuple[Side, Side]] = {
    "cartpole1": (
        lambda: ours("CartPole-v1", CLASSIC, 1, 12_000),
        lambda: theirs(lambda: gymnasium.make("CartPole-v1"), "MlpPolicy", CLASSIC, 5_000, **MLP),
    ),
    "cartpole16": (
        lambda: ours("CartPole-v1", CLASSIC, 16, 4_000),
        lambda: theirs(lambda: gymnasium.make("CartPole-v1"), "MlpPolicy", CLASSIC, 5_000, **MLP),
    ),
    "atari": (
        lambda: ours("ALE/Pong-v5", ATARI, 1, 3_000),
        lambda: theirs(atari, "CnnPolicy", ATARI, 2_000),
    ),
    "atari_bf16": (
        lambda: ours("ALE/Pong-v5", replace(ATARI, precision="bf16"), 1, 3_000),
        lambda: theirs(atari, "CnnPolicy", ATARI, 2_000),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=CASES, action="append")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {THREADS} threads, {arguments.repeats} pairs; steps/s after the warm-up: median (range)")
    for name in arguments.only or CASES:
        left, right = CASES[name]
        left()  # fills the compiler's cache, and is not counted
        pairs = [(left(), right()) for _ in range(arguments.repeats)]
        ratios = [a / b for a, b in pairs]
        columns = [show([a for a, _ in pairs], 0), show([b for _, b in pairs], 0), show(ratios, 2)]
        print(f"{name:<12} playmeter {columns[0]}   stable-baselines3 {columns[1]}   ratio {columns[2]}", flush=True)


def show(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


if __name__ == "__main__":
    main()
