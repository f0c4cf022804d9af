"""One command that trains several games: side by side as on a GPU, or one after another, each run is that of its own game."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.config import AgentConfig
from agents.family import agent_config
from agents.noise import generator
from envs import spec
from runs import schema
from runs.budget import BudgetError
from runs.checkpoint import Manifest, Store
from runs.config import InputError, RunConfig
from runs.evaluate import evaluate, explore, played_out
from runs.family import EVAL_OBSERVATIONS
from runs.folder import load_policy
from runs.prepare import Runs, lockstep_groups
from runs.progress import Progress, Score, score_of
from runs.train import Outcome, train

GAMES = ("MinAtar/Asterix-v1", "MinAtar/Breakout-v1")  # five actions and three
SMALL = AgentConfig(
    encoder="minatar", hidden=(16,), dueling=True, batch_size=8, learning_starts_steps=150, epsilon_decay_steps=100,
    replay_capacity=400, replay_ratio=0.5,
)  # fmt: skip
ATARI = replace(
    agent_config("der", "atari"), hidden=(8,), batch_size=4, learning_starts_steps=40, replay_capacity=70, replay_ratio=0.1
)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine loses its power here, and a disk may take a tenth of a second for each."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Group the runs as a GPU would have them, whatever their kind."""

    def all_of(asked: RunConfig, device: torch.device) -> list[Runs]:
        pairs = [(spec(env), seed) for env in asked.envs for seed in asked.seeds]
        return [Runs(tuple(env for env, _ in pairs), tuple(seed for _, seed in pairs))]

    monkeypatch.setattr("runs.train.lockstep_groups", all_of)


def config(out: Path, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "agent": "dqn", "env": GAMES[0], "more_envs": GAMES[1:], "agent_config": SMALL, "seeds": (0, 1), "budget": "240-steps",
        "evals": 2, "eval_episodes": 3, "out": str(out), "device": "cpu", "compile": "off", "threads": 1, "heartbeat_s": 0.02,
        "checkpoint_every": "50-steps",
    }  # fmt: skip
    return RunConfig(**(values | changes))


def share_of(env: str, score: float) -> float:
    """Of people who would have 4 points in one game; in the other 0, and -2 at random."""
    return score / 4 if env == GAMES[0] else (score + 2) / 2


def last(outcome: Outcome) -> schema.LedgerLine:
    return schema.read_ledger(outcome.folder)[-1]


def games_played(outcome: Outcome) -> list[tuple[str, ...]]:
    """Score, steps and frames of every training game."""
    rows = list(csv.DictReader((outcome.folder / schema.MONITOR_FILE).read_text().splitlines()[1:]))
    return [(row["r"], row["l"], row["frames"]) for row in rows]


