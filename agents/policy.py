"""A trained agent as something that plays: ``predict`` as stable-baselines3's agents answer it, so that its tools work on ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.config import AgentConfig
from agents.networks import QNetwork


@dataclass
class Policy:
    """One seed's final network. ``epsilon`` is how often it plays at random where it may."""

    network: QNetwork
    obs_shape: tuple[int, ...]
    num_actions: int
    epsilon: float = 0.0
    generator: np.random.Generator = field(default_factory=np.random.default_rng)

    @classmethod
    def from_state(cls, state: dict[str, Any], epsilon: float = 0.0) -> Policy:
        """From what a run's final checkpoint holds: agent_config, obs_shape, num_actions and the named parameters."""
        config = AgentConfig(**(state["agent_config"] | {"hidden": tuple(state["agent_config"]["hidden"])}))
        shape = tuple(state["obs_shape"])
        network = QNetwork(config, shape, state["num_actions"])
        network.load_state_dict(state["params"])
        return cls(network.eval(), shape, state["num_actions"], epsilon)

    @torch.no_grad()
    def predict(
        self, observation: NDArray[Any], state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[NDArray[np.int64], None]:
        """Actions for one observation [*obs_shape] or a batch of them [B, *obs_shape].

        Returns the action(s) and None: there is no recurrent state, and ``state`` and ``episode_start`` are not looked at.
        """
        single = observation.ndim == len(self.obs_shape)
        obs = torch.from_numpy(np.asarray(observation)[None] if single else np.asarray(observation))
        action = self.network.q_values(self.network(obs)).argmax(-1).numpy()
        if not deterministic and self.epsilon > 0:
            explore = self.generator.random(len(action)) < self.epsilon
            action = np.where(explore, self.generator.integers(0, self.num_actions, len(action)), action)
        return (action[0] if single else action), None
