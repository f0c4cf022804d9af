"""What an agent is made of: one frozen dataclass whose fields are the ideas of the DQN family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MIN_OPTIMISER_EPS = 1e-16
"""On a CPU a square may be taken for zero from 1e-38 on (``runs.prepare.flush_denormals``), and its root divides a mean of up to 1e-18."""


@dataclass(frozen=True)
class AgentConfig:
    """One composable value-based agent. ``agents/family.py`` names the combinations that papers gave a name to.

    Counts carry their unit: a *step* is one decision of the agent in one environment, an *update* one gradient step.
    """

    encoder: Literal["mlp", "minatar", "nature", "der", "impala"] = "mlp"
    """How observations become features: none (mlp), one 3x3 convolution of 16 channels (minatar), the three convolutions of
    Mnih et al. 2015 (nature), the two coarse ones of Data-Efficient Rainbow (der), fifteen with residuals (impala: Espeholt et al. 2018)."""

    encoder_width: int = 1
    """impala: its stages have 16, 32 and 32 channels times this."""

    hidden: tuple[int, ...] = (128, 128)
    """Width of each fully connected layer between encoder and head. With ``dueling`` the last one is doubled into two streams."""

    head: Literal["scalar", "c51", "qr", "iqn"] = "scalar"
    """What is learned of the return: its mean (scalar), a histogram (c51: Bellemare et al. 2017), a fixed set of quantiles (qr:
    Dabney et al. 2018b), or any quantile (iqn: Dabney et al. 2018a)."""

    num_atoms: int = 51
    """c51: bars of the histogram."""

    v_min: float = -10.0
    """c51: return at the lowest atom."""

    v_max: float = 10.0
    """c51: return at the highest atom."""

    num_quantiles: int = 200
    """qr: quantiles, at the midpoints (2i - 1) / 2N."""

    num_tau: int = 64
    """iqn: quantiles drawn for the prediction, N in the paper."""

    num_tau_target: int = 64
    """iqn: quantiles drawn for the target, N' in the paper."""

    num_tau_act: int = 64
    """iqn: quantiles whose mean is the value of an action, K in the paper."""

    tau_cosines: int = 64
    """iqn: cosines that a quantile is embedded in, n in the paper's eq. 4."""

    double: bool = False
    """Select the bootstrap action with the online network, evaluate it with the target network (van Hasselt et al. 2016)."""

    dueling: bool = False
    """Separate streams for state value and advantages, joined as V + A - mean(A) (Wang et al. 2016, eq. 9)."""

    noisy: bool = False
    """Learned factorised Gaussian noise on the weights of the fully connected layers (Fortunato et al. 2018). It is drawn anew for
    every step and every network of an update, and is off in evaluations."""

    noisy_sigma: float = 0.5
    """noisy: initial standard deviation of a weight times the root of its layer's inputs, sigma_0 in the paper."""

    prioritized: bool = False
    """Sample transitions in proportion to a power of their last loss (Schaul et al. 2016)."""

    priority_exponent: float = 0.5
    """prioritized: 0 is uniform, 1 proportional; alpha in the paper."""

    priority_uniform_share: float = 0.0
    """prioritized: share of the samples that is drawn uniformly all the same, so that nothing is forgotten."""

    importance_exponent_start: float = 0.4
    """prioritized: how much the importance weights correct at first; beta in the paper."""

    importance_exponent_end: float = 1.0
    """prioritized: and at the end."""

    importance_anneal_steps: int = 100_000
    """prioritized: steps of linear change between the two, counted from the end of the warm-up."""

    munchausen: bool = False
    """Add the scaled log-policy to the reward and bootstrap softly (Vieillard et al. 2020). Takes the place of the maximum."""

    munchausen_alpha: float = 0.9
    """munchausen: weight of the log-policy in the reward."""

    munchausen_temperature: float = 0.03
    """munchausen: temperature of the softmax policy, tau in the paper."""

    munchausen_clip: float = -1.0
    """munchausen: the scaled log-policy is clipped from below here, l_0 in the paper."""

    augment: bool = False
    """Shift and brighten the images of every update at random (Yarats et al. 2021)."""

    shift_pixels: int = 4
    """augment: the largest shift, in pixels; the border is repeated."""

    intensity_scale: float = 0.05
    """augment: standard deviation of the factor on the brightness, cut at two of them."""

    self_predict: bool = False
    """Predict from the features of an image and the actions taken what the target network sees in the images that follow, as a second
    loss (Schwarzer et al. 2021). The features of every image are scaled to 0..1."""

    self_predict_steps: int = 5
    """self_predict: how many steps ahead, K in the paper."""

    self_predict_weight: float = 5.0
    """self_predict: weight of the squared distance between prediction and image, both of length 1, averaged over the steps. 5 is the
    paper's 2 for the sum of cosine similarities over 5 steps."""

    n_step: int = 1
    """Rewards summed before bootstrapping (Sutton 1988; Hessel et al. 2018, section 3)."""

    n_step_start: int | None = None
    """Begin with so many, and come down to ``n_step`` exponentially over ``anneal_updates`` updates, after each reset anew (Schwarzer et
    al. 2023). None: ``n_step`` from the start."""

    gamma: float = 0.99
    """Discount per step."""

    gamma_start: float | None = None
    """Begin with this discount and come to ``gamma``, the distance to 1 exponentially, as ``n_step_start`` does. None: ``gamma`` from
    the start."""

    anneal_updates: int = 10_000
    """n_step_start, gamma_start: updates until the end of both is reached."""

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

    act_with_target: bool = False
    """Act and be evaluated with the target network, which with ``target_ema_rate`` is a mean of many networks (D'Oro et al. 2023)."""

    reset_every_steps: int | None = None
    """Every so many steps go on with new weights: those of the convolutions and of ``self_predict``'s transition are mixed with fresh
    ones, all others are fresh ones (with mlp: all), the target network's with numbers of its own, and what the optimiser knows is forgotten.
    The replay stays (Nikishin et al. 2022). A training should not end soon after a reset. None: never."""

    reset_keep: float = 0.8
    """reset_every_steps: share of the old weight in a mixture (D'Oro et al. 2023)."""

    optimiser: Literal["adam", "rmsprop"] = "adam"
    """Adam (Kingma and Ba 2015), or centred RMSProp with the epsilon inside the root, as Mnih et al. 2015 used it."""

    loss: Literal["huber", "mse"] = "huber"
    """head scalar: Huber, which bounds every TD error's pull (Mnih et al. 2015 clip it), or the square. The other heads have losses
    of their own: cross-entropy (c51), quantile Huber with threshold 1 (qr, iqn)."""

    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """tf32: a GPU (from NVIDIA's Ampere on) may round the factors of products to 10 bits, acting included. bf16: updates compute
    convolutions and hidden layers in bfloat16 with float32 sums. Parameters, output layer, targets and losses stay float32, and so does
    acting, except that on a CPU it reads the weights of large hidden layers rounded, and computes these layers in bfloat16 where
    they have several rows: several environments a seed, or iqn. For GPUs, and CPUs with bfloat16 instructions (AVX512-BF16, AMX).
    On CartPole agents end lower than in float32, on Atari no difference was seen: docs/measurements.md."""

    learning_rate: float = 1e-3
    """Step size of the optimiser."""

    optimiser_eps: float = 1e-8
    """Added to the root of the second moment (adam) or to the variance under the root (rmsprop)."""

    weight_decay: float = 0.0
    """adam: every update takes this share, times the learning rate, off every weight, but not off biases (AdamW: Loshchilov and Hutter
    2019)."""

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
            "num_quantiles",
            "num_tau",
            "num_tau_target",
            "num_tau_act",
            "tau_cosines",
            "munchausen_temperature",
            "noisy_sigma",
            "self_predict_steps",
            "self_predict_weight",
            "encoder_width",
            "anneal_updates",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigError(f"agent.{name} must be positive, not {getattr(self, name)}")
        shares = ("gamma", "epsilon_start", "epsilon_end", "priority_uniform_share", "munchausen_alpha", "reset_keep")
        exponents = ("priority_exponent", "importance_exponent_start", "importance_exponent_end")
        for name in (*shares, *exponents):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"agent.{name} must lie between 0 and 1, not {getattr(self, name)}")
        not_negative = (
            "learning_starts_steps",
            "epsilon_decay_steps",
            "importance_anneal_steps",
            "shift_pixels",
            "intensity_scale",
            "weight_decay",
        )
        for name in not_negative:
            if not getattr(self, name) >= 0:
                raise ConfigError(f"agent.{name} must not be negative, not {getattr(self, name)}")
        if not self.optimiser_eps >= MIN_OPTIMISER_EPS:
            raise ConfigError(f"agent.optimiser_eps must be at least {MIN_OPTIMISER_EPS:g}, not {self.optimiser_eps}")
        if self.target_ema_rate is not None and not 0 < self.target_ema_rate <= 1:
            raise ConfigError(f"agent.target_ema_rate must lie between 0 and 1 or be None, not {self.target_ema_rate}")
        if self.n_step_start is not None and not self.n_step_start > 0:
            raise ConfigError(f"agent.n_step_start must be positive or None, not {self.n_step_start}")
        if self.gamma_start is not None and not 0 <= self.gamma_start < 1:
            raise ConfigError(f"agent.gamma_start must be at least 0 and less than 1 or None, not {self.gamma_start}")
        if self.gamma_start is not None and self.gamma == 1:
            raise ConfigError(
                "agent.gamma_start comes to agent.gamma by its distance to 1, which must not be 0: set --agent.gamma"
            )
        if self.weight_decay and self.optimiser != "adam":
            raise ConfigError(
                f"agent.weight_decay is adam's, and agent.optimiser is {self.optimiser}: set --agent.optimiser adam"
            )
        if self.reset_every_steps is not None and not self.reset_every_steps > 0:
            raise ConfigError(f"agent.reset_every_steps must be positive or None, not {self.reset_every_steps}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(f"agent.max_grad_norm must be positive or None, not {self.max_grad_norm}")
        if not self.hidden or any(width <= 0 for width in self.hidden):
            raise ConfigError(f"agent.hidden needs at least one positive width, not {self.hidden}")
        if self.replay_capacity // self.envs_per_seed <= self.ahead_steps + 4:
            raise ConfigError(
                f"agent.replay_capacity {self.replay_capacity} is too small for the {self.ahead_steps} steps that an update looks ahead "
                "(n_step, n_step_start, self_predict_steps) and a frame stack"
            )

        self._check_ideas()

    def _check_ideas(self) -> None:
        """Refuse ideas that contradict each other."""
        if self.num_atoms < 2:
            raise ConfigError(f"agent.num_atoms must be at least 2, not {self.num_atoms}")
        if not self.v_min < self.v_max:
            raise ConfigError(f"agent.v_min must be less than agent.v_max, not {self.v_min} and {self.v_max}")
        if self.munchausen_clip > 0:
            raise ConfigError(f"agent.munchausen_clip must not be positive, not {self.munchausen_clip}")
        if self.munchausen and self.double:
            raise ConfigError(
                "agent.munchausen takes the expectation over the policy, so there is no best action for agent.double to choose: "
                "set --agent.no-double"
            )
        if self.augment and self.encoder == "mlp":
            raise ConfigError("agent.augment shifts images, and agent.encoder mlp reads vectors: set --agent.no-augment")

        if self.self_predict and self.encoder == "mlp":
            raise ConfigError(
                "agent.self_predict predicts the features of images, and agent.encoder mlp reads vectors: set --agent.no-self-predict"
            )

    @property
    def predicted_steps(self) -> int:
        """Observations after its first that a transition comes with."""
        return self.self_predict_steps if self.self_predict else 0

    @property
    def ahead_steps(self) -> int:
        """Steps that an update looks at, from a transition's first on."""
        return max(self.longest_return_steps, self.predicted_steps)

    @property
    def longest_return_steps(self) -> int:
        """The most rewards that are ever summed before bootstrapping."""
        return max(self.n_step, self.n_step_start or 0)

    @property
    def anneals_returns(self) -> bool:
        """Whether n and the discount of the returns change."""
        return self.n_step_start is not None or self.gamma_start is not None

    def returns(self, updates: int) -> tuple[int, float]:
        """n and discount of the returns ``updates`` updates after the start or the last reset."""
        left = max(0.0, 1 - updates / self.anneal_updates)
        n = self.n_step * ((self.n_step_start or self.n_step) / self.n_step) ** left
        start = self.gamma if self.gamma_start is None else self.gamma_start
        away = (1 - self.gamma) * ((1 - start) / (1 - self.gamma)) ** left if start != self.gamma else 1 - self.gamma
        return round(n), 1 - away

    def epsilon(self, steps: int) -> float:
        """Probability of a random action after ``steps`` steps: 1 during the warm-up, then a linear decay."""
        if steps < self.learning_starts_steps:
            return 1.0
        return self._anneal(steps, self.epsilon_start, self.epsilon_end, self.epsilon_decay_steps)

    def importance_exponent(self, steps: int) -> float:
        """Exponent of the importance weights after ``steps`` steps."""
        return self._anneal(steps, self.importance_exponent_start, self.importance_exponent_end, self.importance_anneal_steps)

    def _anneal(self, steps: int, start: float, end: float, duration_steps: int) -> float:
        """Linear between two values, from the end of the warm-up."""
        since = max(0, steps - self.learning_starts_steps)
        share = min(1.0, since / duration_steps) if duration_steps else 1.0
        return start + share * (end - start)


class ConfigError(ValueError):
    """A setting that cannot work; the message is one line that names it."""