@pytest.mark.usefixtures("side_by_side")
def test_every_game_side_by_side_has_the_run_that_it_would_have_alone(tmp_path: Path) -> None:
    heard = list[Progress]()
    together = train(config(tmp_path / "together"), heard.append, print, share_of)
    assert [o.folder.relative_to(tmp_path / "together") for o in together] == [
        Path(game, "dqn", f"seed{seed}") for game in GAMES for seed in (0, 1)
    ]
    alone = [o for game in GAMES for o in train(config(tmp_path / "alone", env=game, more_envs=()))]
    for one, other in zip(together, alone, strict=True):
        record, line, expected = schema.read_run(one.folder), last(one), last(other)
        assert record.env == schema.read_run(other.folder).env
        assert (record.group_seeds, record.group_envs, record.share) == (
            [0, 1, 0, 1], [GAMES[0], GAMES[0], GAMES[1], GAMES[1]], 0.25,
        )  # fmt: skip
        assert schema.read_run(other.folder).group_envs == []
        assert (line.status, line.lineage, line.boot_frames) == ("finished", expected.lineage, expected.boot_frames)
        assert (line.flops.act, line.flops.update) == (expected.flops.act, expected.flops.update)
        assert len(games_played(one)) > 1
        assert games_played(one) == games_played(other)
        evaluations, theirs = schema.read_evals(one.folder), schema.read_evals(other.folder)
        assert evaluations[0].returns == theirs[0].returns, "played before anything was learned"
        assert evaluations[0].flops == theirs[0].flops, "no more was computed for it, however long the others played"
        policy = load_policy(one.folder / schema.FINAL_CHECKPOINT)
        assert policy.num_actions == spec(record.env.id).num_actions
        assert policy.predict(np.zeros(policy.obs_shape, np.uint8))[0] < policy.num_actions
    frames = sum(last(o).lineage.frames or 0 for o in together)
    final = [progress for progress in heard if progress.status == "finished"]
    assert len(heard) - len(final) > 2
    assert final[0].frames == frames
    one, other = (np.mean([o.eval_scores[-1] for o in together if game in str(o.folder)]) for game in GAMES)
    assert final[0].eval_score == Score(None, pytest.approx((one / 4 + other / 2 + 1) / 2), 2)  # type: ignore[arg-type]
    assert final[0].train_score is not None
    assert final[0].train_score.mean is None, "the mean of several games' scores says nothing"
    for outcome, game in zip(together, (GAMES[0], GAMES[0], GAMES[1], GAMES[1]), strict=True):
        points = EventAccumulator(str(outcome.folder)).Reload().Scalars("1 over steps/evaluation score, % of human")
        assert [p.value for p in points] == [pytest.approx(100 * share_of(game, score)) for score in outcome.eval_scores]
    evaluating = [progress.evaluating for progress in heard if progress.evaluating]
    assert len(evaluating) > 2
    assert {of for _, of in evaluating} == {3 * len(together)}
    assert all(0 <= over <= of for over, of in evaluating)
    assert len({over for over, _ in evaluating}) > 1
    assert (final[0].games, final[0].seeds) == (GAMES, (0, 1))


def test_over_several_games_a_score_is_the_median_of_what_share_of_a_persons_it_is_in_each() -> None:
    """Seeds of a game are one score; a game that nobody was published for, or that was not played yet, counts in neither number."""
    people = {"a": 10.0, "b": 100.0, "c": 1000.0}

    def share(env: str, score: float) -> float | None:
        return score / people[env] if env in people else None

    games = ["a", "a", "b", "c", "nobody", "not played"]
    assert score_of(games, [[1.0, 2.0], [6.0], [90.0], [500.0], [7.0], []], share) == Score(None, 0.5, 3)
    assert score_of(["nobody", "other"], [[1.0], [2.0]], share) == Score(None, None, 0)
    assert score_of(["a", "a"], [[1.0, 2.0], [6.0]], share) == Score(3.0, 0.3, 1)
    assert score_of(["nobody"], [[1.0]], share) == Score(1.0, None, 0)
    assert score_of(["a", "b"], [[], []], share) is None


