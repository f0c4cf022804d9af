"""The family tree: parents, visible differences, and the settings that the papers give."""

from __future__ import annotations

import itertools
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pytest
import torch

from agents.config import AgentConfig, ConfigError
from agents.family import DOMAINS, FAMILY, UnknownAgent, agent_config, children, differences, member
from agents.learner import Learner
from agents.replay import ReplayLayout


@pytest.mark.parametrize("name", FAMILY)
def test_an_agent_is_its_parent_plus_its_visible_differences(name: str) -> None:
    entry = FAMILY[name]
    for domain in DOMAINS:
        parent = AgentConfig() if entry.parent is None else agent_config(entry.parent, domain)
        own = asdict(agent_config(name, domain))
        changed = {key for key, value in asdict(parent).items() if own[key] != value}
        shown = differences(entry).get("all", {}) | differences(entry).get(domain, {})
        assert changed <= set(shown)
        assert {key: own[key] for key in shown} == shown


def test_every_agent_names_its_paper_and_hangs_on_the_one_root() -> None:
    assert [root.name for root in children(None)] == ["dqn"]
    for entry in FAMILY.values():
        assert any(year in entry.paper for year in map(str, range(2013, 2027)))
        assert entry.parent is None or entry.parent in FAMILY
        assert set(entry.changes) <= {f.name for f in fields(AgentConfig)}


def test_ideas_are_inherited() -> None:
    ideas = {name: (agent_config(name, "atari").double, agent_config(name, "atari").dueling) for name in FAMILY}
    both = {"dueling", "drq_eps", "rainbow", "der", "spr", "sr-spr", "bbf"}
    selects_online = both | {"double", "prioritized"}
    assert ideas == {name: (name in selects_online, name in both) for name in FAMILY}


def test_rainbow_has_all_six_parts_and_noise_instead_of_epsilon() -> None:
    for domain in DOMAINS:
        config = agent_config("rainbow", domain)
        assert config.double
        assert config.dueling
        assert config.prioritized
        assert config.noisy
        assert (config.head, config.n_step) == ("c51", 3)
        warm_up = config.learning_starts_steps
        assert (config.epsilon(warm_up - 1), config.epsilon(warm_up), config.epsilon(10**6)) == (1.0, 0.0, 0.0)


