"""The baselines: agents of stable-baselines3 and sb3-contrib, with settings and their sources. ``runs/baselines.py`` trains them.

The field names, and the defaults, are those of the libraries' constructors (2.9.2); what is set for a domain comes from RL Baselines3
Zoo (``hyperparams/{dqn,qrdqn,ppo}.yml``) where it has the domain: for Atari, and for CartPole, whose settings the other control tasks
take too (the zoo tunes each, and normalises what PPO sees on two of them). Standard library only.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agents.config import ConfigError
from agents.family import UnknownAgent

PREFIX = "sb3:"


@dataclass(frozen=True)
class DqnConfig:
    """Settings of ``stable_baselines3.DQN``."""

    policy: Literal["MlpPolicy", "CnnPolicy"] = "MlpPolicy"
    """MlpPolicy flattens what it sees; CnnPolicy is the network of Mnih et al. 2015 and needs images of 36x36 at least."""

    net_arch: tuple[int, ...] | None = None
    """Widths of the fully connected layers; None is the library's choice for the policy."""

    learning_rate: float = 1e-4
    """Step size of Adam."""

    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """linear: falls to 0 over the schedule's steps."""

    buffer_size: int = 1_000_000
    """Steps kept in the replay memory, each with both of its observations."""

    learning_starts: int = 100
    """Steps played at random before the first update."""

    batch_size: int = 32
    """Transitions per update."""

    tau: float = 1.0
    """How far the target moves to the online network at each of its updates; 1 is a copy."""

    gamma: float = 0.99
    """Discount per step."""

    train_freq: int = 4
    """Steps, in each environment, between two phases of learning."""

    gradient_steps: int = 1
    """Updates per phase of learning; -1: as many as steps were played since the last."""

    optimize_memory_usage: bool = False
    """Keep each observation once. The library then takes a time limit for a termination."""

    n_steps: int = 1
    """Rewards summed before bootstrapping."""

    target_update_interval: int = 10_000
    """Steps between updates of the target network."""

    exploration_fraction: float = 0.1
    """Share of the schedule's steps over which epsilon falls."""

    exploration_initial_eps: float = 1.0
    """Probability of a random action at first."""

    exploration_final_eps: float = 0.05
    """Probability of a random action at the end of the fall."""

    max_grad_norm: float | None = 10.0
    """Rescale the gradient where its global L2 norm is larger."""

    n_envs: int = 1
    """Environments played side by side; together they count as that many steps."""

    clip_rewards: bool = False
    """Learn from the sign of the reward, as the library's AtariWrapper does. Scores are always real game scores."""

    schedule_steps: int | None = None
    """Steps over which the schedules run. None: those of the budget; where it does not say, those of the zoo's runs."""

    def __post_init__(self) -> None:
        _check_positive(self, "learning_rate", "buffer_size", "batch_size", "train_freq", "n_steps", "target_update_interval")
        _check_positive(self, "n_envs", "schedule_steps", "max_grad_norm")
        _check_shares(self, "gamma", "tau", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps")
        _check_net_arch(self.net_arch)
        if self.learning_starts < 0:
            raise ConfigError(f"sb3.learning_starts must not be negative, not {self.learning_starts}")
        if self.gradient_steps == 0 or self.gradient_steps < -1:
            raise ConfigError(f"sb3.gradient_steps must be positive or -1, not {self.gradient_steps}")
        if self.buffer_size < 4 * self.n_envs:
            raise ConfigError(f"sb3.buffer_size {self.buffer_size} is too small for {self.n_envs} environments")
        if self.optimize_memory_usage and self.n_steps > 1:
            raise ConfigError("sb3.optimize_memory_usage works with sb3.n_steps 1 only")
        if self.max_grad_norm is None and type(self) is DqnConfig:
            raise ConfigError("sb3.max_grad_norm must be a number: stable_baselines3.DQN always clips")


@dataclass(frozen=True)
class QrdqnConfig(DqnConfig):
    """Settings of ``sb3_contrib.QRDQN``."""

    learning_rate: float = 5e-5
    """Step size of Adam."""

    exploration_fraction: float = 0.005
    """Share of the schedule's steps over which epsilon falls."""

    exploration_final_eps: float = 0.01
    """Probability of a random action at the end of the fall."""

    max_grad_norm: float | None = None
    """Rescale the gradient where its global L2 norm is larger; None leaves it as it is."""

    n_quantiles: int = 200
    """Quantiles of the return."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "n_quantiles")


@dataclass(frozen=True)
class PpoConfig:
    """Settings of ``stable_baselines3.PPO``."""

    policy: Literal["MlpPolicy", "CnnPolicy"] = "MlpPolicy"
    """MlpPolicy flattens what it sees; CnnPolicy is the network of Mnih et al. 2015 and needs images of 36x36 at least."""

    net_arch: tuple[int, ...] | None = None
    """Widths of the fully connected layers, of actor and critic each; None is the library's choice for the policy."""

    learning_rate: float = 3e-4
    """Step size of Adam."""

    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """linear: falls to 0 over the schedule's steps."""

    n_steps: int = 2048
    """Steps in each environment between two phases of learning."""

    batch_size: int = 64
    """Steps per update; a divisor of n_steps x n_envs."""

    n_epochs: int = 10
    """Passes over the steps of a phase."""

    gamma: float = 0.99
    """Discount per step."""

    gae_lambda: float = 0.95
    """Between bootstrapping at once (0) and never (1) in the advantages."""

    clip_range: float = 0.2
    """How far the ratio of new to old policy counts."""

    clip_range_schedule: Literal["constant", "linear"] = "constant"
    """linear: falls to 0 over the schedule's steps."""

    clip_range_vf: float | None = None
    """The same for the value function; None does not clip it."""

    normalize_advantage: bool = True
    """Shift and scale the advantages of each update to mean 0 and deviation 1."""

    ent_coef: float = 0.0
    """Weight of the policy's entropy."""

    vf_coef: float = 0.5
    """Weight of the value loss."""

    max_grad_norm: float = 0.5
    """Rescale the gradient where its global L2 norm is larger."""

    target_kl: float | None = None
    """End a phase of learning where the policy moved farther than 1.5 times this."""

    n_envs: int = 1
    """Environments played side by side; together they count as that many steps."""

    clip_rewards: bool = False
    """Learn from the sign of the reward, as the library's AtariWrapper does. Scores are always real game scores."""

    schedule_steps: int | None = None
    """Steps over which the schedules run. None: those of the budget; where it does not say, those of the zoo's runs."""

    def __post_init__(self) -> None:
        _check_positive(self, "learning_rate", "n_steps", "n_epochs", "clip_range", "clip_range_vf", "max_grad_norm")
        _check_positive(self, "target_kl", "n_envs", "schedule_steps")
        _check_shares(self, "gamma", "gae_lambda")
        _check_net_arch(self.net_arch)
        if self.batch_size < 2:
            raise ConfigError(f"sb3.batch_size must be at least 2, not {self.batch_size}")
        if (self.n_steps * self.n_envs) % self.batch_size:
            raise ConfigError(
                f"sb3.batch_size {self.batch_size} does not divide sb3.n_steps x sb3.n_envs = {self.n_steps * self.n_envs}"
            )


BaselineConfig = DqnConfig | QrdqnConfig | PpoConfig


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ConfigError(f"sb3.{name} must be positive, not {value}")


def _check_shares(config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"sb3.{name} must lie between 0 and 1, not {getattr(config, name)}")


def _check_net_arch(net_arch: tuple[int, ...] | None) -> None:
    if net_arch is not None and any(width <= 0 for width in net_arch):
        raise ConfigError(f"sb3.net_arch needs positive widths, not {net_arch}")


@dataclass(frozen=True)
class Baseline:
    """One agent of another library."""

    name: str
    paper: str
    implementation: str  # import path of its class
    defaults: BaselineConfig
    by_domain: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, str]  # domain -> where its settings come from
    usual_steps: Mapping[str, int]  # what the schedules run over where the budget does not say
    notes: tuple[str, ...] = field(default=())


