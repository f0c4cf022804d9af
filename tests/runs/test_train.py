"""Training runs from start to end: folders, counters, budgets, interrupts, reproducibility."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import load_results
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.config import AgentConfig, ConfigError
from agents.family import agent_config
from envs import UnknownEnv, make, spec
from runs import schema
from runs.budget import BudgetError, parse_budget
from runs.config import InputError, RunConfig
from runs.evaluate import evaluate
from runs.family import FamilyTrainer
from runs.folder import load_policy
from runs.prepare import default_threads, lockstep_groups, replay_layout
from runs.progress import Progress
from runs.stopping import interruptible
from runs.train import Outcome, train

SMALL = AgentConfig(hidden=(16,), batch_size=8, learning_starts_steps=50, epsilon_decay_steps=200, replay_capacity=1000)
SMALL_ATARI = replace(
    agent_config("dqn", "atari"), hidden=(16,), learning_starts_steps=40, replay_capacity=1000, replay_ratio=0.1
)


def config(out: Path, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "agent": "dqn",
        "env": "CartPole-v1",
        "agent_config": SMALL,
        "seeds": (0,),
        "budget": "300-steps",
        "evals": 2,
        "eval_episodes": 2,
        "out": str(out),
        "device": "cpu",
        "compile": "off",
        "threads": 1,
        "heartbeat_s": 0.5,  # each one waits for the disk
    }
    return RunConfig(**(values | changes))


def last(outcome: Outcome) -> schema.LedgerLine:
    return schema.read_ledger(outcome.folder)[-1]


@pytest.mark.parametrize(
    ("env", "agent", "calls"),
    [
        ("CartPole-v1", SMALL, {"act_update"}),
        ("CartPole-v1", replace(SMALL, learning_starts_steps=60), {"act", "act_update"}),
        ("CartPole-v1", replace(SMALL, replay_ratio=2.0), {"act", "update"}),
        ("CartPole-v1", replace(SMALL, replay_ratio=1.5), {"act", "act_update", "update"}),
        ("CartPole-v1", replace(SMALL, replay_ratio=0.5), {"act", "act_update"}),
        ("ALE/Pong-v5", SMALL_ATARI, {"act", "update"}),
    ],
    ids=["one update a step", "a long time before", "two", "one and two by turns", "one in two", "atari"],
)
def test_what_a_training_calls_often_was_compiled_before_and_nothing_else_was(
    env: str, agent: AgentConfig, calls: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acting alone is compiled where it is done for more than a few steps before learning starts."""
    monkeypatch.setattr("agents.learner.COMPILE_ACT_FROM_STEPS", 60)
    seen = [list[str](), list[str]()]

    def noted(function: Callable[..., Any], device: torch.device, made_from: object) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            seen[-1 if training else 0].append(function.__name__)
            return function(*arguments)

        return call

    def begin(self: FamilyTrainer, consume: Callable[[Any], None]) -> None:
        training.append(True)
        original(self, consume)

    training, original = list[bool](), FamilyTrainer.train
    monkeypatch.setattr("agents.learner.compiled", noted)
    monkeypatch.setattr(FamilyTrainer, "train", begin)
    train(config(tmp_path, env=env, agent_config=agent, compile="on", budget="100-steps", evals=1))
    assert sorted(seen[0]) == sorted(calls), "each of them once"
    assert set(seen[1]) == calls