# Of dqn_zoo's run_atari.py files: steps are frames / 4, and updates come every 4 steps.
PUBLISHED_ATARI = {
    "double": {"target_period_updates": 120_000 // 16, "epsilon_end": 0.01},
    "prioritized": {"priority_exponent": 0.6, "learning_rate": 2.5e-4 / 4, "target_period_updates": 120_000 // 16},
    "c51": {
        "num_atoms": 51,
        "v_min": -10,
        "v_max": 10,
        "learning_rate": 2.5e-4,
        "optimiser_eps": 0.01 / 32,
        "max_grad_norm": 10,
    },
    "qrdqn": {"num_quantiles": 201, "learning_rate": 5e-5, "optimiser_eps": 0.01 / 32, "max_grad_norm": 10},
    "iqn": {"num_tau": 64, "num_tau_target": 64, "num_tau_act": 64, "tau_cosines": 64, "learning_starts_steps": 20_000},
    "rainbow": {
        "noisy_sigma": 0.1,
        "priority_exponent": 0.5,
        "importance_exponent_start": 0.4,
        "learning_rate": 6.25e-5,
        "optimiser_eps": 0.005 / 32,
        "target_period_updates": 32_000 // 16,
        "learning_starts_steps": 20_000,
    },
    # munchausen_rl/configs/atari.gin, which counts steps.
    "munchausen": {"learning_rate": 5e-5, "optimiser_eps": 3.125e-4, "target_period_updates": 8_000 // 4},
    "munchausen-iqn": {"num_tau": 64, "num_tau_target": 64, "num_tau_act": 32, "munchausen_alpha": 0.9},
    # Kaixhin/Rainbow with its data-efficient options; Dopamine's DrQ_eps.gin.
    "der": {
        "encoder": "der",
        "hidden": (256,),
        "n_step": 20,
        "replay_ratio": 1,
        "learning_starts_steps": 1_600,
        "target_period_updates": 2_000,
        "learning_rate": 1e-4,
        "optimiser_eps": 1.5e-4,
        "noisy_sigma": 0.1,
        "max_grad_norm": 10,
    },
    # mila-iqia/spr, scripts/run.py with the settings of its README.
    "spr": {
        "encoder": "nature",
        "hidden": (256,),
        "head": "c51",
        "double": True,
        "dueling": True,
        "noisy": True,
        "noisy_sigma": 0.5,
        "n_step": 10,
        "replay_ratio": 2,
        "batch_size": 32,
        "learning_starts_steps": 2_000,
        "target_period_updates": 1,
        "target_ema_rate": None,
        "learning_rate": 1e-4,
        "optimiser_eps": 1.5e-4,
        "max_grad_norm": 10,
        "priority_exponent": 0.5,
        "priority_uniform_share": 0,
        "importance_exponent_start": 0.4,
        "augment": True,
        "shift_pixels": 4,
        "intensity_scale": 0.05,
        "self_predict_steps": 5,
        "self_predict_weight": 5,
        "gamma": 0.99,
    },
    # google-research, bigger_better_faster/bbf/configs/SR_SPR.gin.
    "sr-spr": {
        "encoder": "nature",
        "noisy": False,
        "epsilon_start": 1,
        "epsilon_end": 0,
        "epsilon_decay_steps": 2_001,
        "n_step": 10,
        "replay_ratio": 256 / 32,
        "learning_starts_steps": 2_000,
        "reset_every_steps": 5_000,
        "reset_keep": 0.8,
        "target_ema_rate": 0.005,
        "act_with_target": True,
        "self_predict_steps": 5,
        "self_predict_weight": 5,
        "importance_exponent_start": 0.5,
        "importance_exponent_end": 0.5,
        "max_grad_norm": None,
        "weight_decay": 0,
        "learning_rate": 1e-4,
        "optimiser_eps": 1.5e-4,
    },
    # google-research, bigger_better_faster/bbf/configs/BBF.gin.
    "bbf": {
        "encoder": "impala",
        "encoder_width": 4,
        "hidden": (2_048 // 2,),
        "noisy": False,
        "dueling": True,
        "double": True,
        "n_step": 3,
        "n_step_start": 10,
        "gamma": 0.997,
        "gamma_start": 0.97,
        "anneal_updates": 10_000,
        "replay_ratio": 64 / 32,
        "learning_starts_steps": 2_000,
        "reset_every_steps": 20_000,
        "reset_keep": 0.5,
        "target_ema_rate": 0.005,
        "act_with_target": True,
        "self_predict_steps": 5,
        "self_predict_weight": 5,
        "weight_decay": 0.1,
        "learning_rate": 1e-4,
        "optimiser_eps": 1.5e-4,
    },
    "drq_eps": {
        "encoder": "nature",
        "hidden": (512,),
        "n_step": 10,
        "replay_ratio": 1,
        "learning_starts_steps": 1_600,
        "target_period_updates": 1,
        "epsilon_end": 0.01,
        "epsilon_decay_steps": 5_000,
        "shift_pixels": 4,
        "intensity_scale": 0.05,
        "optimiser": "adam",
        "optimiser_eps": 1.5e-4,
        "max_grad_norm": None,
    },
}


@pytest.mark.parametrize("name", PUBLISHED_ATARI)
def test_the_settings_on_atari_are_the_published_ones(name: str) -> None:
    config = asdict(agent_config(name, "atari"))
    assert {key: config[key] for key in PUBLISHED_ATARI[name]} == PUBLISHED_ATARI[name]


def test_importance_weights_are_whole_at_the_end_of_the_published_training() -> None:
    for name, steps in (("prioritized", 50_000_000), ("rainbow", 50_000_000), ("der", 100_000)):
        config = agent_config(name, "atari")
        assert config.importance_exponent(steps + 50_000) == pytest.approx(1)
        assert config.importance_exponent(steps // 2) == pytest.approx(0.7, abs=0.01)


def test_dqn_on_atari_has_the_settings_of_the_nature_paper() -> None:
    """Mnih et al. 2015, extended data table 1; target copies in steps as dqn_zoo reads it: 10,000 steps are 2,500 updates."""
    config = agent_config("dqn", "atari")
    assert (config.batch_size, config.replay_capacity, config.learning_starts_steps) == (32, 1_000_000, 50_000)
    assert (config.gamma, config.replay_ratio, config.learning_rate) == (0.99, 1 / 4, 2.5e-4)
    assert (config.epsilon(50_000), config.epsilon(1_050_000)) == (1.0, pytest.approx(0.1))
    assert config.target_period_updates / config.replay_ratio == 10_000


def test_an_unknown_agent_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownAgent, match="dueling"):
        member("duelling")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("gamma", 1.5),
        ("n_step", 0),
        ("batch_size", -1),
        ("hidden", ()),
        ("max_grad_norm", 0.0),
        ("replay_capacity", 3),
        ("epsilon_end", -0.1),
        ("optimiser_eps", 0.0),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"agent.{setting}"):
        AgentConfig(**{setting: value})  # type: ignore[arg-type]


IDEAS = ("double", "dueling", "noisy", "prioritized", "munchausen", "augment")


@pytest.mark.parametrize("head", ["scalar", "c51", "qr", "iqn"])
def test_any_combination_of_ideas_learns_or_is_refused_with_the_reason(head: Any) -> None:
    for chosen in itertools.product((False, True), repeat=len(IDEAS)):
        ideas = dict(zip(IDEAS, chosen, strict=True))
        settings = ideas | {"head": head, "encoder": "minatar", "hidden": (4,), "batch_size": 3, "n_step": 2, "shift_pixels": 1}
        sizes = {"num_atoms": 5, "num_quantiles": 3, "num_tau": 2, "num_tau_target": 3, "num_tau_act": 4, "replay_capacity": 16}
        if ideas["munchausen"] and ideas["double"]:
            with pytest.raises(ConfigError, match=r"agent\.munchausen .* --agent\.no-double"):
                AgentConfig(**settings, **sizes)
            continue
        config = AgentConfig(**settings, **sizes, learning_starts_steps=0)
        layout = ReplayLayout(2, 1, 16, (2, 4, 4), False, 1, "zeros", None, 2, 0.99, False, config.prioritized, 0.01)
        learner = Learner(config, layout, 3, (0, 1))
        before = learner.params.clone()
        for _ in range(5):
            learner.act(np.random.default_rng(0).random((2, 2, 4, 4), np.float32))
            learner.record(*np.zeros((2, 2), np.int64), *np.zeros((3, 2), bool), None)
        metrics = learner.update()
        assert torch.isfinite(metrics.loss).all()
        assert torch.isfinite(learner.params).all()
        assert not torch.equal(learner.params, before)
