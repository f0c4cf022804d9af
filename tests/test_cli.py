"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import playmeter as front_door
from analysis import units
from cli.train import envs_of, human_share
from envs import SUITES
from runs import schema
from tests.command_line import ENVIRONMENT, ROOT, TINY, playmeter, started, words


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two seeds were trained."""
    folder = tmp_path_factory.mktemp("work")
    done = playmeter("train", "dqn", "CartPole-v1", "--seeds", "2", "--budget", "400-steps", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_train_says_true_things_on_plain_lines(tmp_path: Path) -> None:
    done = playmeter("train", "double", "CartPole-v1", "--budget", "400-steps", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout, "piped output stays plain"
    lines = done.stdout.splitlines()
    assert "training double on CartPole-v1" in lines[0]
    assert "400 frames (8" in done.stdout, "400 frames at 50 Hz are 8 s of play"
    assert lines[-1].startswith("seed 0: finished, final evaluation")
    assert (tmp_path / "results/CartPole-v1/double/seed0/run.json").exists()
    assert schema.read_run(tmp_path / "results/CartPole-v1/double/seed0").command[:3] == ["playmeter", "train", "double"]


def test_several_environments_are_one_command(tmp_path: Path) -> None:
    done = playmeter("train", "dqn", "CartPole-v1, MountainCar-v0", "--budget", "200-steps", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "training dqn on 2 environments (CartPole-v1 to MountainCar-v0), 1 seed(s), 200-steps each" in done.stdout
    for env in ("CartPole-v1", "MountainCar-v0"):
        assert any(line.startswith(f"{env}  ") for line in done.stdout.splitlines()), "which of them a line is of"
        assert any(line.startswith("seed 0: finished") and env in line for line in done.stdout.splitlines())
        assert schema.read_run(tmp_path / "results" / env / "dqn" / "seed0").env.id == env


def test_an_atari_score_is_told_beside_a_persons(tmp_path: Path) -> None:
    """Who never plays well in 200 steps of Pong has about -21; random play -20.7, the tester 14.6."""
    small = (
        "--evals",
        "1",
        "--eval-episodes",
        "1",
        "--agent.encoder",
        "mlp",
        "--agent.hidden",
        "8",
        "--agent.replay-capacity",
        "400",
    )
    done = playmeter("train", "dqn", "ALE/Pong-v5", "--budget", "200-steps", *TINY, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (score,) = schema.read_evals(tmp_path / "results/ALE/Pong-v5/dqn/seed0")
    share = 100 * (score.mean_return + 20.7) / (14.6 + 20.7)
    assert f"score {units.score(score.mean_return)} ({share:.2g} % of human)".replace("-", "−") in done.stdout
    assert human_share("ALE/Alien-v5", 227.8) == 0
    assert human_share("ALE/Alien-v5", 7127.7) == 1
    assert human_share("CartPole-v1", 500) is None


def test_the_name_of_a_suite_stands_for_its_environments() -> None:
    assert envs_of("atari26") == SUITES["atari26"]
    assert envs_of("CartPole-v1,Acrobot-v1,CartPole-v1") == ("CartPole-v1", "Acrobot-v1")
    assert envs_of("ALE/Pong-v5,atari5") == ("ALE/Pong-v5", *SUITES["atari5"])


def test_report_writes_a_page_and_json(trained: Path) -> None:
    done = playmeter("report", cwd=trained)
    assert (done.returncode, done.stderr) == (0, "")
    assert "<html" in (trained / "report.html").read_text()
    done = playmeter("report", "results", "--json", "-", cwd=trained)
    summary = json.loads(done.stdout)
    assert [run["seed"] for run in summary["runs"]] == [0, 1]
    assert summary["comparisons"][0]["n_runs"] == 2
    line = schema.read_ledger(trained / "results/CartPole-v1/dqn/seed0")[-1]
    assert summary["runs"][0]["frames"] == line.lineage.frames == 400
    assert summary["runs"][0]["params_sha256"] == line.params_sha256


def test_agents_and_envs_are_listed(tmp_path: Path) -> None:
    tree = playmeter("agents", cwd=tmp_path).stdout
    assert tree.index("dqn:") < tree.index("double:") < tree.index("dueling:")
    assert "van Hasselt" in tree
    page = playmeter("agents", "dueling", cwd=tmp_path).stdout
    assert "child of double" in page
    assert "1/sqrt(2)" in page
    table = playmeter("envs", cwd=tmp_path).stdout
    assert len(table.splitlines()) > 100
    rows = {line.split()[0]: line for line in table.splitlines()}
    assert "50 Hz" in rows["CartPole-v1"]
    assert "475" in rows["CartPole-v1"]
    assert "none" in rows["MountainCar-v0"]
    assert "60 Hz" in rows["ALE/Breakout-v5"]
    assert "nature, sticky, atari100k" in rows["ALE/Breakout-v5"]


def test_a_baseline_trains_beside_ours_and_is_listed(trained: Path) -> None:
    settings = ["--sb3.net-arch", "16", "--sb3.learning-starts", "50", "--sb3.train-freq", "4", "--sb3.gradient-steps", "1"]
    done = playmeter(
        "train", "sb3:dqn", "CartPole-v1", "--budget", "400-steps", "--evals", "2", "--out", "beside", *settings, cwd=trained
    )
    assert done.returncode == 0, done.stderr
    record = schema.read_run(trained / "beside/CartPole-v1/sb3-dqn/seed0")
    assert (record.agent, record.agent_config["net_arch"], record.agent_config["tau"]) == ("sb3:dqn", [16], 1.0)
    summary = json.loads(playmeter("report", "results", "beside", "--json", "-", cwd=trained).stdout)
    assert [comparison["agent"] for comparison in summary["comparisons"]] == ["dqn", "sb3:dqn"]
    assert [run["frames"] for run in summary["runs"]] == [400] * 3
    tree = playmeter("agents", cwd=trained).stdout
    assert tree.index("dueling:") < tree.index("sb3:dqn:") < tree.index("sb3:qrdqn:") < tree.index("sb3:ppo:")
    page = playmeter("agents", "sb3:dqn", cwd=trained).stdout
    assert "stable_baselines3.DQN" in page
    assert "dqn.yml CartPole-v1" in page
    assert "target_update_interval" in page


BAD = {
    "no command": ([], "usage"),
    "unknown command": (["trian"], "did you mean train"),
    "no agent": (["train"], "train needs an agent"),
    "unknown agent": (["train", "dqm", "CartPole-v1"], "did you mean dqn"),
    "unknown env": (["train", "dqn", "CartPole"], "CartPole-v1"),
    "env in another case": (["train", "dqn", "ale/pong-v5"], "ALE/Pong-v5"),
    "malformed budget": (["train", "dqn", "CartPole-v1", "--budget", "lots"], "100k-steps"),
    "budget without unit": (["train", "dqn", "CartPole-v1", "--budget", "100k"], "100k what?"),
    "no seeds": (["train", "dqn", "CartPole-v1", "--seeds", "0"], "--seeds"),
    "cuda": (["train", "dqn", "CartPole-v1", "--device", "cuda"], "--device cpu"),
    "bad setting": (["train", "dqn", "CartPole-v1", "--agent.gamma", "1.5"], "agent.gamma"),
    "unknown flag": (["train", "dqn", "CartPole-v1", "--bugdet", "1h"], "--budget"),
    "a word for a number": (["train", "dqn", "CartPole-v1", "--seeds", "many"], "--seeds: 'many' is no whole number"),
    "a word for a setting": (["train", "dqn", "CartPole-v1", "--agent.gamma", "x"], "--agent.gamma: 'x' is no number"),
    "a word for a price": (["report", "--price-usd-per-kwh", "cheap"], "--price-usd-per-kwh: no type matching"),
    "no such choice": (["train", "dqn", "CartPole-v1", "--compile", "maybe"], "Expected one of ('auto', 'on', 'off')"),
    "a seed that no table holds": (
        ["train", "dqn", "CartPole-v1", "--first-seed", "9223372036854775808"],
        "no seed more than 2^63 - 1",
    ),
    "a seed that numpy does not take": (
        ["train", "sb3:dqn", "CartPole-v1", "--first-seed", "4294967296"],
        "no seed more than 2^32 - 1",
    ),
    "a metered seed that no table holds": (
        ["meter", "--seed", "9223372036854775808", "--", "true"],
        "seed must be a whole number",
    ),
    "options before names": (["train", "--seeds", "2", "dqn", "CartPole-v1"], "takes agent and environment first"),
    "checkpoints every what": (
        ["train", "dqn", "CartPole-v1", "--checkpoint-every", "foo"],
        "--checkpoint-every: budget 'foo'",
    ),
    "too few frames to learn": (["train", "dqn", "ALE/Pong-v5", "--budget", "100-frames"], "ends before learning starts"),
    "too few frames for a rollout": (
        ["train", "sb3:ppo", "CartPole-v1", "--budget", "100-frames"],
        "ends before the first update",
    ),
    "too few steps to plan": (["plan", "dqn", "CartPole-v1", "--budget", "10-steps"], "learning starts, after 500 steps"),
    "a million seeds": (
        ["train", "dqn", "CartPole-v1", "--seeds", "1000000", "--budget", "60k-steps"],
        "train fewer seeds at a time",
    ),
    "a forecast to nowhere": (["plan", "dqn", "CartPole-v1", "--json", "none/plan.json"], "none does not exist"),
    "a forecast into a folder": (["plan", "dqn", "CartPole-v1", "--json", "empty"], "empty cannot be written"),
    "a bench to nowhere": (["bench", "--json", "none/bench.json"], "none does not exist"),
    "no port": (["board", "empty", "--port", "-1"], "--port must lie between"),
    "two documents on one output": (["report", "empty", "--json", "-", "--markdown", "-"], "both write to standard output"),
    "a flag without its value": (["train", "dqn", "CartPole-v1", "--seeds"], "Missing value for argument '--seeds'"),
    "nonsense watts": (["train", "dqn", "CartPole-v1", "--cpu-watts", "abc"], "--cpu-watts abc: give watts"),
    "negative watts": (["train", "dqn", "CartPole-v1", "--cpu-watts=-5"], "--cpu-watts -5: give watts"),
    "watts upside down": (["train", "sb3:dqn", "CartPole-v1", "--cpu-watts", "85:65"], "65:85"),
    "no wall meter": (["train", "dqn", "CartPole-v1", "--wall-meter", "none.csv"], "--wall-meter none.csv cannot be read"),
    "a wall meter that is none": (["train", "dqn", "CartPole-v1", "--wall-meter", "file"], "no wall meter's CSV"),
    "no share of a GPU": (["train", "dqn", "CartPole-v1", "--gpu-share", "0"], "--gpu-share"),
    "unknown baseline": (["train", "sb3:pqo", "CartPole-v1"], "did you mean sb3:ppo"),
    "unknown baseline page": (["agents", "sb3:dqm"], "did you mean sb3:dqn"),
    "unknown baseline setting": (["train", "sb3:dqn", "CartPole-v1", "--sb3.learning-rat", "1"], "--sb3.learning-rate"),
    "bad baseline setting": (["train", "sb3:dqn", "CartPole-v1", "--sb3.gamma", "1.5"], "sb3.gamma"),
    "a setting of ours for a baseline": (["train", "sb3:dqn", "CartPole-v1", "--compile", "on"], "unknown option --compile"),
    "an image policy for a vector": (["train", "sb3:dqn", "CartPole-v1", "--sb3.policy", "CnnPolicy"], "MlpPolicy"),
    "unwritable": (["train", "dqn", "CartPole-v1", "--out", "file/results"], "--out"),
    "report on nothing": (["report", "nowhere"], "nowhere"),
    "report on an empty folder": (["report", "empty"], "empty"),
    "report on a foreign folder": (["report", "foreign"], "foreign"),
    "board on nothing": (["board", "empty"], "no TensorBoard curves"),
    "environments of two kinds": (
        ["train", "dqn", "CartPole-v1,ALE/Pong-v5"],
        "CartPole-v1 and ALE/Pong-v5 are of different kinds",
    ),
    "an unknown one of several": (["train", "dqn", "CartPole-v1,Acrobat-v1"], "did you mean Acrobot-v1"),
    "a comma too many": (["train", "dqn", "CartPole-v1,"], "lacks an environment's name"),
    "a forecast of two kinds": (["plan", "dqn", "CartPole-v1,ALE/Pong-v5"], "are of different kinds"),
    "a forecast of a suite too short for one": (
        ["plan", "dqn", "CartPole-v1,Acrobot-v1", "--budget", "20s-play", "--device", "cpu"],
        "ends before learning starts",
    ),
    "nobody to play again": (["eval", "nowhere"], "nowhere does not exist"),
    "no agent to play again": (["eval", "foreign"], "foreign holds no run"),
    "scores into a folder that is not there": (["eval", "--json", "nowhere/scores.json"], "make that folder first"),
    "scores into a link to itself": (["eval", "--json", "circle"], "circle is a link that leads back to itself"),
    "no such env word": (["envs", "tetriss"], "tetriss"),
    "unknown agent page": (["agents", "rainbwo"], "did you mean"),
}


def in_this_process(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, output and errors: a process of its own would take a second for each. What is raised here is a traceback there."""
    try:
        code = front_door.main(arguments)
    except SystemExit as end:  # of tyro
        code = int(end.code or 0)
    return code, *capsys.readouterr()