def test_a_run_folder_holds_what_the_design_says(tmp_path: Path) -> None:
    outcomes = train(config(tmp_path, seeds=(3, 4)))
    assert [o.folder for o in outcomes] == [tmp_path / "CartPole-v1/dqn/seed3", tmp_path / "CartPole-v1/dqn/seed4"]
    for outcome in outcomes:
        record, line = schema.read_run(outcome.folder), last(outcome)
        assert (record.seed, record.group_seeds, record.share) == (outcome.seed, [3, 4], 0.5)
        assert record.agent_config["batch_size"] == 8
        assert (line.status, line.lineage.steps, line.lineage.frames) == ("finished", 300, 300)
        assert line.lineage == line.consumed
        assert line.lineage.updates == 249, "one a step after 50 steps of warm-up; the step in progress cannot be sampled"
        assert line.boot_frames == 0
        assert line.params_sha256 == outcome.params_sha256
        assert all(e.method == "estimated" and e.low_j < e.joules < e.high_j for e in line.energy.values())
        assert [e.steps for e in schema.read_evals(outcome.folder)] == [150, 300]
        assert len(list(outcome.folder.glob("events.out.tfevents*"))) == 1
        assert (outcome.folder / schema.FINAL_CHECKPOINT).exists()


def test_the_monitor_file_is_stable_baselines3s_and_adds_up(tmp_path: Path) -> None:
    (outcome,) = train(config(tmp_path, budget="400-steps"))
    episodes = load_results(str(outcome.folder))
    line = last(outcome)
    assert {"r", "l", "t", "frames"} <= set(episodes.columns)
    assert len(episodes) == line.lineage.episodes > 5
    assert (episodes.r == episodes.l).all(), "CartPole pays 1 a step"
    assert (episodes.frames == episodes.l).all()
    assert 0 < episodes.l.sum() <= 400, "the game in progress is in no line"
    assert episodes.t.is_monotonic_increasing


def test_the_ledger_grows_and_its_phases_fill_the_wall_time(tmp_path: Path) -> None:
    (outcome,) = train(config(tmp_path, budget="400-steps", heartbeat_s=0.02))
    lines = schema.read_ledger(outcome.folder)
    assert len(lines) > 4
    assert lines[0].lineage.steps == 0, "what setting up took is on the disk before the first step"
    assert lines[0].joules > 0
    for before, after in itertools.pairwise(lines):
        assert after.lineage.steps >= before.lineage.steps
        assert after.wall_s >= before.wall_s
        assert after.joules >= before.joules
        assert after.flops.total >= before.flops.total
    line = lines[-1]
    assert sum(line.active_s.values()) == pytest.approx(line.wall_s, rel=0.02)
    assert all(line.active_s[phase] > 0 for phase in ("setup", "act", "learn", "env", "eval", "io"))


def test_model_flops_are_the_counts_times_the_cost_of_each(tmp_path: Path) -> None:
    """4 -> 16 -> 2: a forward pass is 2 (4 x 16 + 16 x 2) = 192 FLOPs. An update: forward twice (online, target), and backward
    with the gradient of both weights and of the hidden layer, but not of the input: 192 + 2 x 16 x 2."""
    (outcome,) = train(config(tmp_path))
    line, evals = last(outcome), schema.read_evals(outcome.folder)
    assert line.flops.act == 300 * 192
    assert line.flops.update == line.lineage.updates * 8 * (2 * 192 + 192 + 64)
    played = sum(max(e.lengths) * 2 for e in evals)  # two lanes step until both games are over
    assert line.flops.eval == played * 192
    assert line.eval_frames == played


def test_the_same_command_gives_the_same_hash_and_another_seed_another(tmp_path: Path) -> None:
    first, second, other = (train(config(tmp_path, seeds=(s,), heartbeat_s=h))[0] for s, h in ((7, 0.05), (7, 5.0), (8, 0.05)))
    assert last(first).params_sha256 == last(second).params_sha256, "heartbeats change nothing"
    assert last(first).params_sha256 != last(other).params_sha256
    assert second.folder.name == "seed7-2", "a second run of the same never overwrites the first"
    assert first.eval_scores == second.eval_scores


def test_a_seed_plays_the_same_games_alone_and_in_a_group(tmp_path: Path) -> None:
    """Under random play (warm-up) the games follow from the seed alone, bit for bit."""
    warm_up = replace(SMALL, learning_starts_steps=299, epsilon_end=1.0)
    (alone,) = train(config(tmp_path / "a", seeds=(5,), agent_config=warm_up, budget="300-frames"))
    group = train(config(tmp_path / "b", seeds=(4, 5, 6), agent_config=warm_up, budget="300-frames"))
    games = [load_results(str(o.folder))[["r", "l", "frames"]].to_numpy() for o in (alone, group[1], group[0])]
    np.testing.assert_array_equal(games[0], games[1])
    assert len(games[0]) != len(games[2]) or (games[0] != games[2]).any()


