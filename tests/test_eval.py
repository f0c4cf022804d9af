"""``playmeter eval``: what is told of agents that play again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import playmeter as front_door
from analysis.statistics import bootstrap_iqm, iqm
from runs import schema
from tests.command_line import TINY, playmeter, started


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two agents with two seeds and one, of Atari another one."""
    folder = tmp_path_factory.mktemp("work")
    pong = ("--agent.encoder", "mlp", "--agent.replay-capacity", "400", "--protocol", "sticky")
    for words in (
        ("dqn", "CartPole-v1", "--seeds", "2", "--budget", "400-steps", *TINY),
        ("double", "CartPole-v1", "--budget", "400-steps", *TINY),
        ("dqn", "ALE/Pong-v5", "--budget", "100-steps", *TINY, "--evals", "1", "--eval-episodes", "1", *pong),
    ):
        done = playmeter("train", *words, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = front_door.main(["eval", *arguments])
    return code, *capsys.readouterr()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_each_agent_has_a_line_and_every_number_follows_from_its_games(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores.json"
    code, output, errors = told(capsys, str(trained / "results"), "--episodes", "5", "--json", str(scores))
    assert (code, errors) == (0, "")
    head, *lines = output.splitlines()
    assert cells(head) == ["games", "mean ± std. error", "median", "lowest to highest", "of human", "in training"]
    data = json.loads(scores.read_text())
    runs: dict[str, dict[str, Any]] = {run["id"]: run for run in data["runs"]}
    assert list(runs) == ["CartPole-v1/double/seed0", "CartPole-v1/dqn/seed0", "CartPole-v1/dqn/seed1", "Pong-v5/dqn/seed0"]
    for line, (name, run) in zip(lines, runs.items(), strict=False):
        returns = run["returns"]
        found = cells(line)
        assert found[0] == name
        assert found[1] == str(len(returns)) == "5"
        mean, _, error = found[2].replace("−", "-").partition(" ± ")
        assert float(mean) == pytest.approx(statistics.mean(returns), rel=1e-3)
        assert float(error) == pytest.approx(statistics.stdev(returns) / 5**0.5, rel=1e-3)
        assert float(found[3].replace("−", "-")) == statistics.median(returns)
        assert found[4].replace("−", "-") == f"{min(returns):g} to {max(returns):g}"
    pong = runs["Pong-v5/dqn/seed0"]
    assert pong["human_normalised"] == pytest.approx((pong["mean"] + 20.7) / (14.6 + 20.7))
    assert f"{100 * pong['human_normalised']:.2g} %".replace("-", "−") in cells(lines[list(runs).index("Pong-v5/dqn/seed0")])
    assert (pong["protocol"], pong["epsilon"], pong["trained_steps"]) == ("sticky", 0.001, 100)
    assert [run["human_normalised"] for run in runs.values() if "CartPole" in run["id"]] == [None] * 3
    assert [
        (run["agent"], run["env"], run["budget"]) for run in runs.values() if run["id"].startswith("CartPole-v1/double")
    ] == [("double", "CartPole-v1", "400-steps")]
    frames = sum(run["frames"] for run in runs.values())
    assert all(run["frames"] >= sum(run["lengths"]) for run in runs.values())
    assert f"20 games, {frames:,} frames (" in lines[-1]
    seconds = pong["frames"] / 60 + (frames - pong["frames"]) / 50
    assert f"({seconds / 60:.3g} min of human play)" in lines[-1] or f"({seconds:.3g} s of human play)" in lines[-1]


def test_seeds_of_one_agent_are_told_together_and_no_others(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores.json"
    _, output, _ = told(capsys, str(trained / "results"), "--episodes", "4", "--json", str(scores))
    data = json.loads(scores.read_text())
    (group,) = data["over_seeds"]
    assert group["runs"] == ["CartPole-v1/dqn/seed0", "CartPole-v1/dqn/seed1"]
    means = [statistics.mean(run["returns"]) for run in data["runs"] if run["id"] in group["runs"]]
    interval = bootstrap_iqm([np.array(means)])
    assert interval is not None
    assert (group["iqm"], group["low"], group["high"]) == (pytest.approx(iqm(np.array(means))), interval.low, interval.high)
    (line,) = [line for line in output.splitlines() if "seeds:" in line]
    assert line.startswith(f"dqn on CartPole-v1, 400-steps, 2 seeds: mean {statistics.mean(means):.4g}".rstrip("0"))
    assert "95 % interval" in line


def test_the_score_of_the_training_is_told_where_it_was_played_by_the_same_rules(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, scores = trained / "results/ALE/Pong-v5", tmp_path / "scores.json"
    (evaluated,) = (one.mean_return for one in schema.read_evals(folder / "dqn/seed0"))

    def in_training(*options: str) -> float | None:
        assert told(capsys, str(folder), "--episodes", "1", "--json", str(scores), *options)[0] == 0
        value: float | None = json.loads(scores.read_text())["runs"][0]["in_training"]
        return value

    assert in_training() == evaluated
    assert in_training("--epsilon", "0.001") == evaluated
    assert in_training("--epsilon", "0.01") is None
    assert in_training("--protocol", "atari100k") is None, "as many random actions, but no sticky ones"


def test_an_agent_that_learned_more_after_its_last_evaluation_was_not_evaluated(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, scores = tmp_path / "cut", tmp_path / "scores.json"
    shutil.copytree(trained / "results/CartPole-v1/double/seed0", folder)
    first, _ = (folder / schema.EVALS_FILE).read_text().splitlines(keepends=True)
    (folder / schema.EVALS_FILE).write_text(first)
    assert told(capsys, str(folder), "--json", str(scores))[0] == 0
    assert json.loads(scores.read_text())["runs"][0]["in_training"] is None


def test_repeats_and_unfinished_runs_are_no_seeds_more(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in reports: of a seed that was trained twice the newest counts, and one that was interrupted does not beside finished ones."""
    folder, scores = tmp_path / "results/CartPole-v1/dqn", tmp_path / "scores.json"
    shutil.copytree(trained / "results/CartPole-v1/dqn", folder)
    shutil.copytree(folder / "seed0", folder / "seed0-2")

    def pooled() -> list[list[str]]:
        assert told(capsys, str(tmp_path / "results"), "--episodes", "2", "--json", str(scores))[0] == 0
        data = json.loads(scores.read_text())
        assert len(data["runs"]) == 3
        return [[name.rpartition("/")[2] for name in group["runs"]] for group in data["over_seeds"]]

    ((first, second),) = pooled()
    assert {first[:5], second} == {"seed0", "seed1"}
    shutil.copytree(trained / "results/CartPole-v1/dqn/seed1", folder / "seed2")
    shutil.rmtree(folder / "seed0-2")
    record = json.loads((folder / "seed2" / schema.RUN_FILE).read_text())
    (folder / "seed2" / schema.RUN_FILE).write_text(json.dumps(record | {"seed": 2}))
    assert pooled() == [["seed0", "seed1", "seed2"]]
    last = replace(schema.read_ledger(folder / "seed2")[-1], status=schema.INTERRUPTED)
    with (folder / "seed2" / schema.LEDGER_FILE).open("a") as ledger:
        ledger.write(schema.seal(last))
    assert pooled() == [["seed0", "seed1"]]


def test_agents_that_were_interrupted_play_but_are_not_pooled_and_are_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds that stopped somewhere on their way have no budget in common."""
    folder = tmp_path / "dqn"
    shutil.copytree(trained / "results/CartPole-v1/dqn", folder)
    for seed in ("seed0", "seed1"):
        last = replace(schema.read_ledger(folder / seed)[-1], status=schema.INTERRUPTED)
        with (folder / seed / schema.LEDGER_FILE).open("a") as ledger:
            ledger.write(schema.seal(last))
    code, output, errors = told(capsys, str(folder), "--episodes", "2", "--json", "-")
    data = json.loads(output)
    assert (code, len(data["runs"]), data["over_seeds"], data["left_out"]) == (0, 2, [], {})
    assert [line.partition(" ")[2] for line in errors.splitlines()] == ["was interrupted at step 400 of 400-steps"] * 2


def test_an_energy_that_nobody_knows_is_null(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.evaluate.total_energy", lambda energy: schema.Energy(0.0, 0.0, 0.0, schema.ABSENT))
    _, output, _ = told(capsys, str(trained / "results/CartPole-v1/double"), "--episodes", "1", "--json", "-")
    energy = json.loads(output)["energy"]
    assert (energy["joules"], energy["low_j"], energy["high_j"], energy["method"]) == (None, None, None, "absent")
    assert "energy not known" in told(capsys, str(trained / "results/CartPole-v1/double"), "--episodes", "1")[1]


def test_who_cannot_play_is_left_out_and_named(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "results"
    shutil.copytree(trained / "results", folder)
    (folder / "CartPole-v1/dqn/seed0" / schema.FINAL_CHECKPOINT).unlink()
    (folder / "CartPole-v1/dqn/seed1" / schema.FINAL_CHECKPOINT).write_bytes(b"no archive")
    (folder / "CartPole-v1/double/seed0" / schema.RUN_FILE).write_text("{}")
    code, output, errors = told(capsys, str(folder), "--episodes", "1", "--json", "-")
    assert code == 0
    data = json.loads(output)
    assert [run["id"] for run in data["runs"]] == ["Pong-v5/dqn/seed0"]
    assert list(data["left_out"]) == ["CartPole-v1/double/seed0", "CartPole-v1/dqn/seed0", "CartPole-v1/dqn/seed1"]
    lines = errors.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"left out: {name}: ") for line, name in zip(lines, data["left_out"], strict=True))
    assert "run.json" in lines[0]
    assert "it has no final agent: no checkpoints/final.pt" in lines[1]
    assert "no checkpoint that can be loaded" in lines[2]
    assert data["runs"][0]["std_error"] is None, "one game says nothing of its spread"


def test_lines_go_where_output_goes_and_a_terminal_shows_how_far_it_is(trained: Path) -> None:
    """A file has every line while errors go to the terminal; there, what changes stands below the lines."""
    terminal, theirs = os.openpty()
    process = started("eval", "results/CartPole-v1", "--episodes", "2", cwd=trained, stderr=theirs)
    os.close(theirs)
    output = process.communicate(timeout=120)[0]
    os.close(terminal)
    assert process.returncode == 0
    lines = output.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == [
        f"CartPole-v1/{run}" for run in ("double/seed0", "dqn/seed0", "dqn/seed1")
    ]
    assert "\x1b" not in output
    terminal, theirs = os.openpty()
    process = started("eval", "results/ALE", "--episodes", "10", cwd=trained, stdout=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # whoever wrote has ended
        while piece := os.read(terminal, 10_000):
            shown += piece
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    assert b"Pong-v5/dqn/seed0: 0 of 10 games over" in shown
    assert b"Pong-v5/dqn/seed0     10 " in shown


@pytest.mark.parametrize(
    ("asked_to_end", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)], ids=["Ctrl-C", "the queue's end"]
)
def test_who_has_played_is_kept_when_the_rest_is_interrupted(
    trained: Path, tmp_path: Path, asked_to_end: signal.Signals, code: int
) -> None:
    """Three agents have played 100 games each when the fourth, which needs minutes for them, begins."""
    scores = tmp_path / "scores.json"
    process = started("eval", "results", "--episodes", "100", "--json", str(scores), cwd=trained)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    process.send_signal(asked_to_end)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert re.fullmatch("left out: Pong-v5/dqn/seed0: interrupted.*\n", errors)
    data = json.loads(scores.read_text())
    assert [run["id"] for run in data["runs"]] == [line.split()[0] for line in lines[1:]]
    assert [len(run["returns"]) for run in data["runs"]] == [100, 100, 100]
    assert len(data["over_seeds"]) == 1
    assert list(data["left_out"]) == ["Pong-v5/dqn/seed0"]
    assert "300 games" in output


def test_nothing_is_written_where_nobody_had_played_when_it_was_interrupted(trained: Path, tmp_path: Path) -> None:
    """The first of two is playing; the second is not begun any more."""
    folder, scores = tmp_path / "results", tmp_path / "scores.json"
    for seed in (0, 1):
        shutil.copytree(trained / "results/ALE/Pong-v5/dqn/seed0", folder / f"seed{seed}")
    process = started("eval", str(folder), "--episodes", "100", "--json", str(scores), cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(3)  # it loads the agent, and plays
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, scores.exists()) == (130, "", False)
    names = [line.partition(": ")[2] for line in errors.splitlines()]
    assert [name.rpartition(": ")[2] for name in names] == [
        "interrupted, its games are not all over",
        "interrupted before it played",
    ]


def test_where_nobody_can_play_so_it_is_bad_input(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, errors = told(capsys, str(trained / "results/CartPole-v1"), "--protocol", "nature")
    assert (code, output) == (2, "")
    says = "protocol 'nature' does not apply to CartPole-v1: choose control"
    assert errors == f"playmeter: CartPole-v1/double/seed0 (and 2 more): {says}\n"
    assert told(capsys, str(trained / "results"), "--epsilon", "2")[0] == 2
    assert told(capsys, str(trained / "results"), "--episodes", "0")[0] == 2
