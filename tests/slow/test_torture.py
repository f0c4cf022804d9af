"""A hundred kills and more, over agents and environments, of processes and of whole process groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.config import AgentConfig
from agents.family import agent_config
from runs.config import RunConfig
from tests.torture import torture

SMALL = AgentConfig(hidden=(16,), batch_size=8, learning_starts_steps=30, epsilon_decay_steps=200, replay_capacity=90)
RAINBOW = replace(
    SMALL, head="c51", num_atoms=11, v_max=50.0, double=True, dueling=True, noisy=True, prioritized=True, n_step=3,
    priority_uniform_share=0.1, target_ema_rate=0.05,
)  # fmt: skip
IQN = replace(SMALL, head="iqn", num_tau=4, num_tau_target=4, num_tau_act=4, tau_cosines=4, munchausen=True, envs_per_seed=2)
QR = replace(SMALL, head="qr", num_quantiles=5, optimiser="rmsprop", replay_ratio=0.5)
MINATAR = replace(SMALL, encoder="minatar", replay_ratio=0.25, n_step=2)
ATARI = replace(
    agent_config("der", "atari"), hidden=(8,), batch_size=4, learning_starts_steps=40, replay_capacity=70, replay_ratio=0.1
)
KINDS: dict[str, dict[str, Any]] = {
    "dqn on CartPole, 3 seeds": {"seeds": (0, 1, 2)},
    "rainbow on CartPole": {"agent": "rainbow", "agent_config": RAINBOW},
    "iqn on Acrobot, 2 seeds of 2": {"agent": "iqn", "env": "Acrobot-v1", "agent_config": IQN, "seeds": (0, 1)},
    "qrdqn on MountainCar, 2 seeds": {"agent": "qrdqn", "env": "MountainCar-v0", "agent_config": QR, "seeds": (4, 2)},
    "qrdqn on LunarLander": {"agent": "qrdqn", "env": "LunarLander-v3", "agent_config": QR},
    "dqn on MinAtar Asterix, 2 seeds": {"env": "MinAtar/Asterix-v1", "agent_config": MINATAR, "seeds": (0, 1)},
    "der on Breakout": {"agent": "der", "env": "ALE/Breakout-v5", "agent_config": ATARI, "budget": "150-steps"},
    "der on Pong with sticky actions": {
        "agent": "der", "env": "ALE/Pong-v5", "agent_config": ATARI, "budget": "150-steps", "protocol": "sticky",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("own_group", [False, True], ids=["process", "process group"])
def test_kills_at_random_moments_change_nothing(kind: dict[str, Any], own_group: bool, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "agent": "dqn", "env": "CartPole-v1", "agent_config": SMALL, "seeds": (0,), "budget": "300-steps", "evals": 2,
        "eval_episodes": 1, "out": str(tmp_path), "device": "cpu", "compile": "off", "threads": 1, "heartbeat_s": 0.05,
        "checkpoint_every": "25-steps",
    }  # fmt: skip
    seen = torture(RunConfig(**(values | kind)), tmp_path / "here", 8, seed=len(str(kind)) + own_group, own_group=own_group)
    print(seen)
    assert seen["kills"] >= 8
