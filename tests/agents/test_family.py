"""The family tree: parents, visible differences, and the settings that the papers give."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest

from agents.config import AgentConfig, ConfigError
from agents.family import DOMAINS, FAMILY, UnknownAgent, agent_config, children, differences, member


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
    assert ideas == {"dqn": (False, False), "double": (True, False), "dueling": (True, True)}


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
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"agent.{setting}"):
        AgentConfig(**{setting: value})  # type: ignore[arg-type]