@pytest.mark.usefixtures("side_by_side")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"agent": "der", "agent_config": ATARI, "env": "ALE/Breakout-v5", "more_envs": ("ALE/Pong-v5",), "budget": "80-steps"},
    ],
    ids=["MinAtar", "Atari"],
)
def test_games_side_by_side_that_were_interrupted_go_on_as_if_they_had_not_been(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    asked = {"evals": 1, "eval_episodes": 1, "seeds": (0,)} | changes
    whole = train(config(tmp_path / "whole", **asked))
    half = 40 if "budget" in changes else 130

    def interrupt(progress: Progress) -> None:
        if progress.steps >= half and progress.status == "running" and not told:
            told.append(os.kill(os.getpid(), 15))

    told = list[None]()
    first = train(config(tmp_path / "parts", **asked), interrupt)
    assert {o.status for o in first} == {"interrupted"}
    second = train(config(tmp_path / "parts", resume=True, **asked))
    assert [o.folder for o in second] == [o.folder for o in first]
    assert [o.params_sha256 for o in second] == [o.params_sha256 for o in whole]
    for one, other in zip(second, whole, strict=True):
        assert games_played(one) == games_played(other)
        assert last(one).lineage == last(other).lineage
        assert schema.read_evals(one.folder)[-1].returns == schema.read_evals(other.folder)[-1].returns
    other_games = {"env": asked.get("env", GAMES[0]), "more_envs": ()}
    begun = train(config(tmp_path / "begun", **asked), lambda progress: told.clear() or interrupt(progress))
    assert {o.status for o in begun} == {"interrupted"}
    with pytest.raises(InputError, match="games: "):
        train(config(tmp_path / "begun", resume=True, **(asked | other_games)))


def test_on_a_cpu_games_train_one_after_another_and_finished_ones_are_left_alone(tmp_path: Path) -> None:
    notes = list[str]()
    (first,) = train(config(tmp_path, env=GAMES[1], more_envs=(), seeds=(0,)))
    told = set[tuple[Any, ...]]()

    def listener(progress: Progress) -> None:
        told.add((progress.games, progress.seeds, progress.to_follow))

    both = train(config(tmp_path, seeds=(0,), resume=True), listener, notes.append)
    assert told == {((GAMES[0],), (0,), 0)}, "the other has ended"
    assert [o.folder for o in both] == [tmp_path / game / "dqn" / "seed0" for game in GAMES]
    assert both[1].params_sha256 == first.params_sha256
    assert notes == [
        f"nothing to continue for seed 0 on {GAMES[0]}: starting",
        f"seed 0 has finished already, in {first.folder}",
    ]
    assert schema.read_run(both[0].folder).group_envs == []


def test_on_a_gpu_all_atari_games_of_one_frame_rate_are_one_group_and_other_worlds_are_not() -> None:
    asked = RunConfig("der", "ALE/Pong-v5", ATARI, (0, 1), more_envs=("ALE/Breakout-v5",))
    (runs,) = lockstep_groups(asked, torch.device("cuda"))
    assert runs.games == ("ALE/Pong-v5", "ALE/Pong-v5", "ALE/Breakout-v5", "ALE/Breakout-v5")
    assert runs.seeds == (0, 1, 0, 1)
    assert len(lockstep_groups(asked, torch.device("cpu"))) == 4
    minatar = RunConfig("dqn", GAMES[0], SMALL, (0, 1), more_envs=GAMES[1:])
    assert [runs.games for runs in lockstep_groups(minatar, torch.device("cuda"))] == [(game, game) for game in GAMES]


def test_model_flops_are_those_of_each_games_own_network(tmp_path: Path, side_by_side: None) -> None:
    outcomes = train(config(tmp_path, seeds=(0,)))
    for outcome, actions in zip(outcomes, (5, 3), strict=True):
        folder = outcome.folder
        layers = (8 * 8 * 16 * 4 * 9, 1024 * 16, 1024 * 16, 16, 16 * actions)
        assert last(outcome).flops.act == 240 * 2 * sum(layers), folder


class Still:
    """Never moves."""

    def __init__(self, seeds: tuple[int, ...]) -> None:
        self.seeds = seeds

    def greedy(self, obs: NDArray[Any]) -> NDArray[np.int64]:
        return np.zeros(len(obs), np.int64)


def test_an_evaluation_counts_for_each_game_what_it_takes_alone() -> None:
    """Asterix ends soon when nobody moves, Breakout sooner still: neither is booked what the other plays on."""
    together = played_out(evaluate(Still((0, 1, 2)), [GAMES[0], GAMES[0], GAMES[1]], "minatar", 5, 1))
    alone = [
        played_out(evaluate(Still((0, 1)), [GAMES[0]] * 2, "minatar", 5, 1)),
        played_out(evaluate(Still((2,)), [GAMES[1]], "minatar", 5, 1)),
    ]
    assert together.returns == [*alone[0].returns, *alone[1].returns]
    assert together.lengths == [*alone[0].lengths, *alone[1].lengths]
    for name in ("frames", "boot_frames", "observations"):
        np.testing.assert_array_equal(getattr(together, name), np.concatenate([getattr(one, name) for one in alone]))
    assert together.observations[0] == together.observations[1] != together.observations[2]


def test_games_that_finished_in_another_group_are_left_alone(tmp_path: Path, side_by_side: None) -> None:
    (first,) = train(config(tmp_path, env=GAMES[1], more_envs=(), seeds=(0,)))
    notes = list[str]()
    both = train(config(tmp_path, seeds=(0,), resume=True), notice=notes.append)
    assert notes == [
        f"seed 0 has finished already, in {first.folder}",
        f"nothing to continue for seed 0 on {GAMES[0]}: starting",
    ]
    assert {o.folder for o in both} == {tmp_path / game / "dqn" / "seed0" for game in GAMES}
    assert not list(tmp_path.glob("**/seed0-2"))


def test_what_speaks_against_one_environment_is_said_before_any_is_trained(tmp_path: Path) -> None:
    small = AgentConfig(hidden=(8,), batch_size=8, learning_starts_steps=50)
    control: dict[str, Any] = {"env": "CartPole-v1", "more_envs": ("MountainCar-v0",), "agent_config": small}
    with pytest.raises(BudgetError, match="physical time"):
        train(config(tmp_path, checkpoint_every="1min-play", **control))
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_counts_observations_for_all_seeds_at_once_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they were until several games could be one group. A budget in FLOPs ends where it would have ended."""
    in_steps = train(config(tmp_path / "in steps", more_envs=(), evals=4))
    asked: dict[str, Any] = {"more_envs": (), "evals": 4, "budget": f"{last(in_steps[0]).flops.total}flops"}
    whole = train(config(tmp_path / "whole", **asked))
    told = list[None]()

    def interrupt(progress: Progress) -> None:
        if progress.steps >= 200 and progress.status == "running" and not told:
            told.append(os.kill(os.getpid(), 15))

    train(config(tmp_path / "parts", **asked), interrupt)
    load = Store.load

    def as_before(self: Store) -> Manifest | None:
        manifest, name = load(self), EVAL_OBSERVATIONS
        assert manifest is not None
        count = int(self.arrays(manifest)[name][0])
        assert count > 0
        arrays = Store.arrays
        monkeypatch.setattr(Store, "arrays", lambda self, m: {k: v for k, v in arrays(self, m).items() if k != name})
        return replace(manifest, plain=manifest.plain | {name: count})

    with monkeypatch.context() as old:
        old.setattr(Store, "load", as_before)
        again = train(config(tmp_path / "parts", resume=True, **asked))
    assert [o.params_sha256 for o in again] == [o.params_sha256 for o in whole]
    assert [last(o).lineage.steps for o in again] == [last(o).lineage.steps for o in whole]


def test_random_actions_of_an_evaluation_are_those_of_each_lanes_own_game() -> None:
    counts = np.repeat([3, 18], 4)
    seen = np.array([explore(np.zeros(8, np.int64), [generator(k, n) for k in (0, 1)], 0.9, counts) for n in range(300)])
    for lanes, count in ((seen[:, :4], 3), (seen[:, 4:], 18)):
        assert set(lanes.ravel()) == set(range(count))
        assert np.mean(lanes == count - 1) == pytest.approx(0.9 / count, rel=0.3)
    untouched = explore(np.arange(8), [generator(0, 0), generator(1, 0)], 0.0, counts)
    np.testing.assert_array_equal(untouched, np.arange(8))


@pytest.mark.gpu
def test_two_atari_games_train_side_by_side_on_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA GPU")
    games: dict[str, Any] = {"env": "ALE/Breakout-v5", "more_envs": ("ALE/Pong-v5",), "device": "cuda:0", "compile": "on"}
    outcomes = train(config(tmp_path, agent="der", agent_config=ATARI, seeds=(0,), budget="120-steps", **games))
    assert [o.status for o in outcomes] == ["finished", "finished"]
    assert {tuple(schema.read_run(o.folder).group_envs) for o in outcomes} == {("ALE/Breakout-v5", "ALE/Pong-v5")}
    assert [load_policy(o.folder / schema.FINAL_CHECKPOINT).num_actions for o in outcomes] == [4, 6]
