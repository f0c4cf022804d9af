"""Every member of the family learns: Catch, to a perfect score, in seconds.

A ball falls from a random column of the top row, one row a step, and the paddle in the bottom row moves left, stays or moves right.
The only reward is the last one: 1 for a catch, -1 for a miss. A random paddle catches about one ball in five.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.config import AgentConfig
from agents.family import FAMILY, agent_config
from agents.learner import Learner
from agents.replay import ReplayLayout

ROWS, COLUMNS, STEPS = 5, 5, 1_500


class Catch:
    """One game after another; observations [1, 2, ROWS, COLUMNS]: where the ball is, where the paddle is."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.start(0)

    def start(self, column: int) -> None:
        self.row, self.column, self.paddle = 0, column, COLUMNS // 2

    def obs(self) -> np.ndarray:
        planes = np.zeros((1, 2, ROWS, COLUMNS), np.float32)
        planes[0, 0, self.row, self.column] = planes[0, 1, -1, self.paddle] = 1
        return planes

    def step(self, action: int) -> tuple[float, bool]:
        self.paddle = min(max(self.paddle + action - 1, 0), COLUMNS - 1)
        self.row += 1
        if self.row < ROWS - 1:
            return 0.0, False
        caught = self.paddle == self.column
        self.start(int(self.rng.integers(COLUMNS)))
        return (1.0 if caught else -1.0), True


def small(name: str) -> AgentConfig:
    """The member as it plays MinAtar, with sizes and schedules for a task of 1,500 steps."""
    config = agent_config(name, "minatar")
    return replace(
        config,
        hidden=(32,),
        batch_size=64,
        learning_rate=2e-3,
        optimiser_eps=1e-8,
        learning_starts_steps=150,
        replay_capacity=2_500,
        replay_ratio=2.0 if config.reset_every_steps else 1.0,  # less time to learn it
        target_period_updates=min(config.target_period_updates, 25),
        target_ema_rate=config.target_ema_rate and max(config.target_ema_rate, 0.05),
        reset_every_steps=config.reset_every_steps and 800,
        epsilon_decay_steps=min(config.epsilon_decay_steps, 700),
        importance_anneal_steps=1_500,
        anneal_updates=300,
        num_atoms=21,
        v_min=-2.0,
        v_max=2.0,
        num_quantiles=16,
    )


def train(config: AgentConfig, steps: int = STEPS) -> Learner:
    layout = ReplayLayout(
        seeds=1,
        envs_per_seed=1,
        capacity=config.replay_capacity,
        frame_shape=(2, ROWS, COLUMNS),
        pixels=False,
        stack=1,
        stack_padding="zeros",
        max_episode_steps=None,
        n_step=config.longest_return_steps,
        gamma=config.gamma,
        clip_rewards=False,
        prioritized=config.prioritized,
        priority_uniform_share=config.priority_uniform_share,
        predicted_steps=config.predicted_steps,
    )
    learner = Learner(config, layout, 3, (0,))
    game = Catch(np.random.default_rng(0))
    never = np.zeros(1, bool)
    for _ in range(steps):
        due = learner.updates_due()
        action = learner.act(game.obs())
        for _ in range(due):
            learner.update()
        reward, over = game.step(int(action[0]))
        learner.record(action, np.array([reward]), np.array([over]), np.array([over]), never, None)
    return learner


def caught(learner: Learner) -> int:
    """Balls that the greedy policy catches, one from each column."""
    game, total = Catch(np.random.default_rng(1)), 0
    for column in range(COLUMNS):
        game.start(column)
        over = False
        while not over:
            reward, over = game.step(int(learner.greedy(game.obs())[0]))
        total += reward > 0
    return total


@pytest.mark.parametrize("name", FAMILY)
def test_every_member_learns_to_catch_every_ball(name: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert caught(train(small(name))) == COLUMNS
    finally:
        torch.set_num_threads(threads)


def test_bf16_learns_it_too() -> None:
    assert caught(train(replace(small("dqn"), precision="bf16"))) == COLUMNS


def test_an_untrained_agent_does_not() -> None:
    assert caught(train(small("dqn"), steps=1)) < COLUMNS
