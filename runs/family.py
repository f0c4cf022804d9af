"""The trainer of the family's own agents: S seeds in lockstep, one learner on one world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np
import torch

from agents.config import AgentConfig
from agents.learner import Learner
from runs.flops import flop_costs
from runs.loop import Event, Loop
from runs.prepare import (
    Job,
    check_memory,
    check_precision,
    check_warm_up,
    default_threads,
    open_books,
    replay_layout,
    resolve_compile,
    train_world,
)
from runs.schema import FINAL_CHECKPOINT


class FamilyTrainer:
    """A :class:`runs.loop.Trainer`."""

    checkpoint_file = FINAL_CHECKPOINT

    def __init__(self, job: Job, agent: AgentConfig) -> None:
        check_warm_up(job, agent.learning_starts_steps, "--agent.learning-starts-steps")
        check_precision(agent, job.device)
        self.job, self.agent_config = job, asdict(agent)
        self.compiled = resolve_compile(job, agent)
        torch.set_num_threads(job.config.threads or default_threads(agent, len(job.seeds), self.compiled))
        world = train_world(job, agent.envs_per_seed)
        layout = replay_layout(agent, world, job.seeds, job.budget)
        check_memory(layout, job.device)
        self.learner = Learner(agent, layout, job.env_spec.num_actions, job.seeds, job.device, self.compiled)
        if self.compiled:
            self.learner.warm_up(np.zeros((world.num_envs, *layout.obs_shape), np.uint8 if layout.pixels else np.float32))
        self.books = open_books(job, world, flop_costs(agent, layout, job.env_spec.num_actions))

    def train(self, consume: Callable[[Event], None]) -> None:
        for event in Loop(self.learner, self.books).events():
            consume(event)

    def params_sha256(self) -> list[str]:
        return self.learner.params_sha256()

    def save(self, seed_index: int, file: BinaryIO) -> None:
        """Plain data and tensors."""
        network = self.learner.network
        params = network.unflatten(self.learner.params[seed_index].cpu())
        state: dict[str, Any] = {
            "agent": self.job.config.agent,
            "agent_config": self.agent_config,
            "env": self.job.env_spec.id,
            "protocol": self.job.protocol.name,
            "seed": self.job.seeds[seed_index],
            "num_actions": self.job.env_spec.num_actions,
            "obs_shape": list(self.learner.layout.obs_shape),
            "params": {name: tensor.clone() for name, tensor in params.items()},
        }
        torch.save(state, file)