def test_shares_of_a_group_add_up_to_the_process(tmp_path: Path) -> None:
    seen: list[Progress] = []
    outcomes = train(config(tmp_path, seeds=(0, 1, 2, 3)), seen.append)
    lines = [last(o) for o in outcomes]
    assert sum(line.joules for line in lines) == pytest.approx(seen[-1].joules)
    assert sum(line.lineage.frames for line in lines) == seen[-1].frames == 1200
    assert {line.wall_s for line in lines} == {seen[-1].wall_s}


@pytest.mark.parametrize(
    ("budget", "steps"),
    [("120-steps", 120), ("130-frames", 130), ("3s-play", 150), ("0.0001Wh", None), ("5e6flops", None), ("0.4s", None)],
)
def test_any_counter_can_be_the_budget(tmp_path: Path, budget: str, steps: int | None) -> None:
    (outcome,) = train(config(tmp_path, budget=budget))
    line = last(outcome)
    assert line.status == "finished"
    if steps is not None:
        assert line.lineage.steps == steps
    spent = {"0.0001Wh": line.joules / 0.36, "5e6flops": line.flops.total / 5e6, "0.4s": line.wall_s / 0.4}.get(budget)
    assert spent is None or spent >= 1
    assert len(schema.read_evals(outcome.folder)) >= 1, "the final agent is always evaluated"


def test_an_interrupt_ends_the_run_cleanly_with_everything_written(tmp_path: Path) -> None:
    def interrupt_once(progress: Progress) -> None:
        if progress.steps > 20 and progress.status == "running":
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    (outcome,) = train(config(tmp_path, budget="1000k-steps"), interrupt_once)
    assert signal.getsignal(signal.SIGINT) is before
    line = last(outcome)
    assert (outcome.status, line.status) == ("interrupted", "interrupted")
    assert 20 < line.lineage.steps < 1_000_000
    assert line.params_sha256 == outcome.params_sha256
    assert (outcome.folder / schema.FINAL_CHECKPOINT).exists()
    assert len(load_results(str(outcome.folder))) == line.lineage.episodes


def interrupt_twice(progress: Progress) -> None:
    if progress.steps > 20 and progress.status == "running":
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_interrupt_ends_the_run_at_once_and_its_ledger_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runs.stopping.SAME_WISH_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path, budget="1000k-steps"), interrupt_twice)
    assert schema.read_ledger(tmp_path / "CartPole-v1/dqn/seed0")[-1].status == "interrupted"


@pytest.mark.parametrize("stopped", [True, False])
def test_the_next_signal_is_for_whoever_had_it_before_unless_that_wants_none_after_a_stop(stopped: bool) -> None:
    """A wrapper's second signal, a moment after the training is over, took the last line of what the program says."""

    class Wanting:
        after_a_stop = signal.SIG_IGN

        def __call__(self, *_: object) -> None: ...

    def plain(*_: object) -> None: ...

    numbers, handlers = (signal.SIGTERM, signal.SIGUSR1), (Wanting(), plain)
    before = [signal.signal(number, handler) for number, handler in zip(numbers, handlers, strict=True)]
    try:
        with interruptible() as stop:
            if stopped:
                signal.raise_signal(signal.SIGUSR1)
        assert stop() is stopped
        assert [signal.getsignal(number) for number in numbers] == [signal.SIG_IGN if stopped else handlers[0], plain]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_an_interrupt_that_a_wrapper_passes_on_once_more_is_the_same_one(tmp_path: Path) -> None:
    (outcome,) = train(config(tmp_path, budget="1000k-steps"), interrupt_twice)
    assert (outcome.status, outcome.signal) == ("interrupted", signal.SIGINT)
    assert (outcome.folder / schema.FINAL_CHECKPOINT).exists()