# The zoo has no MinAtar, and the library no network for it: NatureCNN does not fit on 10x10 cells.
_NO_ZOO = "the zoo has none: its Atari settings with an MlpPolicy on the flattened grid"
_SHARED_NOTES = (
    "The library's own classes, unchanged. Environments, starts, time limits and life losses are those of the protocol, as for our "
    "agents: no FIRE at a start, 0 to 30 no-ops, a life loss costs no extra no-op step and leaves the frame stack as it is.",
    "Steps after the last phase of learning that the budget has room for are played, and not learned from.",
)

_CLASSIC_VALUE = {
    "net_arch": (256, 256),
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
}

_DQN = Baseline(
    name="sb3:dqn",
    paper="Mnih et al. 2015, Human-level control through deep reinforcement learning, Nature 518:529",
    implementation="stable_baselines3.DQN",
    defaults=DqnConfig(),
    by_domain={
        "classic": _CLASSIC_VALUE,
        "minatar": {
            "buffer_size": 100_000,
            "learning_starts": 1_000,
            "target_update_interval": 1_000,
            "exploration_final_eps": 0.01,
        },
        "atari": {
            "policy": "CnnPolicy",
            "buffer_size": 100_000,
            "learning_starts": 100_000,
            "target_update_interval": 1_000,
            "exploration_final_eps": 0.01,
            "clip_rewards": True,
        },
    },
    sources={
        "classic": "zoo, dqn.yml CartPole-v1, for all four tasks",
        "minatar": f"{_NO_ZOO}, a warm-up of 1,000 steps",
        "atari": "zoo, dqn.yml atari",
    },
    usual_steps={"classic": 50_000, "minatar": 5_000_000, "atari": 10_000_000},
    notes=_SHARED_NOTES,
)

