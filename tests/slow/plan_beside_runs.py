"""Forecasts beside the trainings that they forecast, four jobs of different kinds.

    python -m tests.slow.plan_beside_runs [--seconds 10] [--only cartpole|minatar|atari|games]

Each job is planned, then run; printed are wall time and energy, forecast with its range and then spent, and their ratio. Aim: within
15 % on each.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace

from agents.family import agent_config
from analysis import units
from envs import SUITES
from runs.config import RunConfig
from runs.plan import plan
from runs.schema import read_ledger, read_run, total_energy
from runs.train import train

ATARI = replace(agent_config("dqn", "atari"), learning_starts_steps=1_000, replay_capacity=20_000)
GAMES = SUITES["atari5"]
JOBS = {
    "cartpole": RunConfig("dqn", "CartPole-v1", agent_config("dqn", "classic"), (0, 1, 2, 3), "40k-steps", device="cpu"),
    "minatar": RunConfig("dqn", "MinAtar/Breakout-v1", agent_config("dqn", "minatar"), (0,), "100k-steps", device="cpu"),
    "atari": RunConfig("dqn", "ALE/Pong-v5", ATARI, (0,), "16k-steps", evals=1, eval_episodes=1, device="cpu"),
    "games": RunConfig(
        "dqn", GAMES[0], ATARI, (0,), "6k-steps", evals=1, eval_episodes=2, device="cpu", more_envs=GAMES[1:],
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", choices=JOBS, action="append")
    asked = parser.parse_args()
    for name in asked.only or JOBS:
        _, found = plan(JOBS[name], asked.seconds, lambda text: None)
        with tempfile.TemporaryDirectory() as out:
            outcomes = train(replace(JOBS[name], out=out), notice=lambda text: None)
            ends = [(read_run(one.folder).share, read_ledger(one.folder)[-1]) for one in outcomes]
        wall_s = sum(share * (last.wall_s or 0.0) for share, last in ends)
        joules = sum(total_energy(last.energy).joules for _, last in ends)
        assert found.joules is not None
        print(
            f"{name:<9} wall {units.duration(found.wall_s.value)} ({units.duration(found.wall_s.low)} to "
            f"{units.duration(found.wall_s.high)}), was {units.duration(wall_s)}: ratio {found.wall_s.value / wall_s:.2f}   "
            f"energy {units.energy(found.joules.value)}, was {units.energy(joules)}: ratio {found.joules.value / joules:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