@pytest.mark.parametrize(("arguments", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_named_with_exit_code_2_and_nothing_is_written(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "empty").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes.txt").write_text("not a run")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    code, output, errors = in_this_process(arguments, capsys)
    assert code == 2, output + errors
    assert says in errors + output
    assert sorted(tmp_path.rglob("*")) == before
    if arguments:
        assert errors.startswith("playmeter: ")
        assert len(errors.splitlines()) == 1


def test_bad_input_of_a_process_is_its_exit_code_and_one_line(tmp_path: Path) -> None:
    done = playmeter("report", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "playmeter: nowhere does not exist: name a run folder, or a folder of runs such as results\n"


def test_a_board_that_is_ended_leaves_nobody_on_its_port(trained: Path) -> None:
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://localhost:{port}/data/runs"
    process = started("board", "--port", str(port), cwd=trained, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not any("CartPole-v1" in run for run in _answer(address)):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.terminate()
        assert process.wait(timeout=30) == 0
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(address, timeout=10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and whoever it left
        process.communicate()


def _answer(address: str) -> list[str]:
    """The runs that TensorBoard shows; none as long as it does not answer."""
    try:
        with urllib.request.urlopen(address, timeout=10) as page:
            runs: list[str] = json.load(page)
    except (urllib.error.URLError, ConnectionError):
        return []
    return runs


def test_help_is_fast() -> None:
    started = time.monotonic()
    subprocess.run(words("--help"), cwd=ROOT, check=True, capture_output=True)
    assert time.monotonic() - started < 2, "0.04 s on a quiet machine: nothing heavy is imported"


def test_the_markdown_on_standard_output_is_utf_8_whatever_the_locale(trained: Path) -> None:
    command = words("report", "results", "--markdown", "-")
    done = subprocess.run(
        command, cwd=trained, capture_output=True, env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"}, check=True
    )
    assert done.stdout.decode().startswith("# What learning cost\n\n2 runs, ")
    assert "CO₂" in done.stdout.decode()
    assert done.stderr == b""
