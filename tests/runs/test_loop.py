"""The loop: the order of one step, what ends a return, and what an evaluation counts."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.baselines import baseline_config
from agents.config import AgentConfig
from agents.family import agent_config
from agents.learner import Learner
from envs import World, make
from runs import schema
from runs.budget import parse_budget
from runs.config import RunConfig
from runs.evaluate import Evaluation, evaluate, played_out
from runs.prepare import replay_layout
from runs.train import train

CLASSIC = AgentConfig(hidden=(8,), batch_size=4, learning_starts_steps=3, epsilon_decay_steps=0, replay_capacity=1000)
ATARI = replace(agent_config("dqn", "atari"), hidden=(8,), batch_size=4, learning_starts_steps=3, replay_capacity=1000)


def run(out: Path, env: str, settings: Any, budget: str, **changes: Any) -> Path:
    config = RunConfig("dqn", env, settings, (0,), budget, evals=1, eval_episodes=1, out=str(out), device="cpu", compile="off",
                       threads=1)  # fmt: skip
    return train(replace(config, **changes))[0].folder


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Learner and world write down every call of theirs, in order; evaluation worlds do not."""
    written: list[str] = []

    def tap(owner: type, name: str, label: str) -> None:
        call = getattr(owner, name)

        def taped(self: Any, *arguments: Any) -> Any:
            if not getattr(self, "evaluation", False):
                written.append(label)
            return call(self, *arguments)

        monkeypatch.setattr(owner, name, taped)

    for name in ("act", "update", "act_and_update", "record"):
        tap(Learner, name, name)
    tap(World, "send", "send")
    tap(World, "recv", "recv")
    return written


def test_control_acts_and_learns_in_one_call(tape: list[str], tmp_path: Path) -> None:
    run(tmp_path, "CartPole-v1", CLASSIC, "6-steps")
    assert tape == ["act", "send", "recv", "record"] * 4 + ["act_and_update", "send", "recv", "record"] * 2


def test_atari_learns_while_the_emulator_works(tape: list[str], tmp_path: Path) -> None:
    """One update per four steps, between sending the action and taking the answer."""
    run(tmp_path, "ALE/Breakout-v5", ATARI, "12-steps")
    step, learning = ["act", "send", "recv", "record"], ["act", "send", "update", "recv", "record"]
    assert tape == step * 7 + learning + step * 3 + learning


