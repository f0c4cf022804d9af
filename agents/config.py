"""What an agent is made of: one frozen dataclass whose fields are the ideas of the DQN family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AgentConfig:
    """One composable value-based agent. ``agents/family.py`` names the combinations that papers gave a name to.

    Counts carry their unit: a *step* is one decision of the agent in one environment, an *update* one gradient step.
    """

    encoder: Literal["mlp", "minatar", "nature"] = "mlp"
    """How observations become features: none (mlp), one 3x3 convolution of 16 channels (minatar), the three convolutions of
    Mnih et al. 2015 (nature)."""

    hidden: tuple[int, ...] = (128, 128)
    """Width of each fully connected layer between encoder and head. With ``dueling`` the last one is doubled into two streams."""

    double: bool = False
    """Select the bootstrap action with the online network, evaluate it with the target network (van Hasselt et al. 2016)."""

    dueling: bool = False
    """Separate streams for state value and advantages, joined as V + A - mean(A) (Wang et al. 2016, eq. 9)."""

    n_step: int = 1
    """Rewards summed before bootstrapping (Sutton 1988; Hessel et al. 2018, section 3)."""

    gamma: float = 0.99
    """Discount per step."""

    batch_size: int = 64
    """Transitions per update."""

    replay_capacity: int = 50_000
    """Steps kept in the replay memory; the oldest are overwritten."""

    learning_starts_steps: int = 500
    """Steps played at random before the first update."""

    replay_ratio: float = 1.0
    """Updates per step, per seed. 0.25 is one update every four steps."""

    target_period_updates: int = 500
    """Updates between hard copies of the online network into the target network."""

    target_ema_rate: float | None = None
    """Instead of hard copies: the target moves this share of the way to the online network at every update (Lillicrap et al. 2016)."""

    optimiser: Literal["adam", "rmsprop"] = "adam"
    """Adam (Kingma and Ba 2015), or centred RMSProp with the epsilon inside the root, as Mnih et al. 2015 used it."""

    loss: Literal["huber", "mse"] = "huber"
    """Loss of the TD error: Huber, which bounds every error's pull (Mnih et al. 2015 clip it), or the mean square."""

    learning_rate: float = 1e-3
    """Step size of the optimiser."""

    optimiser_eps: float = 1e-8
    """Added to the root of the second moment (adam) or to the variance under the root (rmsprop)."""

    max_grad_norm: float | None = None
    """Rescale the gradient where its global L2 norm is larger; None leaves it as it is."""

    epsilon_start: float = 1.0
    """Probability of a random action in the first step after the warm-up."""

    epsilon_end: float = 0.05
    """Probability of a random action once the decay is over."""

    epsilon_decay_steps: int = 10_000
    """Steps of linear decay, counted from the end of the warm-up."""

    clip_rewards: bool = False
    """Learn from rewards clipped to -1..1 (Mnih et al. 2015). Scores are always real game scores."""

    envs_per_seed: int = 1
    """Environments that one seed plays side by side; together they count as that many steps."""

    def __post_init__(self) -> None:
        positive = (
            "n_step",
            "batch_size",
            "replay_capacity",
            "target_period_updates",
            "learning_rate",
            "envs_per_seed",
            "replay_ratio",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigError(f"agent.{name} must be positive, not {getattr(self, name)}")
        for name in ("gamma", "epsilon_start", "epsilon_end"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"agent.{name} must lie between 0 and 1, not {getattr(self, name)}")
        for name in ("learning_starts_steps", "epsilon_decay_steps", "optimiser_eps"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"agent.{name} must not be negative, not {getattr(self, name)}")
        if self.target_ema_rate is not None and not 0 < self.target_ema_rate <= 1:
            raise ConfigError(f"agent.target_ema_rate must lie between 0 and 1 or be None, not {self.target_ema_rate}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(f"agent.max_grad_norm must be positive or None, not {self.max_grad_norm}")
        if not self.hidden or any(width <= 0 for width in self.hidden):
            raise ConfigError(f"agent.hidden needs at least one positive width, not {self.hidden}")
        if self.replay_capacity // self.envs_per_seed <= self.n_step + 4:
            raise ConfigError(
                f"agent.replay_capacity {self.replay_capacity} is too small for n_step {self.n_step} and a frame stack"
            )

    def epsilon(self, steps: int) -> float:
        """Probability of a random action after ``steps`` steps: 1 during the warm-up, then a linear decay."""
        since = steps - self.learning_starts_steps
        if since < 0:
            return 1.0
        share = min(1.0, since / self.epsilon_decay_steps) if self.epsilon_decay_steps else 1.0
        return self.epsilon_start + share * (self.epsilon_end - self.epsilon_start)


class ConfigError(ValueError):
    """A setting that cannot work; the message is one line that names it."""
