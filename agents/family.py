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
    sources: dict[str, str] = field(default_factory=dict)
    """Where the settings of a domain come from, beside the paper."""
    deviations: tuple[str, ...] = ()
    """Where this deliberately is not what the paper did, and why."""


_DQN = Member(
    name="dqn",
    parent=None,
    paper="Mnih et al. 2015, Human-level control through deep reinforcement learning, Nature 518:529",
    idea="Q-learning with a replay memory and a target network.",
    by_domain={
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
    sources={
        "classic": "found here on CartPole-v1 (docs/measurements.md), not published",
        "minatar": "Ceron and Castro 2021 (revisiting_rainbow, Configs), with the fully connected layer of Young and Tian 2019",
        "atari": "dqn_zoo, dqn/run_atari.py: 40,000 frames between target copies are 2,500 updates",
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
    by_domain={"atari": {"target_period_updates": 7_500, "epsilon_end": 0.01}},
    sources={"atari": "dqn_zoo, double_q/run_atari.py: the paper's tuned version, target copies every 30,000 steps"},
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

_PRIORITIZED = Member(
    name="prioritized",
    parent="double",
    paper="Schaul, Quan, Antonoglou and Silver 2016, Prioritized experience replay, arXiv 1511.05952",
    idea="Transitions are sampled in proportion to their last TD error; importance weights make up for it.",
    changes={"prioritized": True, "priority_exponent": 0.6, "priority_uniform_share": 1e-3},
    by_domain={
        "classic": {"importance_anneal_steps": 50_000},
        "minatar": {"importance_anneal_steps": 1_000_000},
        "atari": {
            "learning_rate": 2.5e-4 / 4,
            "optimiser_eps": 0.01 / 32**2 / 4**2,
            "importance_anneal_steps": 50_000_000,
        },
    },
    sources={
        "atari": "dqn_zoo, prioritized/run_atari.py: a quarter of the learning rate, and the epsilon under the root with it"
    },
    deviations=(
        "The priority is |TD error|, one transition in a thousand is drawn uniformly (dqn_zoo); the paper adds a constant instead.",
        "Outside Atari the learning rate is not divided by four.",
    ),
)

_N_STEP = Member(
    name="n-step",
    parent="dqn",
    paper="Sutton 1988, Learning to predict by the methods of temporal differences; as in Hessel et al. 2018, arXiv 1710.02298",
    idea="Three rewards are summed before bootstrapping.",
    changes={"n_step": 3},
    deviations=("The return is not corrected for being off-policy, as in Rainbow.",),
)

_NOISY = Member(
    name="noisy",
    parent="dqn",
    paper="Fortunato et al. 2018, Noisy networks for exploration, arXiv 1706.10295",
    idea="Learned noise on the weights of the fully connected layers explores, instead of epsilon.",
    changes={"noisy": True, "noisy_sigma": 0.5, "epsilon_start": 0.0, "epsilon_end": 0.0, "epsilon_decay_steps": 0},
    deviations=("The noise is drawn for every step; the paper draws it after every update.",),
)

_C51 = Member(
    name="c51",
    parent="dqn",
    paper="Bellemare, Dabney and Munos 2017, A distributional perspective on reinforcement learning, arXiv 1707.06887",
    idea="A histogram of the return is learned instead of its mean.",
    changes={"head": "c51"},
    by_domain={
        "classic": {"num_atoms": 51, "v_min": -200.0, "v_max": 200.0},
        "minatar": {"num_atoms": 51, "v_min": -100.0, "v_max": 100.0, "learning_rate": 1e-4},
        "atari": {
            "num_atoms": 51,
            "v_min": -10.0,
            "v_max": 10.0,
            "optimiser": "adam",
            "optimiser_eps": 0.01 / 32,
            "max_grad_norm": 10.0,
            "epsilon_end": 0.01,
        },
    },
    sources={
        "classic": "support of Ceron and Castro 2021 (revisiting_rainbow, Configs) on CartPole and Acrobot, for all four tasks (there 100 on MountainCar, 300 on LunarLander); the rest is dqn's",
        "minatar": "Ceron and Castro 2021 (revisiting_rainbow, Configs)",
        "atari": "dqn_zoo, c51/run_atari.py",
    },
)

_QRDQN = Member(
    name="qrdqn",
    parent="dqn",
    paper="Dabney, Rowland, Bellemare and Munos 2018, Distributional RL with quantile regression, arXiv 1710.10044",
    idea="Quantiles of the return are learned at fixed midpoints.",
    changes={"head": "qr"},
    by_domain={
        "classic": {"num_quantiles": 51},
        "minatar": {"num_quantiles": 51, "learning_rate": 1e-4},
        "atari": {
            "num_quantiles": 201,
            "optimiser": "adam",
            "learning_rate": 5e-5,
            "optimiser_eps": 0.01 / 32,
            "max_grad_norm": 10.0,
            "epsilon_end": 0.01,
        },
    },
    sources={
        "minatar": "Ceron and Castro 2021 (revisiting_rainbow, Configs)",
        "atari": "dqn_zoo, qrdqn/run_atari.py",
    },
    deviations=("201 quantiles on Atari as in dqn_zoo, so that one is the median; the paper has 200.",),
)

_IQN = Member(
    name="iqn",
    parent="qrdqn",
    paper="Dabney, Ostrovski, Silver and Munos 2018, Implicit quantile networks, arXiv 1806.06923",
    idea="The quantile is an input: any of them can be asked for, and every update draws new ones.",
    changes={"head": "iqn"},
    by_domain={
        "classic": {"num_tau": 8, "num_tau_target": 8, "num_tau_act": 8},
        "minatar": {"num_tau": 8, "num_tau_target": 8, "num_tau_act": 8},
        "atari": {
            "num_tau": 64,
            "num_tau_target": 64,
            "num_tau_act": 64,
            "max_grad_norm": None,
            "learning_starts_steps": 20_000,
        },
    },
    sources={"atari": "dqn_zoo, iqn/run_atari.py: no gradient clipping, learning starts after 2 % of the capacity"},
    deviations=(
        "Evaluations take the mean of evenly spaced quantiles instead of drawn ones, so that they are deterministic.",
        "8 quantiles for an update and for an action outside Atari: the paper's figure 2 finds little to gain beyond in the one, its "
        "section 4 nothing in the other, and the work grows with them.",
    ),
)

_MUNCHAUSEN = Member(
    name="munchausen",
    parent="dqn",
    paper="Vieillard, Pietquin and Geist 2020, Munchausen reinforcement learning, arXiv 2007.14430 (M-DQN)",
    idea="The log-probability of the action taken is added to the reward, and the bootstrap is soft.",
    changes={"munchausen": True},
    by_domain={
        "atari": {
            "optimiser": "adam",
            "learning_rate": 5e-5,
            "optimiser_eps": 3.125e-4,
            "target_period_updates": 2_000,
            "learning_starts_steps": 20_000,
            "epsilon_end": 0.01,
            "epsilon_decay_steps": 250_000,
        },
    },
    sources={"atari": "google-research, munchausen_rl/configs/atari.gin: target copies every 8,000 steps"},
    deviations=(
        "The paper plays with sticky actions and without a signal at life losses: use `--protocol sticky` for that.",
        "Log-policies are clipped to [l0, 0]; the authors' code for M-DQN clips at 1 above, which never binds.",
    ),
)

_MUNCHAUSEN_IQN = Member(
    name="munchausen-iqn",
    parent="iqn",
    paper="Vieillard, Pietquin and Geist 2020, Munchausen reinforcement learning, arXiv 2007.14430 (M-IQN)",
    idea="Munchausen's reward and soft bootstrap with implicit quantiles.",
    changes={"munchausen": True},
    by_domain={
        "atari": {
            "num_tau_act": 32,
            "optimiser_eps": 3.125e-4,
            "target_period_updates": 2_000,
            "epsilon_decay_steps": 250_000,
        },
    },
    sources={"atari": "google-research, munchausen_rl/configs/atari.gin"},
    deviations=("As for munchausen.",),
)

_RAINBOW = Member(
    name="rainbow",
    parent="c51",
    paper="Hessel et al. 2018, Rainbow: combining improvements in deep reinforcement learning, arXiv 1710.02298",
    idea="All six parts: double, dueling, prioritised, three-step returns, histogram, noise instead of epsilon.",
    changes={
        "double": True,
        "dueling": True,
        "prioritized": True,
        "priority_exponent": 0.5,
        "priority_uniform_share": 1e-3,
        "n_step": 3,
        "noisy": True,
        "epsilon_start": 0.0,
        "epsilon_end": 0.0,
        "epsilon_decay_steps": 0,
    },
    by_domain={
        "classic": {"noisy_sigma": 0.5, "importance_anneal_steps": 50_000},
        "minatar": {"noisy_sigma": 0.5, "importance_anneal_steps": 1_000_000},
        "atari": {
            "noisy_sigma": 0.1,
            "learning_rate": 6.25e-5,
            "optimiser_eps": 0.005 / 32,
            "target_period_updates": 2_000,
            "learning_starts_steps": 20_000,
            "importance_anneal_steps": 50_000_000,
        },
    },
    sources={"atari": "dqn_zoo, rainbow/run_atari.py: target copies every 8,000 steps, no epsilon"},
    deviations=(
        "sigma_0 0.1 on Atari as in dqn_zoo; the paper gives 0.5 for noise drawn once a step and shared by the batch.",
        "The priority is the cross-entropy (dqn_zoo); the paper's KL divergence differs by the entropy of the target.",
    ),
)

_DER = Member(
    name="der",
    parent="rainbow",
    paper="van Hasselt, Hessel and Aslanides 2019, When to use parametric models in RL?, arXiv 1906.05243",
    idea="Rainbow for 100,000 steps: an update every step, 20-step returns, a small network.",
    changes={
        "n_step": 20,
        "replay_ratio": 1.0,
        "learning_starts_steps": 1_600,
        "replay_capacity": 100_000,
        "importance_anneal_steps": 98_400,
        "priority_uniform_share": 0.0,
        "learning_rate": 1e-4,
    },
    by_domain={
        "classic": {"learning_starts_steps": 500},
        "minatar": {"noisy_sigma": 0.1},
        "atari": {"encoder": "der", "hidden": (256,), "optimiser_eps": 1.5e-4},
    },
    sources={"atari": "Kaixhin/Rainbow, main.py with the data-efficient options of its README"},
    deviations=(
        "There are three published DERs. This is the one of van Hasselt et al. with the details of Kaixhin's Rainbow (n 20, target "
        "every 2,000 updates, 1e-4, hidden 256, two convolutions); Dopamine's has n 10, the Nature network and an epsilon of 0.01.",
    ),
)

_SPR = Member(
    name="spr",
    parent="der",
    paper="Schwarzer et al. 2021, Data-efficient reinforcement learning with self-predictive representations, arXiv 2007.05929",
    idea="The features of the next five images are predicted as well; two updates a step, ten-step returns, moved images.",
    changes={
        "self_predict": True,
        "augment": True,
        "n_step": 10,
        "replay_ratio": 2.0,
        "learning_starts_steps": 2_000,
        "importance_anneal_steps": 98_000,
        "target_period_updates": 1,
    },
    by_domain={
        "classic": {"self_predict": False, "augment": False},  # there are no images
        "minatar": {"shift_pixels": 1, "intensity_scale": 0.0},  # 10 x 10 planes of zeros and ones
        "atari": {"encoder": "nature", "noisy_sigma": 0.5},
    },
    sources={"atari": "mila-iqia/spr, scripts/run.py with --momentum-tau 1., as its README runs it with augmentation"},
    deviations=(
        "No batch normalisation between the two convolutions of the transition, as in the authors' later code (bigger_better_faster): "
        "no transition's prediction depends on its neighbours in the batch.",
        "One clip at 10 for the gradient of all parameters; the authors clip those of the transition apart, and leave out the predictor's.",
        "A life's last observation is predicted too, which the authors leave out; the next observation is moved once for both networks "
        "of double Q-learning, where the authors draw for each.",
        "On control tasks there are no images to predict: what is left is der with ten-step returns, two updates a step and no target network.",
    ),
)

_SR_SPR = Member(
    name="sr-spr",
    parent="spr",
    paper="D'Oro et al. 2023, Sample-efficient reinforcement learning by breaking the replay ratio barrier, ICLR; resets: Nikishin et "
    "al. 2022, arXiv 2205.07802",
    idea="Eight updates a step, which new weights every 5,000 steps keep from overfitting; acts with a mean of its networks.",
    changes={
        "replay_ratio": 8.0,
        "reset_every_steps": 5_000,
        "reset_keep": 0.8,
        "target_ema_rate": 0.005,
        "act_with_target": True,
        "noisy": False,
        "epsilon_start": 1.0,
        "epsilon_end": 0.0,
        "epsilon_decay_steps": 2_001,
        "importance_exponent_start": 0.5,
        "importance_exponent_end": 0.5,
        "max_grad_norm": None,
    },
    sources={"atari": "google-research, bigger_better_faster/bbf/configs/SR_SPR.gin: without noise, which `hurts performance`"},
    deviations=(
        "The network of spr: two streams of 256 before the output, where the authors' later code has one layer of 512.",
        "The last reset is at step 95,000; in the authors' code, which asks for more steps to recover than are left, near 90,000.",
        "The paper goes up to 16 updates a step.",
        "As for spr: which observations are predicted, how images are moved, and control tasks without images.",
    ),
)

_BBF = Member(
    name="bbf",
    parent="sr-spr",
    paper="Schwarzer et al. 2023, Bigger, better, faster: human-level Atari with human-level efficiency, arXiv 2305.19452",
    idea="A residual network four times as wide with weight decay; after each reset returns begin long and the discount low.",
    changes={
        "replay_ratio": 2.0,
        "reset_every_steps": 20_000,
        "reset_keep": 0.5,
        "n_step": 3,
        "n_step_start": 10,
        "gamma": 0.997,
        "gamma_start": 0.97,
        "weight_decay": 0.1,
    },
    by_domain={"atari": {"encoder": "impala", "encoder_width": 4, "hidden": (1024,)}},
    sources={"atari": "google-research, bigger_better_faster/bbf/configs/BBF.gin: two updates a step"},
    deviations=(
        "Two streams of 1,024 before the output, where the authors' code has one layer of 2,048; its projection and predictor are as wide.",
        "The paper's main results are of eight updates a step: `--agent.replay-ratio 8 --agent.reset-every-steps 5000`.",
        "A return of n steps bootstraps from the observation n steps later; the published code takes the one before "
        "(google-research, issue 1851).",
    ),
)

_DRQ_EPS = Member(
    name="drq_eps",
    parent="dueling",
    paper="Yarats, Kostrikov and Fergus 2021, Image augmentation is all you need, with Agarwal et al. 2021, arXiv 2108.13264",
    idea="Random shifts and brightness of the images of every update, ten-step returns, an update every step.",
    changes={
        "augment": True,
        "n_step": 10,
        "replay_ratio": 1.0,
        "learning_starts_steps": 1_600,
        "replay_capacity": 100_000,
        "target_period_updates": 1,
        "optimiser": "adam",
        "learning_rate": 1e-4,
        "optimiser_eps": 1.5e-4,
        "max_grad_norm": None,
        "epsilon_end": 0.01,
        "epsilon_decay_steps": 5_000,
    },
    by_domain={
        "classic": {"augment": False},  # there are no images
        "minatar": {"shift_pixels": 1, "intensity_scale": 0.0},  # 10 x 10 planes of zeros and ones
    },
    sources={"atari": "Dopamine, labs/atari_100k/configs/DrQ_eps.gin"},
    deviations=(
        "Dopamine's labs/atari_100k/configs/DrQ_eps.gin, not the authors' DrQ: epsilon falls to 0.01 in training.",
        "On control tasks there is nothing to augment: what is left is a ten-step dueling double agent.",
    ),
)

FAMILY: dict[str, Member] = {
    member.name: member
    for member in (
        _DQN,
        _DOUBLE,
        _DUELING,
        _DRQ_EPS,
        _PRIORITIZED,
        _N_STEP,
        _NOISY,
        _C51,
        _RAINBOW,
        _DER,
        _SPR,
        _SR_SPR,
        _BBF,
        _QRDQN,
        _IQN,
        _MUNCHAUSEN_IQN,
        _MUNCHAUSEN,
    )
}


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
    return replace(base, **(entry.changes | entry.by_domain.get(domain, {})))


def lineage(name: str) -> list[Member]:
    """A member, its parent, and so on up to the root. Raises UnknownAgent."""
    entry = member(name)
    return [entry] if entry.parent is None else [entry, *lineage(entry.parent)]


def differences(entry: Member) -> dict[str, dict[str, Any]]:
    """What a member visibly changes: {"all": {...}, "atari": {...}, ...}, without empty groups."""
    groups = {"all": entry.changes} | {domain: entry.by_domain.get(domain, {}) for domain in DOMAINS}
    return {domain: changes for domain, changes in groups.items() if changes}


def children(name: str | None) -> list[Member]:
    """The members whose parent is ``name``; None gives the root."""
    return [entry for entry in FAMILY.values() if entry.parent == name]
