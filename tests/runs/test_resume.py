"""Interrupted and continued equals uninterrupted, bit for bit; what was spent is never forgotten."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from agents.baselines import baseline_config
from agents.config import AgentConfig
from agents.family import agent_config
from runs import schema
from runs.budget import parse_budget
from runs.config import InputError, RunConfig
from runs.train import Outcome, Progress, train

SMALL = AgentConfig(hidden=(16,), batch_size=8, learning_starts_steps=50, epsilon_decay_steps=200, replay_capacity=150)
RAINBOW = replace(
    SMALL, head="c51", num_atoms=11, v_max=50.0, double=True, dueling=True, noisy=True, prioritized=True, n_step=3,
    priority_uniform_share=0.1, target_ema_rate=0.05,
)  # fmt: skip
IQN = replace(SMALL, head="iqn", num_tau=4, num_tau_target=4, num_tau_act=4, tau_cosines=4, munchausen=True, envs_per_seed=2)
MINATAR = replace(SMALL, encoder="minatar", replay_ratio=0.25, n_step=2)
ATARI = replace(
    agent_config("dqn", "atari"), hidden=(8,), batch_size=4, learning_starts_steps=40, replay_capacity=120, replay_ratio=0.1
)
QR = replace(SMALL, head="qr", num_quantiles=5, optimiser="rmsprop", replay_ratio=0.5)


def config(out: Path, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "agent": "dqn", "env": "CartPole-v1", "agent_config": SMALL, "seeds": (0,), "budget": "400-steps", "evals": 4,
        "eval_episodes": 2, "out": str(out), "device": "cpu", "compile": "off", "threads": 1, "heartbeat_s": 0.02,
        "checkpoint_every": "70-steps",
    }  # fmt: skip
    return RunConfig(**(values | changes))


class Killed(BaseException):
    """Stands in for a kill: nothing that the trainer does to end cleanly may run to its end."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The process is gone at this step: no last ledger line, no last checkpoint, files as they lie on the disk."""
    from runs.loop import Books

    stepped = Books.stepped

    def dies(self: Books, *arguments: Any) -> Any:
        if self.counters.steps >= step:
            raise Killed
        return stepped(self, *arguments)

    monkeypatch.setattr(Books, "stepped", dies)
    monkeypatch.setattr("runs.train.Group._fail", lambda self: None)


def interrupt_at(step: int, number: int = signal.SIGTERM) -> Callable[[Progress], None]:
    asked = []

    def listener(progress: Progress) -> None:
        if progress.steps >= step and not asked:
            asked.append(os.kill(os.getpid(), number))

    return listener


def result(folder: Path) -> dict[str, Any]:
    """All that must not depend on interruptions."""
    line = schema.read_ledger(folder)[-1]
    episodes = pl.read_csv(folder / schema.MONITOR_FILE, comment_prefix="#").drop("t")
    evals = [(e.steps, e.frames, e.updates, e.epsilon, e.returns, e.lengths) for e in schema.read_evals(folder)]
    return {
        "status": line.status, "lineage": line.lineage, "sha": line.params_sha256, "evals": evals, "episodes": episodes.rows(),
    }  # fmt: skip


def last(outcome: Outcome) -> schema.LedgerLine:
    return schema.read_ledger(outcome.folder)[-1]


KINDS: dict[str, dict[str, Any]] = {
    "dqn, 2 seeds": {"seeds": (0, 3)},
    "rainbow": {"agent": "rainbow", "agent_config": RAINBOW},
    "iqn, 2 seeds of 2 envs": {"agent": "iqn", "agent_config": IQN, "seeds": (0, 1)},
    "Acrobot": {"env": "Acrobot-v1", "agent_config": QR},
    "MountainCar": {"env": "MountainCar-v0", "agent_config": QR, "seeds": (1, 2)},
    "LunarLander": {"env": "LunarLander-v3", "agent_config": QR},
    "MinAtar": {"env": "MinAtar/Seaquest-v1", "agent_config": MINATAR},
    "Atari": {"env": "ALE/Breakout-v5", "agent_config": ATARI, "budget": "150-steps", "evals": 2, "eval_episodes": 1},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_run_that_was_killed_and_continued_is_the_run_that_would_have_been(
    kind: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the midst of it; continued and asked to stop by a signal; continued to its end."""
    monkeypatch.setattr("envs.world.World.reseed_steps", 90)
    monkeypatch.setattr("runs.evaluate.MAX_ATARI_LANES", 1)
    whole = train(config(tmp_path / "whole", **kind))
    steps = int(parse_budget(kind.get("budget", "400-steps")).amount)
    with monkeypatch.context() as killed:
        kill_at(killed, steps // 2)
        with pytest.raises(Killed):
            train(config(tmp_path / "cut", **kind))
    again = config(tmp_path / "cut", resume=True, **kind)
    parts = train(again, interrupt_at(int(0.6 * steps)))
    assert {part.status for part in parts} == {"interrupted"}
    parts = train(again)
    for uninterrupted, part in zip(whole, parts, strict=True):
        assert result(part.folder) == result(uninterrupted.folder)
        assert part.eval_scores == uninterrupted.eval_scores
        assert last(part).consumed.steps > last(part).lineage.steps == last(uninterrupted).consumed.steps
        assert not list((part.folder / "checkpoints").glob("re*")), "a finished run needs no checkpoints"
        assert not (part.folder / "lock").exists()