def test_an_interrupt_in_an_evaluation_keeps_its_frames_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    monkeypatch.setattr("runs.loop.evaluate", interrupted)
    (outcome,) = train(config(tmp_path, budget="100-steps", evals=1))
    line = last(outcome)
    assert (line.status, line.lineage.steps) == ("interrupted", 100)
    assert line.eval_frames == 2, "one step of two lanes"
    assert schema.read_evals(outcome.folder) == [], "half an evaluation is no evaluation"


def test_tensorboard_has_each_curve_over_every_axis(tmp_path: Path) -> None:
    (outcome,) = train(config(tmp_path, budget="400-steps", heartbeat_s=0.05))
    lines = schema.read_ledger(outcome.folder)
    events = EventAccumulator(str(outcome.folder)).Reload()
    tags = events.Tags()["scalars"]
    for axis in ("1 over steps", "2 over frames", "3 over human play, s", "4 over wall time, s", "5 over energy, J"):
        assert f"{axis}/evaluation score" in tags
        assert f"{axis}/training score" in tags
    assert {"learning/loss", "learning/epsilon", "speed/steps per s", "speed/frames per s"} <= set(tags)
    assert {"meter/power, W", "meter/energy, Wh"} <= set(tags)
    wh = events.Scalars("meter/energy, Wh")[-1]
    joules = [line.joules for line in lines if line.lineage.steps == wh.step]  # several lines fall into an evaluation
    assert any(wh.value == pytest.approx(one / 3600, rel=1e-5) for one in joules)
    assert all(p.value > 0 for p in events.Scalars("meter/power, W"))
    evals = schema.read_evals(outcome.folder)
    by_steps = events.Scalars("1 over steps/evaluation score")
    assert [(p.step, pytest.approx(p.value)) for p in by_steps] == [(e.steps, e.mean_return) for e in evals]
    by_play = events.Scalars("3 over human play, s/evaluation score")
    assert [p.step for p in by_play] == [e.frames // 50 for e in evals]


def test_tensorboard_has_scores_of_all_games_on_one_scale_where_a_persons_is_known(tmp_path: Path) -> None:
    def share(env: str, score: float) -> float | None:
        return score / 500 if env == "CartPole-v1" else None

    known, unknown = (
        train(config(tmp_path, env=env, budget="300-steps", heartbeat_s=0.05), human_share=share)[0]
        for env in ("CartPole-v1", "MountainCar-v0")
    )
    events = EventAccumulator(str(known.folder)).Reload()
    for name in ("evaluation score", "training score"):
        for axis in ("1 over steps", "3 over human play, s"):
            scores, shares = (events.Scalars(f"{axis}/{name}{also}") for also in ("", ", % of human"))
            assert [(p.step, pytest.approx(p.value / 5)) for p in scores] == [(p.step, p.value) for p in shares] != []
    tags = EventAccumulator(str(unknown.folder)).Reload().Tags()["scalars"]
    assert "1 over steps/evaluation score" in tags
    assert not [tag for tag in tags if "of human" in tag]


def test_a_task_without_physical_time_has_no_human_axis(tmp_path: Path) -> None:
    small = replace(SMALL, encoder="minatar", replay_ratio=0.1)
    (outcome,) = train(config(tmp_path, env="MinAtar/Breakout-v1", agent_config=small, budget="120-steps"))
    tags = EventAccumulator(str(outcome.folder)).Reload().Tags()["scalars"]
    assert "1 over steps/evaluation score" in tags
    assert not [tag for tag in tags if "human" in tag]


def test_an_atari_run_counts_what_the_emulator_plays(tmp_path: Path) -> None:
    """Frames: those of the finished games, plus at most the game in progress; never steps x 4."""
    (outcome,) = train(
        config(tmp_path, env="ALE/Pong-v5", agent_config=SMALL_ATARI, budget="1200-steps", evals=1, eval_episodes=1)
    )
    line = last(outcome)
    games = pl.read_csv(outcome.folder / schema.MONITOR_FILE, comment_prefix="#")
    assert len(games) == line.lineage.episodes == 1
    assert 4800 < line.lineage.frames < 4 * 1200 + 2 * 30, "no-op starts are played frames"
    assert line.boot_frames > 0
    assert line.eval_frames >= 4 * schema.read_evals(outcome.folder)[0].lengths[0] - 3


def test_convolutions_on_a_cpu_train_one_seed_after_another(tmp_path: Path) -> None:
    outcomes = train(config(tmp_path, env="ALE/Pong-v5", agent_config=SMALL_ATARI, seeds=(0, 1), budget="60-steps", evals=1,
                            eval_episodes=1, protocol="atari100k"))  # fmt: skip
    for outcome in outcomes:
        record = schema.read_run(outcome.folder)
        assert (record.group_seeds, record.share, record.env.protocol) == ([outcome.seed], 1.0, "atari100k")


def test_a_saved_agent_plays_with_stable_baselines3s_tools(tmp_path: Path) -> None:
    import gymnasium

    (outcome,) = train(config(tmp_path, budget="500-steps", evals=1, eval_episodes=20))
    policy = load_policy(outcome.folder / schema.FINAL_CHECKPOINT)
    returns, _ = evaluate_policy(policy, gymnasium.make("CartPole-v1"), n_eval_episodes=20)  # type: ignore[arg-type]
    assert returns == pytest.approx(outcome.eval_scores[-1], rel=0.35), "the same policy, other games"
    action, state = policy.predict(np.zeros(4, np.float32), deterministic=True)
    assert action.shape == ()
    assert state is None
    again, _ = policy.predict(np.zeros((3, 4), np.float32))
    assert again.tolist() == [int(action)] * 3


def test_the_final_checkpoint_is_the_hashed_agent_and_loads_safely(tmp_path: Path) -> None:
    import hashlib

    (outcome,) = train(config(tmp_path))
    saved = torch.load(outcome.folder / schema.FINAL_CHECKPOINT, weights_only=True)
    content = b"".join(tensor.numpy().tobytes() for tensor in saved["params"].values())
    assert hashlib.sha256(content).hexdigest() == last(outcome).params_sha256


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"env": "CartPol-v1"}, UnknownEnv, "CartPole-v1"),
        ({"budget": "fast"}, BudgetError, "number"),
        ({"budget": "100k"}, BudgetError, "100k-steps"),
        ({"env": "MinAtar/Breakout-v1", "budget": "1h-play"}, BudgetError, "no physical time"),
        ({"protocol": "nature"}, UnknownEnv, "control"),
        ({"device": "cuda:0"}, InputError, "--device cpu"),
        ({"device": "tpu"}, InputError, "valid are"),
        ({"agent_config": replace(SMALL, encoder="nature")}, ConfigError, "image"),
        ({"agent_config": replace(SMALL, replay_capacity=10**12), "budget": "1h"}, InputError, "would fit"),
        ({"evals": 0}, InputError, "--evals"),
        ({"eval_episodes": 0}, InputError, "--eval-episodes"),
        ({"heartbeat_s": 9.0}, InputError, "heartbeat"),
        ({"threads": 0}, InputError, "--threads"),
        ({"cpu_watts": "lots"}, InputError, "--cpu-watts lots"),
        ({"wall_meter": "/nowhere.csv"}, InputError, "--wall-meter /nowhere.csv cannot be read"),
        ({"gpu_share": 2.0}, InputError, "--gpu-share"),
        ({"budget": "30-steps"}, InputError, "learning"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    out = tmp_path / "results"
    with pytest.raises(error, match=says) as raised:
        train(config(out, **changes))
    assert "\n" not in str(raised.value)
    assert not out.exists()


def wall_meter(folder: Path, until_s: float = 3600.0) -> Path:
    """A meter that shows 300 W from a minute ago on; a logger would go on writing, here the future is in it already."""
    now_s = time.time()
    rows = [f"{now_s + k},300" for k in range(-60, int(until_s))]
    (folder / "meter.csv").write_text("\n".join(["time,watts", *rows]))
    return folder / "meter.csv"


def test_a_wall_meter_is_the_energy_of_a_run_when_it_is_over(tmp_path: Path) -> None:
    outcomes = train(config(tmp_path, seeds=(0, 1), wall_meter=str(wall_meter(tmp_path)), cpu_watts="10:20"))
    for outcome in outcomes:
        lines = schema.read_ledger(outcome.folder)
        assert {line.energy["wall_meter"].method for line in lines[:-1]} == {"absent"}
        end = lines[-1]
        assert end.joules == end.energy["wall_meter"].joules
        # the file is read when the run is over, in wall time that it does not cover
        assert 300 * (end.wall_s - 1) / 2 < end.joules <= 300 * end.wall_s / 2 * 1.02
        assert end.energy["cpu_package"].joules == pytest.approx(15 * end.wall_s / 2, rel=0.02)
        assert schema.energy_grade(end.energy, on_gpu=False) == "A"
        assert json.loads((outcome.folder / "run.json").read_text())["run_config"]["wall_meter"] == "meter.csv"


def test_a_wall_meter_that_ends_during_a_run_is_absent_and_said_and_the_run_is_not_ended(tmp_path: Path) -> None:
    told: list[str] = []
    (outcome,) = train(config(tmp_path, wall_meter=str(wall_meter(tmp_path, until_s=0.5))), notice=told.append)
    end = last(outcome)
    assert (end.status, end.energy["wall_meter"].method) == ("finished", "absent") or end.wall_s < 3
    assert schema.energy_grade(end.energy, on_gpu=False) == "D"
    assert [note for note in end.notes if "do not cover" in note] == [note for note in told if "do not cover" in note] != []


@pytest.mark.parametrize(
    ("budget", "least", "most"),
    [
        ("2k-steps", 2000, 2100),
        ("2k-frames", 2000, 2100),
        ("40s-play", 2000, 2100),
        ("1h", 50_000, 50_000),
        ("1M-steps", 50_000, 50_000),
    ],
)
def test_the_replay_is_as_large_as_asked_unless_the_budget_cannot_fill_it(budget: str, least: int, most: int) -> None:
    world = make("CartPole-v1", 1, [0])
    layout = replay_layout(AgentConfig(replay_capacity=50_000), world, (0,), parse_budget(budget))
    assert least <= layout.capacity <= most


def test_an_unwritable_folder_is_refused_before_anything_runs(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(InputError, match="--out"):
        train(config(blocked / "results"))
    assert blocked.read_text() == "in the way"


def test_every_kind_of_environment_declares_what_a_run_needs() -> None:
    assert {spec(env).kind for env in ("CartPole-v1", "MinAtar/Freeway-v1", "ALE/Pong-v5")} == {"control", "minatar", "atari"}


@pytest.mark.parametrize(
    ("domain", "env", "groups"),
    [("classic", "CartPole-v1", 1), ("minatar", "MinAtar/Breakout-v1", 1), ("atari", "ALE/Pong-v5", 3)],
)
def test_seeds_of_small_networks_train_side_by_side_on_a_cpu(domain: str, env: str, groups: int) -> None:
    config = RunConfig("dqn", env, agent_config("dqn", domain), (0, 1, 2), "1M-steps")
    assert len(lockstep_groups(config, torch.device("cpu"))) == groups
    assert [runs.seeds for runs in lockstep_groups(config, torch.device("cuda"))] == [(0, 1, 2)], "on a GPU all do"


def test_one_seed_of_a_small_network_has_one_thread() -> None:
    for domain in ("classic", "minatar"):
        assert default_threads(agent_config("dqn", domain), 1, compiled=True) == 1
