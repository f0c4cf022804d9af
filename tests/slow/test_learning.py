"""Learning curves to their thresholds, with the settings of the family as they ship. Minutes each: `make slow`."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.family import agent_config
from runs.config import RunConfig
from runs.train import train


@pytest.mark.parametrize("agent", ["dqn", "double", "dueling"])
def test_cartpole_is_solved_within_50k_steps_in_9_of_10_seeds(agent: str, tmp_path: Path) -> None:
    config = RunConfig(agent, "CartPole-v1", agent_config(agent, "classic"), tuple(range(10)), "50k-steps", evals=20,
                       eval_episodes=20, out=str(tmp_path), device="cpu")  # fmt: skip
    outcomes = train(config)
    solved = [outcome for outcome in outcomes if max(outcome.eval_scores) >= 475]
    assert len(solved) >= 9, [outcome.eval_scores for outcome in outcomes]
