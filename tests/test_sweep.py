"""``playmeter sweep``: many trainings are the single ones, wherever and beside whatever they run."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

import playmeter as front_door
from agents.config import AgentConfig
from cli.sweep import asked_for
from runs import schema
from runs.config import InputError
from runs.machine import reserved_vcpus
from runs.sweep import apart, check_room
from tests.command_line import TINY, playmeter, started

QUICK = ("--budget", "300-steps", *TINY)


def run_folders(results: Path) -> dict[str, Path]:
    return {str(file.parent.relative_to(results)): file.parent for file in sorted(results.rglob(schema.RUN_FILE))}


def learned(results: Path) -> dict[str, str | None]:
    """Run folder -> the hash of what it learned."""
    return {name: schema.read_ledger(folder)[-1].params_sha256 for name, folder in run_folders(results).items()}


def statuses(results: Path) -> list[str]:
    return [schema.read_ledger(folder)[-1].status for folder in run_folders(results).values()]


def test_a_sweep_is_the_trainings_of_every_combination() -> None:
    words = (
        "dqn,rainbow CartPole-v1,ALE/Pong-v5,Acrobot-v1 --seeds 2 --out some --vary agent.n-step=1,3 budget=10k-steps,20k-steps"
    )
    trainings, out, ray = asked_for(words.split())
    assert (len(trainings), out, ray) == (2 * 2 * 2 * 2, Path("some"), None)
    assert len({(one.config.agent, one.config.envs, one.config.out) for one in trainings}) == 16
    first, last = trainings[0], trainings[-1]
    assert (first.config.agent, first.config.envs) == ("dqn", ("CartPole-v1", "Acrobot-v1")), "what settings fit alike"
    assert (first.config.out, first.config.budget) == ("some/n-step=1,budget=10k-steps", "10k-steps")
    assert (last.config.agent, last.config.envs, last.config.out) == (
        "rainbow",
        ("ALE/Pong-v5",),
        "some/n-step=3,budget=20k-steps",
    )
    assert (last.title, last.config.seeds) == ("rainbow on ALE/Pong-v5 with n-step=3,budget=20k-steps", (0, 1))
    assert all(one.config.resume for one in trainings)
    settings = last.config.agent_config
    assert isinstance(settings, AgentConfig)
    assert (settings.n_step, settings.encoder) == (3, "nature")


def test_switches_and_lists_are_values_too_and_nothing_need_vary() -> None:
    words = ["rainbow", "CartPole-v1", "--vary", "agent.noisy=true,false", "agent.hidden=64 32,8"]
    configs = [one.config for one in asked_for(words)[0]]
    settings = [config.agent_config for config in configs]
    assert [(one.noisy, one.hidden) for one in settings if isinstance(one, AgentConfig)] == [
        (True, (64, 32)),
        (True, (8,)),
        (False, (64, 32)),
        (False, (8,)),
    ]
    assert configs[0].out == "results/noisy=true,hidden=64-32"
    (alone,), out, _ = asked_for(["dqn", "CartPole-v1"])
    assert (alone.config.out, str(out), alone.title) == ("results", "results", "dqn on CartPole-v1")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dqn"], "sweep takes agents and environments first"),
        (["dqn", "CartPole-v1", "--vary", "agent.n-step"], "--vary agent.n-step: give a name, = and values"),
        (["dqn", "CartPole-v1", "--vary", "agent.n-step=1,,3"], "--vary agent.n-step=1,,3: give a name, = and values"),
        (["dqn", "CartPole-v1", "--vary", "agent.n-step=1,x"], "--agent.n-step: 'x' is no whole number"),
        (["dqn", "CartPole-v1", "--vary", "agent.nstep=1,2"], "unknown option --agent.nstep: did you mean --agent.n-step"),
        (["dqn", "CartPole-v1", "--vary", "seeds=1,2"], "seeds is the same for all of a sweep"),
        (["dqn", "CartPole-v1", "--vary", "budget=1k-steps", "budget=2k-steps"], "budget is given twice"),
        (["dqn", "CartPole-v1", "--vary", "agent.hidden=8 8,8_8,8-8"], "two settings would share the folder hidden=8-8"),
        (["dqn,nope", "CartPole-v1"], "unknown agent 'nope'"),
        (["dqn", "CartPole-v1,Nope-v1"], "Nope-v1"),
        (["dqn", "CartPole-v1", "--vary"], "argument --vary: expected at least one argument"),
        (["dqn", "CartPole-v1", "--ray", "somewhere"], "--ray is 'somewhere': give local, auto, or a cluster's address"),
        (["dqn", "CartPole-v1", "--ray", "127.0.0.1:1"], "Ray cannot be reached at 127.0.0.1:1: Connection refused"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_trained(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert front_door.main(["sweep", *words]) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_more_than_any_machine_has_is_not_waited_for() -> None:
    two = [{"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}]
    check_room(two, [{"num_cpus": 4.0, "num_gpus": 0.0}, {"num_cpus": 2.0, "num_gpus": 1.0}])
    with pytest.raises(InputError, match="asks for 5 CPU threads, and no machine"):
        check_room(two, [{"num_cpus": 1.0, "num_gpus": 0.0}, {"num_cpus": 5.0, "num_gpus": 0.0}])
    with pytest.raises(InputError, match="asks for 4 CPU threads and 1 GPUs"):
        check_room(two, [{"num_cpus": 4.0, "num_gpus": 1.0}])


def test_what_ray_is_given_says_its_threads_in_its_command() -> None:
    (alone,), _, _ = asked_for(["dqn", "CartPole-v1", "--device", "cpu"])
    (part,) = apart(alone.config)
    assert (part.threads, part.command[-2:], part.device) == (1, ("--threads", "1"), "cpu")
    (part,) = apart(asked_for(["dqn", "CartPole-v1", "--threads", "2"])[0][0].config)
    assert (part.threads, part.command.count("--threads")) == (2, 1)


SWEEP = ("dqn,c51", "CartPole-v1,Acrobot-v1", "--seeds", "2", "--vary", "agent.n-step=1,3", *QUICK)


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in-turn")
    done = playmeter("sweep", *SWEEP, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[4 of 4] c51 on CartPole-v1, Acrobot-v1 with n-step=3\n" in done.stdout
    assert done.stdout.endswith("report: playmeter report results\n")
    return folder


def test_each_of_them_is_the_training_that_its_own_command_makes(in_turn: Path, tmp_path: Path) -> None:
    """The command that its run.json names, given elsewhere, learns the same."""
    found = learned(in_turn / "results")
    assert len(found) == 16
    assert len(set(found.values())) == 16
    name = "n-step=3/Acrobot-v1/c51/seed1"
    command = json.loads((in_turn / "results" / name / schema.RUN_FILE).read_text())["command"]
    assert command[:4] == ["playmeter", "train", "c51", "CartPole-v1,Acrobot-v1"]
    assert playmeter(*command[1:], cwd=tmp_path).returncode == 0
    assert learned(tmp_path / "results")[name] == found[name]


def test_with_ray_they_learn_the_same(in_turn: Path, tmp_path: Path) -> None:
    done = playmeter("sweep", *SWEEP, "--ray", "local", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert learned(tmp_path / "results") == learned(in_turn / "results")
    assert done.stdout.count(": seed 1: finished, final evaluation ") == 8
    assert f"in {tmp_path}/results/n-step=1/CartPole-v1/dqn/seed0\n" in done.stdout


LONGER = ("sweep", "dqn", "CartPole-v1", "--vary", "agent.n-step=1,2,3", "--budget", "3k-steps", *TINY)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert playmeter(*LONGER, cwd=folder).returncode == 0
    return folder


@pytest.mark.parametrize(
    ("how", "number", "code"),
    [((), signal.SIGINT, 130), (("--ray", "local"), signal.SIGINT, 130), (("--ray", "local"), signal.SIGTERM, 75)],
    ids=["in turn", "with Ray", "with Ray, by the queue"],
)
def test_an_interrupted_sweep_goes_on_where_it_was(
    how: tuple[str, ...], number: signal.Signals, code: int, whole: Path, tmp_path: Path
) -> None:
    """Three trainings of which the first is interrupted: the rest is not begun, or interrupted too; the same command makes what
    would have been."""
    asked, cut = (*LONGER, *how), tmp_path
    process = started(*asked, cwd=cut)
    deadline = time.monotonic() + 60
    while not any((folder / schema.LEDGER_FILE).exists() for folder in run_folders(cut / "results").values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "")
    assert schema.INTERRUPTED in statuses(cut / "results")
    assert f"not begun: {3 - len(run_folders(cut / 'results'))} of 3 trainings\n" in output
    assert "report:" not in output
    again = playmeter(*asked, cwd=cut)
    assert (again.returncode, again.stderr) == (0, "")
    assert learned(cut / "results") == learned(whole / "results")
    before = {name: (folder / schema.LEDGER_FILE).read_bytes() for name, folder in run_folders(cut / "results").items()}
    assert playmeter(*LONGER, cwd=cut).returncode == 0
    assert before == {name: (folder / schema.LEDGER_FILE).read_bytes() for name, folder in run_folders(cut / "results").items()}


def test_no_more_train_at_once_than_there_is_room_for(whole: Path, tmp_path: Path) -> None:
    """Three of which two fit: the last begins when another has ended. They tell several times how far they are, and whoever waits for an
    answer gives his core away meanwhile."""
    done = playmeter(*LONGER, "--threads", str(max(1, int(reserved_vcpus() / 2))), "--ray", "local", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    times = []
    for folder in run_folders(tmp_path / "results").values():
        lines = schema.read_ledger(folder)
        times.append([datetime.fromisoformat(lines[k].time_utc).timestamp() for k in (0, -1)])
    assert len(times) == 3
    last = max(begun for begun, _ in times)
    assert last >= min(ended for _, ended in times) - 1, "to the second"


def test_a_training_whose_process_is_lost_is_begun_again_where_its_checkpoint_was(whole: Path, tmp_path: Path) -> None:
    process = started(*LONGER, "--checkpoint-every", "200-steps", "--ray", "local", cwd=tmp_path)
    deadline, lost = time.monotonic() + 60, None
    while lost is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        checkpoints = [*tmp_path.glob("results/*/CartPole-v1/dqn/seed0/checkpoints/resume-*.json")]
        lost = checkpoints[0].parents[1] if checkpoints else None
    os.kill(json.loads((lost / "lock").read_text())["pid"], signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count("finished, final evaluation") == 3
    assert learned(tmp_path / "results") == learned(whole / "results")
    assert [note for note in schema.read_ledger(lost)[-1].notes if note.startswith("continued at step ")]


@pytest.mark.parametrize("how", [(), ("--ray", "local")], ids=["in turn", "with Ray"])
def test_one_that_cannot_be_trained_does_not_keep_the_others_from_it(how: tuple[str, ...], tmp_path: Path) -> None:
    """One whose budget ends before it learns, between two that can be trained."""
    starts = "agent.learning-starts-steps=50,5000,60"
    done = playmeter("sweep", "dqn", "CartPole-v1", *QUICK, "--vary", starts, *how, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("playmeter: dqn on CartPole-v1 with learning-starts-steps=5000: ")
    assert done.stderr.count("\n") == 1
    assert statuses(tmp_path / "results") == ["finished", "finished"]
