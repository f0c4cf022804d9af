"""The family tree: every named agent is its parent plus a visible difference.

Adding an agent is adding one :class:`Member` to ``FAMILY``, plus the one new idea if it has one (a field of AgentConfig and the few
lines that use it). The root says everything for each domain; every other member says only what it changes.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from typing import Any

from agents.config import AgentConfig

DOMAINS = ("classic", "minatar", "atari")


@dataclass(frozen=True)
class Member:
    """One agent of the family."""

    name: str
    parent: str | None
    paper: str
    idea: str
    """What it adds to its parent, in one sentence."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings that differ from the parent in every domain."""
    by_domain: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings that differ from the parent in one domain."""
    deviations: tuple[str, ...] = ()
    """Where this deliberately is not what the paper did, and why."""


_DQN = Member(
    name="dqn",
    parent=None,
    paper="Mnih et al. 2015, Human-level control through deep reinforcement learning, Nature 518:529",
    idea="Q-learning with a replay memory and a target network.",
    by_domain={
        # Settings found here on CartPole-v1 (docs/measurements.md), not published ones.
        "classic": {
            "encoder": "mlp",
            "hidden": (128, 128),
            "batch_size": 128,
            "replay_capacity": 50_000,
            "learning_starts_steps": 500,
            "replay_ratio": 1.0,
            "target_period_updates": 100,
            "optimiser": "adam",
            # Huber holds the rare large errors of a fall to the pull of any other. It gets there too, and falls back more often.
            "loss": "mse",
            "learning_rate": 5e-4,
            "max_grad_norm": 10.0,
            "epsilon_end": 0.05,
            "epsilon_decay_steps": 5_000,
        },
        # Ceron and Castro 2021 (Revisiting Rainbow), with the fully connected layer of Young and Tian 2019.
        "minatar": {
            "encoder": "minatar",
            "hidden": (128,),
            "batch_size": 32,
            "replay_capacity": 100_000,
            "learning_starts_steps": 1_000,
            "replay_ratio": 0.25,
            "target_period_updates": 250,
            "optimiser": "adam",
            "learning_rate": 2.5e-4,
            "optimiser_eps": 3.125e-4,
            "epsilon_end": 0.01,
            "epsilon_decay_steps": 250_000,
        },
        # dqn_zoo, dqn/run_atari.py: 4e4 frames between target copies are 10,000 steps and 2,500 updates.
        "atari": {
            "encoder": "nature",
            "hidden": (512,),
            "batch_size": 32,
            "replay_capacity": 1_000_000,
            "learning_starts_steps": 50_000,
            "replay_ratio": 0.25,
            "target_period_updates": 2_500,
            "optimiser": "rmsprop",
            "learning_rate": 2.5e-4,
            "optimiser_eps": 0.01 / 32**2,
            "epsilon_end": 0.1,
            "epsilon_decay_steps": 1_000_000,
            "clip_rewards": True,
        },
    },
    deviations=(
        "The paper counts 10,000 updates between target copies; dqn_zoo, which we follow, counts 10,000 steps (2,500 updates).",
        "The update may not yet sample the transition of the step in progress, so that it can run while the emulator works.",
    ),
)

_DOUBLE = Member(
    name="double",
    parent="dqn",
    paper="van Hasselt, Guez and Silver 2016, Deep reinforcement learning with double Q-learning, arXiv 1509.06461",
    idea="The online network selects the bootstrap action, the target network evaluates it.",
    changes={"double": True},
    # dqn_zoo, double_q/run_atari.py (the tuned version of the paper): target every 30,000 steps, epsilon down to 0.01.
    by_domain={"atari": {"target_period_updates": 7_500, "epsilon_end": 0.01}},
    deviations=("One output bias per action; the paper's tuned version shares a single bias between all actions.",),
)

_DUELING = Member(
    name="dueling",
    parent="double",
    paper="Wang et al. 2016, Dueling network architectures for deep reinforcement learning, arXiv 1511.06581",
    idea="Separate streams for the value of a state and the advantage of each action.",
    changes={"dueling": True, "max_grad_norm": 10.0},
    by_domain={"atari": {"learning_rate": 6.25e-5}},
    deviations=("The gradient that enters the last convolution is not rescaled by 1/sqrt(2).",),
)

FAMILY: dict[str, Member] = {member.name: member for member in (_DQN, _DOUBLE, _DUELING)}


class UnknownAgent(ValueError):
    """No such agent; the message names the nearest ones."""


def member(name: str) -> Member:
    """The entry of a named agent. Raises UnknownAgent."""
    if name not in FAMILY:
        near = difflib.get_close_matches(name.lower(), FAMILY, n=3, cutoff=0.4) or list(FAMILY)
        raise UnknownAgent(f"unknown agent {name!r}: did you mean {' or '.join(near)}? `playmeter agents` lists them all")
    return FAMILY[name]


def agent_config(name: str, domain: str) -> AgentConfig:
    """The settings of a named agent in a domain: its parent's, with its own differences. Raises UnknownAgent."""
    entry = member(name)
    base = AgentConfig() if entry.parent is None else agent_config(entry.parent, domain)
    return replace(base, **entry.changes, **entry.by_domain.get(domain, {}))


def differences(entry: Member) -> dict[str, dict[str, Any]]:
    """What a member visibly changes: {"all": {...}, "atari": {...}, ...}, without empty groups."""
    groups = {"all": entry.changes} | {domain: entry.by_domain.get(domain, {}) for domain in DOMAINS}
    return {domain: changes for domain, changes in groups.items() if changes}


def children(name: str | None) -> list[Member]:
    """The members whose parent is ``name``; None gives the root."""
    return [entry for entry in FAMILY.values() if entry.parent == name]
