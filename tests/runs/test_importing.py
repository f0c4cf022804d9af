"""Results of other people become run folders that say what is known, and null for the rest: each format, from its files to a report."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor, load_results
from torch.utils.tensorboard import SummaryWriter

import playmeter
from analysis import comparisons, curves, tables
from runs import schema
from runs.config import InputError
from runs.folder import RunFolder
from runs.foreign import ImportConfig, known_env
from runs.importing import import_runs
from tests.analysis.run_folders import write_run

UNKNOWN_OF_ALL = ("updates", "eval_frames", "boot_frames", "cpu_h", "gpu_h", "peak_rss_bytes", "git_commit")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Import as a user does, then read ``playmeter report --json -``."""

    def run(*arguments: str) -> dict[str, Any]:
        assert playmeter.main(["import", *arguments]) == 0, capsys.readouterr().err
        capsys.readouterr()
        assert playmeter.main(["report", "--json", "-"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert found["left_out"] == []
        for entry in found["runs"]:
            assert {name: entry[name] for name in UNKNOWN_OF_ALL} == dict.fromkeys(UNKNOWN_OF_ALL)
            assert entry["flops"] == {"act": None, "update": None, "eval": None, "total": None}
            assert entry["active_s"] == entry["versions"] == entry["machine"] == entry["device"] == entry["agent_config"] == {}
        return found

    return run


def write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    return name


def only_energy_absent(run: dict[str, Any]) -> bool:
    energy = run["energy"]
    return (energy["joules"], energy["method"], energy["grade"], run["brain_h"]) == (None, "absent", None, None)


# stable-baselines3


def play(env: Monitor, episodes: int, seed: int) -> Monitor:
    """Random play: Monitor writes what it sees."""
    env.action_space.seed(seed)
    env.reset(seed=seed)
    for _ in range(episodes):
        done = False
        while not done:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
        env.reset()
    return env


def test_monitor_folders_become_runs_of_training_returns(report: Callable[..., dict[str, Any]]) -> None:
    played = [play(Monitor(gymnasium.make("CartPole-v1"), f"logs/{name}/0"), 130, seed) for seed, name in enumerate("ab")]
    for env in played:
        env.close()
    runs = report("logs", "--agent", "random", "--protocol", "control")["runs"]
    assert [run["seed"] for run in runs] == [0, 1], "numbered in the order of their folders"
    for run, env in zip(runs, played, strict=True):
        rewards, lengths = env.get_episode_rewards(), env.get_episode_lengths()
        assert run["steps"] == run["frames"] == run["consumed"]["steps"] == sum(lengths)
        assert run["episodes"] == 130
        assert (run["returns"], run["budget"], run["protocol"]) == ("training", "unknown", "control")
        assert run["training_return_last_100"] == pytest.approx(np.mean(rewards[-100:]))
        ends = np.cumsum(lengths)
        assert run["score"] == pytest.approx(np.mean(np.array(rewards)[ends > 0.95 * ends[-1]])), (
            "the last twentieth of the steps"
        )
        assert run["human_play_h"] == pytest.approx(sum(lengths) / 50 / 3600)
        assert run["wall_s"] == pytest.approx(env.get_episode_times()[-1], abs=0.01)
        assert only_energy_absent(run)
    theirs, ours = load_results("logs/b"), load_results("results/CartPole-v1/random/seed1")
    assert list(ours["r"]) == list(theirs["r"])
    assert list(ours["l"]) == list(ours["frames"]) == list(theirs["l"])


def test_every_episode_stands_in_exactly_one_point_of_the_curve(tmp_path: Path) -> None:
    play(Monitor(gymnasium.make("CartPole-v1"), "logs/0"), 70, 3).close()
    (folder,), _ = import_runs(ImportConfig(Path("logs"), agent="random"), [])
    points = schema.read_evals(folder)
    theirs = load_results("logs")
    assert [r for point in points for r in point.returns] == list(theirs["r"])
    assert {point.kind for point in points} == {"training"}
    assert 10 < len(points) <= 20
    assert all(a.steps < b.steps for a, b in pairwise(points))


def test_environments_that_trained_side_by_side_are_one_run_in_the_order_of_time(report: Callable[..., dict[str, Any]]) -> None:
    write("logs/0.monitor.csv", '#{"t_start": 100.0, "env_id": "CartPole-v1"}\nr,l,t\n10,10,1.0\n30,30,9.0\n')
    write("logs/1.monitor.csv", '#{"t_start": 102.0, "env_id": "CartPole-v1"}\nr,l,t\n20,20,3.0\n5,5,4.0\n')
    (run,) = report("logs", "--agent", "dqn")["runs"]
    assert run["steps"] == 65
    assert run["wall_s"] == 9.0
    monitor = Path("results/CartPole-v1/dqn/seed0/monitor.csv").read_text().splitlines()[2:]
    assert monitor == ["10.0,10,1.0,10", "20.0,20,5.0,20", "5.0,5,6.0,5", "30.0,30,9.0,30"]


def test_a_torn_last_line_of_a_monitor_is_left_out(report: Callable[..., dict[str, Any]]) -> None:
    write("logs/monitor.csv", '#{"t_start": 100.0, "env_id": "CartPole-v1"}\nr,l,t\n10,10,1.0\n30,30,9')
    (run,) = report("logs", "--agent", "dqn")["runs"]
    assert (run["steps"], run["episodes"]) == (10, 1)


def test_evaluations_of_stable_baselines3_are_the_score_where_there_are_any(report: Callable[..., dict[str, Any]]) -> None:
    env = Monitor(gymnasium.make("CartPole-v1"), "logs/0")
    callback = EvalCallback(
        Monitor(gymnasium.make("CartPole-v1")), eval_freq=100, n_eval_episodes=3, log_path="logs", verbose=0
    )
    DQN("MlpPolicy", env, learning_starts=50, policy_kwargs={"net_arch": [8]}, seed=0).learn(350, callback=callback)
    env.close()
    theirs = np.load("logs/evaluations.npz")
    assert len(theirs["timesteps"]) == 3
    (run,) = report("logs", "--agent", "dqn")["runs"]
    assert run["returns"] == "evaluation"
    assert (run["score"], run["score_at_steps"]) == (pytest.approx(theirs["results"][-1].mean()), 300)
    points = schema.read_evals(Path("results/CartPole-v1/dqn/seed0"))
    assert [point.returns for point in points] == theirs["results"].tolist()
    assert [point.steps for point in points] == [point.frames for point in points] == [100, 200, 300]


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def test_an_array_that_would_have_to_be_unpickled_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write("logs/monitor.csv", '#{"t_start": 100.0, "env_id": "CartPole-v1"}\nr,l,t\n10,10,1.0\n')
    np.savez("logs/evaluations.npz", timesteps=np.array([1]), results=np.array([[Bomb()]], dtype=object))
    assert playmeter.main(["import", "logs", "--agent", "dqn"]) == 2
    assert "evaluations.npz is not from stable-baselines3's EvalCallback" in capsys.readouterr().err
    assert not Path("exploded").exists()
    assert not Path("results").exists()


@pytest.mark.parametrize(("per_step", "steps", "frames"), [("1", None, 600), ("4", 600, 2400)])
def test_what_an_atari_monitor_counted_has_to_be_said(
    per_step: str, steps: int | None, frames: int, report: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """make_atari_env puts Monitor inside the frame skip, where ``l`` counts emulator frames; decisions are then unknown."""
    write("logs/monitor.csv", '#{"t_start": 100.0, "env_id": "PongNoFrameskip-v4"}\nr,l,t\n-21,200,1.0\n-20,400,2.0\n')
    assert playmeter.main(["import", "logs", "--agent", "dqn"]) == 2
    assert "--frames-per-step" in capsys.readouterr().err
    (run,) = report("logs", "--agent", "dqn", "--frames-per-step", per_step)["runs"]
    assert (run["env"], run["steps"], run["frames"]) == ("ALE/Pong-v5", steps, frames)
    assert run["human_play_h"] == pytest.approx(frames / 60 / 3600)
    lines = Path("results/ALE/Pong-v5/dqn/seed0/monitor.csv").read_text().splitlines()[2:]
    assert lines == {"1": ["-21.0,,1.0,200", "-20.0,,2.0,400"], "4": ["-21.0,200,1.0,800", "-20.0,400,2.0,1600"]}[per_step]


# TensorBoard


def cleanrl(folder: str, env: str, settings: bool = True) -> SummaryWriter:
    """As CleanRL's dqn.py logs: settings as a table, returns over global_step, losses between."""
    writer = SummaryWriter(folder)
    if settings:
        rows = {"exp_name": "dqn", "seed": 7, "env_id": env, "total_timesteps": 1000}
        writer.add_text("hyperparameters", "|param|value|\n|-|-|\n" + "\n".join(f"|{k}|{v}|" for k, v in rows.items()))
    for episode, step in enumerate(range(49, 1000, 50)):
        writer.add_scalar("charts/episodic_return", float(episode), step, walltime=5_000 + step)
        writer.add_scalar("charts/episodic_length", 50, step, walltime=5_000 + step)
        writer.add_scalar("losses/td_loss", 0.1, step, walltime=5_000 + step)
        writer.add_scalar("charts/SPS", 1000, step, walltime=5_000 + step)
    writer.add_scalar("losses/td_loss", 0.1, 1000, walltime=6_001)
    return writer


def test_cleanrl_events_become_a_run(report: Callable[..., dict[str, Any]]) -> None:
    cleanrl("runs/whatever", "CartPole-v1").close()
    (run,) = report("runs")["runs"]
    assert (run["agent"], run["env"], run["seed"], run["budget"]) == ("dqn", "CartPole-v1", 7, "1000-steps")
    assert (run["steps"], run["frames"], run["episodes"]) == (1000, 1000, 20)
    assert (run["returns"], run["score"]) == ("training", 19.0), "20 episodes, 20 windows"
    assert run["training_return_last_100"] == pytest.approx(np.mean(range(20)))
    assert only_energy_absent(run)


def test_the_final_evaluation_of_cleanrl_is_the_score(report: Callable[..., dict[str, Any]]) -> None:
    writer = cleanrl("runs/ALE_Pong__dqn__3__1700000000", "", settings=False)
    for number, score in enumerate([18.0, 20.0]):
        writer.add_scalar("eval/episodic_return", score, number)
    writer.close()
    (run,) = report("runs", "--env", "ALE/Pong-v5")["runs"]
    assert (run["agent"], run["seed"]) == ("dqn", 3), "from the folder's name"
    assert (run["returns"], run["score"], run["score_at_steps"]) == ("evaluation", 19.0, 1000)
    assert (run["frames"], run["human_play_h"]) == (None, None), "nobody said how many frames a step has"
    assert run["human_play_reason"] == "its frames were not counted"
    assert not any(
        line.split(",")[1] for line in Path("results/ALE/Pong-v5/dqn/seed3/monitor.csv").read_text().splitlines()[2:]
    )


def test_dopamine_events_count_iterations(report: Callable[..., dict[str, Any]]) -> None:
    """TensorFlow 2 stores scalars as tensors."""
    import torch

    writer = SummaryWriter("dopamine")
    for iteration, score in enumerate([-21.0, -5.5, 12.25]):
        for tag, value in {"Train/AverageReturns": -20.0, "Eval/AverageReturns": score, "Eval/NumEpisodes": 33.0}.items():
            writer.add_tensor(tag, torch.tensor(value), iteration)
        writer.add_tensor("Train/NumEpisodes", torch.tensor(100.0), iteration)
    writer.close()
    write("dopamine/logs/log_2", "")
    (run,) = report("dopamine", "--agent", "rainbow", "--env", "Pong", "--frames-per-step", "4", "--protocol", "sticky")["runs"]
    assert (run["steps"], run["frames"], run["episodes"]) == (750_000, 3_000_000, 300)
    assert (run["returns"], run["score"]) == ("evaluation", 12.25)
    assert [p.games for p in schema.read_evals(Path("results/ALE/Pong-v5/rainbow/seed0"))] == [33, 33, 33]


def test_events_of_stable_baselines3_are_read(report: Callable[..., dict[str, Any]]) -> None:
    with SummaryWriter("tb/DQN_1") as writer:
        for step in (100, 200):
            writer.add_scalar("rollout/ep_rew_mean", step / 10, step)
    (run,) = report("tb", "--agent", "sb3 dqn", "--env", "Acrobot-v1")["runs"]
    assert (run["returns"], run["score"], run["steps"]) == ("training", 20.0, 200)


# Dopamine's and dqn_zoo's published results


def dopamine_entries(order: str) -> list[dict[str, Any]]:
    runs = [[(i, 100.0 * run + i) for i in range(4)] for run in range(3)]
    flat = [e for run in runs for e in run] if order == "run after run" else [run[i] for i in range(4) for run in runs]
    return [{"Iteration": i, "Value": value, "Agent": "DQN"} for i, value in flat] + [
        {"Iteration": 0, "Value": 5, "Agent": "IQN"}
    ]


@pytest.mark.parametrize("order", ["run after run", "iteration after iteration"])
def test_dopamines_published_json_holds_several_runs(order: str, report: Callable[..., dict[str, Any]]) -> None:
    write("data/airraid.json", json.dumps(dopamine_entries(order)))
    write("data/airraid.vg.json", json.dumps({"$schema": "vega"}))
    runs = report("data", "--protocol", "sticky", "--frames-per-step", "4")["runs"]
    assert [(run["agent"], run["seed"], run["score"]) for run in runs] == [
        ("DQN", 0, 3.0), ("DQN", 1, 103.0), ("DQN", 2, 203.0), ("IQN", 0, 5.0),
    ]  # fmt: skip
    assert {run["returns"] for run in runs} == {"training"}
    assert (runs[0]["env"], runs[0]["steps"], runs[0]["frames"]) == ("ALE/AirRaid-v5", 1_000_000, 4_000_000)
    assert runs[0]["human_play_h"] == pytest.approx(4e6 / 50 / 3600), "Air Raid is a PAL game"
    assert runs[0]["wall_s"] is None


def test_dopamines_pickles_stay_closed(capsys: pytest.CaptureFixture[str]) -> None:
    write("dopamine/logs/x", "")
    Path("dopamine/logs/log_199").write_bytes(pickle.dumps(Bomb()))
    for path in ("dopamine", "dopamine/logs/log_199"):
        assert playmeter.main(["import", path, "--agent", "dqn", "--env", "Pong"]) == 2
        error = capsys.readouterr().err
        assert "log_199 is a pickle" in error
        assert "TensorBoard events" in error
    assert not Path("exploded").exists()


ZOO = """environment_name,seed,iteration,frame,eval_episode_return,train_episode_return,eval_num_episodes,train_num_episodes,human_gap
ms_pacman,1,0,0,210.5,nan,100,0,1.0
ms_pacman,1,1,1000000,900.25,500.5,98,250,0.9
ms_pacman,2,0,0,nan,nan,0,0,nan
ms_pacman,2,1,1000000,1100,600,90,260,0.8
"""


def test_dqn_zoos_table_of_an_agent(report: Callable[..., dict[str, Any]]) -> None:
    write("rainbow.csv", ZOO)
    found = report("rainbow.csv")
    first, second = found["runs"]
    assert (first["agent"], first["env"], first["returns"]) == ("rainbow", "ALE/MsPacman-v5", "evaluation")
    assert (first["frames"], first["steps"], first["episodes"], first["score"]) == (1_000_000, None, 250, 900.25)
    assert (first["score_at_steps"], first["wall_s"], first["training_return_last_100"]) == (None, None, None)
    assert second["episodes"] == 260
    assert len(schema.read_evals(Path("results/ALE/MsPacman-v5/rainbow/seed2"))) == 1, "no game ended, no score"
    (comparison,) = found["comparisons"]
    assert (comparison["n_runs"], comparison["score"]["mean"]) == (2, (900.25 + 1100) / 2)


def test_steps_of_dqn_zoo_follow_from_the_frames_of_a_step(report: Callable[..., dict[str, Any]]) -> None:
    write("results.csv", ZOO)
    first = report("results.csv", "--agent", "rainbow", "--frames-per-step", "4")["runs"][0]
    assert (first["frames"], first["steps"]) == (1_000_000, 250_000)
    assert (first["imported"]["frames"], first["imported"]["steps"]) == ("of the files", "4 frames a step")


# A plain CSV


def test_a_plain_csv_with_every_column(report: Callable[..., dict[str, Any]]) -> None:
    write("mine.csv", "agent,env,seed,steps,score,wall_s,joules\nA,CartPole-v1,4,10,1,2,30\nA,CartPole-v1,4,20,5,4,60\n"
          "A,CartPole-v1,4,20,8,4,60\nB,CartPole-v1,4,20,9,4.5,61.5\n")  # fmt: skip
    a, b = report("mine.csv", "--returns", "evaluation", "--protocol", "control")["runs"]
    assert (a["agent"], a["seed"], a["steps"], a["frames"], a["wall_s"]) == ("A", 4, 20, 20, 4.0)
    assert (a["score"], a["returns"]) == (6.5, "evaluation"), "two games at the same step"
    assert (a["energy"]["joules"], a["energy"]["method"], a["energy"]["absent"]) == (60.0, "estimated", [])
    assert (b["agent"], b["energy"]["joules"], b["budget"]) == ("B", 61.5, "20-steps")


def test_a_plain_csv_with_columns_of_other_names(report: Callable[..., dict[str, Any]]) -> None:
    write("wandb.csv", "Step,return,score\n100,7,x\n200,9.5,y\n")
    arguments = ["--agent", "mine", "--env", "Walker2d-v5", "--columns", "steps=Step", "score=return"]
    (run,) = report("wandb.csv", *arguments)["runs"]
    assert (run["steps"], run["frames"], run["score"], run["returns"]) == (200, None, 9.5, "unknown")
    assert (run["env_record"]["kind"], run["env_record"]["frames_per_step"], run["human_play_h"]) == ("other", None, None)
    assert run["human_play_reason"] == "the real-time rate of the task is not known"


# What is refused


BAD: dict[str, tuple[str | None, list[str], str]] = {
    "no such path": (None, [], "does not exist"),
    "unknown format": ("steps,score\n1,2\n", ["--format", "numpy"], "unknown format 'numpy': choose auto, sb3"),
    "another format": ("steps,score\n1,2\n", ["--format", "dqn_zoo"], "it has no column 'eval_episode_return'"),
    "empty": ("", [], "is empty"),
    "no rows": ("steps,score\n", [], "no rows"),
    "binary": ("steps,score\n1,2\udcff\n", [], "is no text"),
    "too many cells": ("steps,score\n1,2\n2,3,4\n", [], "line 3 has 3 cells, its header names 2 columns"),
    "too few cells": ("steps,score\n1\n", [], "line 2 has 1 cells"),
    "open quote": ('steps,score\n1,"2\n', [], "is no CSV"),
    "text for a number": ("steps,score\n1,2\n2,high\n", [], "line 3: score is 'high', it should be a number"),
    "empty cell": ("steps,score\n1,\n", [], "score is ''"),
    "infinite": ("steps,score\n1,inf\n", [], "finite"),
    "half a step": ("steps,score\n1.5,2\n", [], "whole number"),
    "negative": ("steps,score\n-1,2\n", [], "not negative"),
    "absurd": ("steps,score\n1e300,2\n", [], "whole number"),
    "underscore": ("steps,score\n1_000,2\n", [], "number"),
    "twice the column": ("steps,score,score\n1,2,3\n", [], "two columns called 'score'"),
    "no score": ("steps,points\n1,2\n", [], "needs a column score"),
    "no axis": ("episode,score\n1,2\n", [], "one of steps and frames"),
    "going back": ("steps,score\n5,2\n4,3\n", [], "line 3: steps goes back from 5 to 4"),
    "half a seed": ("steps,score,seed\n1,2,0.5\n", [], "seed is '0.5'"),
    "unknown column": ("steps,score\n1,2\n", ["--columns", "score=points"], "has no column 'points'"),
    "unknown role": ("steps,score\n1,2\n", ["--columns", "points=score"], "write NAME=YOURS"),
    "several agents": ("steps,score,agent\n1,2,A\n1,2,B\n", ["--agent", "C"], "one name to several (A, B)"),
    "way out": ("steps,score\n1,2\n", ["--env", "../../home"], "cannot be the name of an env"),
    "no frames": ("steps,score\n1,2\n", ["--frames-per-step", "0"], "at least 1"),
    "returns": ("steps,score\n1,2\n", ["--returns", "both"], "evaluation or training"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, arguments, fault = BAD[name]
    if content is not None:
        Path("in.csv").write_bytes(content.encode("utf-8", "surrogateescape"))
    names = [
        word
        for flag, value in (("--agent", "mine"), ("--env", "CartPole-v1"))
        if flag not in arguments
        for word in (flag, value)
    ]
    assert playmeter.main(["import", "in.csv", *names, *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert fault in error
    assert not Path("results").exists()


MONITOR = '#{"t_start": 1.0, "env_id": "CartPole-v1"}\nr,l,t\n1,1,1\n'


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"x/readme.txt": "hello"}, "no results of a known format"),
        ({"x/a.csv": "steps,score\n1,2\n", "x/b.csv": "frames,score\n1,2\n"}, "other columns than"),
        ({"x/monitor.csv": MONITOR, "x/dqn.csv": ZOO}, "several formats: choose one with --format dqn_zoo or sb3"),
        ({"x/monitor.csv": "r,l,t\n1,1,1\n"}, "is not from stable-baselines3's Monitor"),
        ({"x/monitor.csv": MONITOR.replace("r,l,t", "r,l,x")}, "no column 't'"),
        ({"x/monitor.csv": MONITOR.partition("1,1,1")[0]}, "no finished episode"),
        ({"x/monitor.csv": MONITOR.replace("1.0", '"noon"')}, "t_start is 'noon'"),
        ({"x/0.monitor.csv": MONITOR, "x/1.monitor.csv": MONITOR.replace("CartPole", "Acrobot")}, "several environments"),
        ({"x/a/monitor.csv": MONITOR, "x/b/monitor.csv": MONITOR}, "holds the same as"),
        ({"x/events.out.tfevents.1": "no events"}, "no curve of returns"),
        ({"x/pong.json": '[{"Iteration": 0, "Value": NaN, "Agent": "DQN"}]'}, "entry 1 should have"),
        ({"x/pong.json": '[{"Iteration": 0, "Value": 1, "Agent": "DQN"}, 7]'}, "entry 2 should have"),
        ({"x/pong.json": json.dumps([{"Iteration": i, "Value": 1, "Agent": "D"} for i in (0, 0, 1)])}, "cannot be told apart"),
    ],
)  # fmt: skip
def test_bad_folders_are_one_line_and_nothing_is_written(
    files: dict[str, str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files.items():
        write(name, text)
    assert playmeter.main(["import", "x", "--agent", "mine"]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert fault in error
    assert not Path("results").exists()


@pytest.mark.parametrize("what", ["agent", "env"])
def test_what_the_files_do_not_name_has_to_be_given(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("in.csv", "steps,score\n1,2\n")
    flags = {"agent": ["--env", "CartPole-v1"], "env": ["--agent", "mine"]}[what]
    assert playmeter.main(["import", "in.csv", *flags]) == 2
    assert f"does not say which {what} it is of: give --{what}" in capsys.readouterr().err


def test_a_full_disk_half_way_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    write("in.csv", "steps,score,seed\n1,2,0\n1,3,1\n")
    whole, written = RunFolder.ledger, []

    def full(folder: RunFolder, line: schema.LedgerLine) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(line)
        whole(folder, line)

    monkeypatch.setattr(RunFolder, "ledger", full)
    with pytest.raises(InputError, match="No space left on device"):
        import_runs(ImportConfig(Path("in.csv"), agent="mine", env="CartPole-v1"), [])
    assert len(written) == 1
    assert not Path("results").exists()


def test_our_own_run_folders_are_not_imported(capsys: pytest.CaptureFixture[str]) -> None:
    write("in.csv", "steps,score\n1,2\n")
    assert playmeter.main(["import", "in.csv", "--agent", "mine", "--env", "CartPole-v1"]) == 0
    for path in ("results", "results/CartPole-v1/mine/seed0/monitor.csv"):
        assert playmeter.main(["import", path, "--agent", "mine", "--out", "other"]) == 2
        assert "is a run folder of playmeter already" in capsys.readouterr().err


# Twice, and beside other runs


def test_an_import_twice_is_refused_and_names_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    write("in.csv", "steps,score\n1,2\n")
    arguments = ["import", "in.csv", "--env", "CartPole-v1", "--agent"]
    assert playmeter.main([*arguments, "mine"]) == 0
    write("in.csv", "steps,score\n1,2\n")
    for agent in ("mine", "renamed"):
        assert playmeter.main([*arguments, agent]) == 2
        assert "was imported before, as results/CartPole-v1/mine/seed0: give --again" in capsys.readouterr().err
    assert playmeter.main([*arguments, "mine", "--again"]) == 0
    runs, _ = tables.read_runs([Path("results")])
    assert [run.id for run in runs] == ["CartPole-v1/mine/seed0", "CartPole-v1/mine/seed0-2"]
    (comparison,) = comparisons.compare(runs, curves.of_runs(runs))
    assert (comparison["n_runs"], len(comparison["repeats"])) == (1, 1), "the same seed again is no second seed"


def test_runs_without_a_seed_take_free_numbers() -> None:
    for number in range(3):
        path = Path(write(f"{number}.csv", f"steps,score\n1,{number}\n"))
        (folder,), _ = import_runs(ImportConfig(path, agent="mine", env="CartPole-v1"), [])
        assert schema.read_run(folder).seed == number


def compared() -> list[dict[str, Any]]:
    runs, _ = tables.read_runs([Path("results")])
    return comparisons.compare(runs, curves.of_runs(runs))


def test_training_returns_are_never_pooled_with_evaluations_and_are_named() -> None:
    for number, returns in enumerate(["evaluation", "training", None]):
        path = Path(write(f"{number}.csv", f"steps,score\n1,{number}\n"))
        import_runs(ImportConfig(path, agent="mine", env="CartPole-v1", returns=returns, protocol="control"), [])
    comparisons = compared()
    assert [c["label"] for c in comparisons] == [
        "mine", "mine (training returns)", "mine (training or evaluation: not known)",
    ]  # fmt: skip
    assert [c["n_runs"] for c in comparisons] == [1, 1, 1]


def test_an_import_beside_a_run_of_ours_with_the_same_name_is_another_agent() -> None:
    """Its settings are not known, so they are no difference that could be named."""
    write_run(Path("results/CartPole-v1/dqn/seed0"), "dqn", scores=[20.0, 400.0], steps=1000)
    path = Path(write("in.csv", "steps,score,seed\n500,30,0\n1000,90,0\n"))
    config = ImportConfig(path, agent="dqn", env="CartPole-v1", returns="evaluation", protocol="control")
    (folder,), _ = import_runs(config, [])
    assert folder.name == "seed0-2"
    ours, theirs = compared()
    assert [ours["label"], theirs["label"]] == ["dqn (trained by playmeter)", "dqn (imported from csv)"]
    assert (ours["differs"], theirs["differs"]) == ({"imported": None}, {"imported": "csv"})
    assert (ours["score"]["mean"], theirs["score"]["mean"]) == (400.0, 90.0)
    assert len({repr(run.record.env) for run in tables.read_runs([Path("results")])[0]}) == 1, "they share a section"


def test_runs_of_an_unknown_budget_that_differ_in_length_say_so() -> None:
    for name, lengths in {"a": (10, 10), "b": (10, 300)}.items():
        rows = "".join(f"1,{length},{t}\n" for t, length in enumerate(lengths))
        write(f"logs/{name}/monitor.csv", f'#{{"t_start": 1.0, "env_id": "CartPole-v1"}}\nr,l,t\n{rows}')
    import_runs(ImportConfig(Path("logs"), agent="mine"), [])
    (comparison,) = compared()
    assert "trained unequally long: the last scores are at 20 to 310 steps" in comparison["notes"]


def test_the_page_keeps_protocols_apart_and_names_as_text() -> None:
    from analysis.report import write_report

    for number, protocol in enumerate(["control", "unknown"]):
        path = Path(write(f"{number}.csv", f"steps,score\n1,{number}\n2,{number + 1}\n"))
        import_runs(ImportConfig(path, agent="<script>alert(1)<script>", env="CartPole-v1", protocol=protocol), [])
    write_report([Path("results")], Path("page.html"), None)
    text = Path("page.html").read_text()
    assert text.count("<section id=") == 2 + 3, "one an environment and protocol, landmarks, the runs, how it was measured"
    assert "nobody said how the environment was played" in text
    assert "<script>alert" not in text
    assert "imported from csv" in text


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("CartPole-v1", "CartPole-v1"), ("BreakoutNoFrameskip-v4", "ALE/Breakout-v5"), ("ALE/Breakout-v5", "ALE/Breakout-v5"),
        ("Breakout-v4", "ALE/Breakout-v5"), ("ms_pacman", "ALE/MsPacman-v5"), ("airraid", "ALE/AirRaid-v5"),
        ("MinAtar/Breakout-v1", "MinAtar/Breakout-v1"), ("MinAtar/Breakout-v0", None), ("LunarLander-v2", None),
        ("CartPole", None), ("Walker2d-v5", None), ("Breakout-ram-v4", None), ("", None),
    ],
)  # fmt: skip
def test_games_are_known_by_the_names_that_others_give_them(name: str, ours: str | None) -> None:
    env = known_env(name)
    assert (env.id if env else None) == ours