_QRDQN = Baseline(
    name="sb3:qrdqn",
    paper="Dabney et al. 2018, Distributional reinforcement learning with quantile regression, arXiv 1710.10044",
    implementation="sb3_contrib.QRDQN",
    defaults=QrdqnConfig(),
    by_domain={
        "classic": {**_CLASSIC_VALUE, "n_quantiles": 10},
        "minatar": {"buffer_size": 100_000, "learning_starts": 1_000, "target_update_interval": 1_000},
        "atari": {"policy": "CnnPolicy", "buffer_size": 100_000, "exploration_fraction": 0.025, "clip_rewards": True},
    },
    sources={
        "classic": "zoo, qrdqn.yml CartPole-v1, for all four tasks",
        "minatar": f"{_NO_ZOO}, a warm-up of 1,000 steps, a target copy every 1,000",
        "atari": "zoo, qrdqn.yml atari, but a replay of 100,000 steps (5.6 GB) where the library's default needs 56 GB",
    },
    usual_steps={"classic": 50_000, "minatar": 5_000_000, "atari": 10_000_000},
    notes=_SHARED_NOTES,
)

_PPO_ATARI = {
    "n_envs": 8,
    "n_steps": 128,
    "n_epochs": 4,
    "batch_size": 256,
    "learning_rate": 2.5e-4,
    "learning_rate_schedule": "linear",
    "clip_range": 0.1,
    "clip_range_schedule": "linear",
    "ent_coef": 0.01,
}

_PPO = Baseline(
    name="sb3:ppo",
    paper="Schulman et al. 2017, Proximal policy optimization algorithms, arXiv 1707.06347",
    implementation="stable_baselines3.PPO",
    defaults=PpoConfig(),
    by_domain={
        "classic": {
            "n_envs": 8,
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "learning_rate": 1e-3,
            "learning_rate_schedule": "linear",
            "clip_range_schedule": "linear",
        },
        "minatar": _PPO_ATARI,
        "atari": {**_PPO_ATARI, "policy": "CnnPolicy", "clip_rewards": True},
    },
    sources={"classic": "zoo, ppo.yml CartPole-v1, for all four tasks", "minatar": _NO_ZOO, "atari": "zoo, ppo.yml atari"},
    usual_steps={"classic": 100_000, "minatar": 5_000_000, "atari": 10_000_000},
    notes=(
        *_SHARED_NOTES,
        "Evaluated with the most probable action; the library's training counts epochs, we count gradient steps.",
    ),
)

BASELINES: dict[str, Baseline] = {entry.name: entry for entry in (_DQN, _QRDQN, _PPO)}


def is_baseline(name: str) -> bool:
    """Whether a name asks for an agent of another library."""
    return name.lower().startswith(PREFIX)


def baseline(name: str) -> Baseline:
    """The entry of a named baseline. Raises UnknownAgent."""
    if name not in BASELINES:
        near = difflib.get_close_matches(name.lower(), BASELINES, n=2, cutoff=0.7) or list(BASELINES)
        raise UnknownAgent(f"unknown agent {name!r}: did you mean {' or '.join(near)}? `playmeter agents` lists them all")
    return BASELINES[name]


def baseline_config(name: str, domain: str) -> BaselineConfig:
    """The settings of a named baseline in a domain. Raises UnknownAgent."""
    entry = baseline(name)
    return replace(entry.defaults, **entry.by_domain[domain])