@pytest.mark.parametrize(("protocol", "ends"), [("nature", True), ("atari100k", True), ("sticky", False)])
def test_a_life_loss_ends_the_return_where_the_protocol_says_so(
    protocol: str, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    record = Learner.record

    def spy(self: Learner, action: Any, reward: Any, terminal: Any, done: Any, *rest: Any) -> None:
        seen.append((bool(terminal[0]), bool(done[0])))
        record(self, action, reward, terminal, done, *rest)

    def no_games(*_: Any) -> Generator[Evaluation, None, Evaluation]:
        yield from ()
        return Evaluation([[0.0]], [[1]], 0.0, np.zeros(1, np.int64), np.zeros(1, np.int64), 0, complete=True)

    monkeypatch.setattr("runs.loop.evaluate", no_games)
    monkeypatch.setattr(Learner, "record", spy)
    random_play = replace(ATARI, learning_starts_steps=599, epsilon_end=1.0)
    folder = run(tmp_path, "ALE/Breakout-v5", random_play, "2400-frames", protocol=protocol)
    games_over = sum(done for _, done in seen)
    lives_lost = sum(terminal and not done for terminal, done in seen)
    assert games_over == schema.read_ledger(folder)[-1].lineage.episodes >= 1
    assert all(terminal for terminal, done in seen if done)
    if ends:
        assert lives_lost >= 4 * games_over, "Breakout has five lives: four end a return within a game"
    else:
        assert lives_lost == 0


def test_an_evaluation_plays_the_same_number_of_games_in_every_lane_and_changes_nothing(tmp_path: Path) -> None:
    world = make("CartPole-v1", 2, [0, 1])
    learner = Learner(CLASSIC, replay_layout(CLASSIC, world, (5, 6), parse_budget("100-steps")), 2, (5, 6))
    before = learner.params_sha256()
    first = played_out(evaluate(learner, ["CartPole-v1"] * 2, "control", 7, 1))
    again = played_out(evaluate(learner, ["CartPole-v1"] * 2, "control", 7, 1))
    other = played_out(evaluate(learner, ["CartPole-v1"] * 2, "control", 7, 2))
    assert [len(games) for games in first.returns] == [7, 7]
    assert first.returns == again.returns, "seed and number of the evaluation decide its games"
    assert first.returns != other.returns
    assert first.returns == first.lengths, "CartPole pays 1 a step"
    steps = max(max(lengths) for lengths in first.lengths)
    assert first.frames.tolist() == [7 * steps, 7 * steps], "every emulated frame is booked"
    assert learner.params_sha256() == before
    assert (learner.steps, len(learner.replay)) == (0, 0)


def test_a_game_that_a_policy_never_ends_counts_as_far_as_it_got(monkeypatch: pytest.MonkeyPatch) -> None:
    """A greedy policy may sit at the surface in MinAtar's Seaquest for ever; an evaluation has to come to its end."""
    monkeypatch.setattr("runs.evaluate.MOST_GAME_STEPS", 6)
    world = make("CartPole-v1", 1, [0])
    learner = Learner(CLASSIC, replay_layout(CLASSIC, world, (5,), parse_budget("100-steps")), 2, (5,))
    evaluation = played_out(evaluate(learner, ["CartPole-v1"], "control", 4, 1))
    assert evaluation.lengths == [[6] * 4], "no game of CartPole is over so soon"
    assert evaluation.returns == [[6.0] * 4]
    assert evaluation.frames.tolist() == [24]


@pytest.mark.parametrize("agent", ["dqn", "sb3:dqn"])
def test_a_long_evaluation_has_heartbeats_with_what_is_played_so_far(agent: str, tmp_path: Path) -> None:
    """A kill in an evaluation of minutes loses one heartbeat of it, not all."""
    settings: Any = (
        replace(CLASSIC, learning_starts_steps=100)
        if agent == "dqn"
        else replace(baseline_config(agent, "classic"), learning_starts=100)
    )
    folder = run(tmp_path, "CartPole-v1", settings, "110-steps", agent=agent, eval_episodes=200, heartbeat_s=0.001)
    lines = schema.read_ledger(folder)
    last = lines[-1]
    evaluating = [line for line in lines if 0 < line.eval_frames < last.eval_frames]
    assert len(evaluating) >= 3
    assert [line.eval_frames for line in evaluating] == sorted({line.eval_frames for line in evaluating}), "no frame twice"
    assert all(line.lineage == last.lineage and line.flops.eval > 0 for line in evaluating)
    assert last.eval_frames == 200 * max(schema.read_evals(folder)[0].lengths)
    assert last.active_s["eval"] > evaluating[0].active_s["eval"] > 0


def test_atari_evaluations_share_lanes_and_add_epsilon(tmp_path: Path) -> None:
    """12 games on 10 emulators: two of them play twice."""
    world = make("ALE/Breakout-v5", 1, [0])
    learner = Learner(ATARI, replay_layout(ATARI, world, (0,), parse_budget("100-steps")), world.env_spec.num_actions, (0,))
    learner.params.zero_()  # every action is as good: greedy play never presses FIRE, so only epsilon starts a game
    evaluation = played_out(evaluate(learner, ["ALE/Breakout-v5"], "nature", 12, 1))
    assert len(evaluation.returns[0]) == 12
    assert evaluation.epsilon == 0.05
    assert np.std(evaluation.lengths[0]) > 0
    assert evaluation.frames[0] > 4 * sum(evaluation.lengths[0]) * 0.95
