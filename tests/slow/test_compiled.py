"""Every idea compiled, against the eager mode, and continued after kills: up to a minute each where nothing is cached. `make slow`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.compiler import compiled
from agents.config import AgentConfig
from agents.learner import Learner
from agents.networks import QNetwork
from agents.operators import own_products
from runs import schema
from runs.config import RunConfig
from tests.agents.test_learner import AGENTS, losses_of
from tests.agents.test_replay import layout
from tests.slow.test_torture import IQN, MINATAR, RAINBOW, SMALL
from tests.torture import check_books, finish, folders, killed_at_steps, result


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.compiler
@pytest.mark.parametrize("seeds", [(7,), (7, 9)], ids=["one seed", "two seeds"])
@pytest.mark.parametrize("config", AGENTS.values(), ids=AGENTS)
@pytest.mark.parametrize("way", ["cpu", "cuda"])
def test_eager_and_compiled_give_the_same_losses(
    way: str, config: AgentConfig, seeds: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU; ``way`` is how it is compiled."""
    monkeypatch.setattr("agents.learner.compiled", lambda function, device, made_from: compiled(function, torch.device(way)))
    np.testing.assert_allclose(losses_of(config, seeds, compile=True), losses_of(config, seeds), rtol=5e-4)


TILED: dict[str, dict[str, Any]] = {
    "der": {"encoder": "der", "dueling": True, "noisy": True, "head": "c51", "prioritized": True, "envs_per_seed": 2},
    "nature": {"encoder": "nature", "n_step": 3},
}


@pytest.mark.compiler
@pytest.mark.skipif(own_products() is None, reason="this CPU has no bfloat16, or compiled code here no products of its own")
@pytest.mark.parametrize("ideas", TILED.values(), ids=TILED)
@pytest.mark.parametrize("padding", ["zeros", "repeat"])
def test_updates_from_tiles_are_those_from_stacks_bit_for_bit(
    ideas: dict[str, Any], padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AgentConfig(hidden=(32,), batch_size=8, precision="bf16", learning_starts_steps=20, **ideas)
    rules = layout(
        seeds=2, envs_per_seed=config.envs_per_seed, frame_shape=(41, 43), n_step=config.longest_return_steps, stack_padding=padding,
        prioritized=config.prioritized,
    )  # fmt: skip

    def trained() -> list[str]:
        it, random = Learner(config, rules, [3, 2], [4, 5], compile=True), np.random.default_rng(0)
        for step in range(60):
            it.act(random.integers(0, 256, (rules.lanes, *rules.obs_shape), np.uint8))
            if len(it.replay) and step > 20:
                it.update()
            over, cut = random.random((2, rules.lanes)) < 0.1
            final = random.integers(0, 256, (rules.lanes, *rules.obs_shape), np.uint8)
            it.record(np.zeros(rules.lanes, np.int64), random.normal(size=rules.lanes), over & ~cut, over | cut, cut, final)
        assert it.updates > 30
        return it.params_sha256()

    tiled = trained()
    monkeypatch.setattr(QNetwork, "tiles", lambda network: None)
    assert trained() == tiled


KINDS: dict[str, dict[str, Any]] = {
    "dqn": {},
    "dqn, 3 seeds": {"seeds": (0, 1, 2)},
    "rainbow": {"agent": "rainbow", "agent_config": RAINBOW},
    "rainbow, 2 seeds": {"agent": "rainbow", "agent_config": RAINBOW, "seeds": (0, 1)},
    "iqn on Acrobot, 2 seeds of 2 envs": {"agent": "iqn", "env": "Acrobot-v1", "agent_config": IQN, "seeds": (0, 1)},
    "dqn on MinAtar": {"env": "MinAtar/Asterix-v1", "agent_config": MINATAR},
}


@pytest.mark.compiler
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_compiled_run_that_was_killed_and_continued_is_the_run_that_would_have_been(
    kind: dict[str, Any], tmp_path: Path
) -> None:
    values: dict[str, Any] = {
        "agent": "dqn", "env": "CartPole-v1", "agent_config": SMALL, "seeds": (0,), "budget": "3k-steps", "evals": 2,
        "eval_episodes": 2, "out": str(tmp_path / "whole"), "device": "cpu", "compile": "on", "threads": 1, "heartbeat_s": 0.05,
        "checkpoint_every": "200-steps",
    }  # fmt: skip
    config, said = RunConfig(**(values | kind)), tmp_path / "said"
    finish(config, said)
    whole = folders(config)
    cut = killed_at_steps(replace(config, out=str(tmp_path / "cut")), said, [730, 1411, 2604])
    for folder, uninterrupted in zip(cut, whole, strict=True):
        assert schema.read_run(folder).run_config["compiled"] is True
        assert result(folder) == result(uninterrupted)
        check_books(folder)
        continued = re.findall(r"continued at step ([\d,]+)", " ".join(schema.read_ledger(folder)[-1].notes))
        assert len(continued) == 3
        assert "0" not in continued, "a checkpoint is whole before the next one begins"
    assert "Traceback" not in said.read_text()
