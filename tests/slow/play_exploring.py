"""Play trained agents with random actions among their own, as published curves of training returns do.

python -m tests.slow.play_exploring results/reproduction/minatar/MinAtar/Asterix-v1/dqn --epsilon 0 0.1
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from envs import lane_seeds, make
from runs.folder import load_policy
from runs.schema import read_run

GAMES = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the seeds of one agent")
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0.0, 0.1])
    asked = parser.parse_args()
    for epsilon in asked.epsilon:
        means = [mean_score(run, epsilon) for run in sorted(asked.folder.glob("seed*"))]
        print(f"epsilon {epsilon}: {np.mean(means):.2f}, seeds {', '.join(f'{mean:.2f}' for mean in means)}")


def mean_score(run: Path, epsilon: float) -> float:
    """Over the first game of each of 30 lanes."""
    record = read_run(run)
    policy = load_policy(run / "checkpoints/final.pt")
    policy.epsilon, policy.generator = epsilon, np.random.default_rng(record.seed)
    world = make(record.env.id, GAMES, lane_seeds(1_000 + record.seed, GAMES), evaluation=True)
    obs, _ = world.reset()
    returns, over = np.zeros(GAMES), np.zeros(GAMES, np.bool_)
    while not over.all():
        obs, reward, terminated, truncated, _ = world.step(policy.predict(obs)[0])
        returns[~over] += reward[~over]
        over |= terminated | truncated
    world.close()
    return float(returns.mean())


if __name__ == "__main__":
    main()
