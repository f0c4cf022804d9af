"""Interrupted and continued equals uninterrupted, bit for bit; what was spent is never forgotten."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.baselines import baseline_config
from agents.config import AgentConfig
from agents.family import agent_config
from runs import schema
from runs.budget import parse_budget
from runs.config import InputError, RunConfig
from runs.progress import Progress
from runs.train import Outcome, train
from tests.torture import result, torture

SMALL = AgentConfig(hidden=(16,), batch_size=8, learning_starts_steps=30, epsilon_decay_steps=200, replay_capacity=90)
RAINBOW = replace(
    SMALL, head="c51", num_atoms=11, v_max=50.0, double=True, dueling=True, noisy=True, prioritized=True, n_step=3,
    priority_uniform_share=0.1, target_ema_rate=0.05,
)  # fmt: skip
IQN = replace(SMALL, head="iqn", num_tau=4, num_tau_target=4, num_tau_act=4, tau_cosines=4, munchausen=True, envs_per_seed=2)
SR_SPR = replace(
    SMALL, encoder="minatar", augment=True, shift_pixels=1, self_predict=True, self_predict_steps=3, n_step=2, prioritized=True,
    target_ema_rate=0.05, act_with_target=True, reset_every_steps=35, n_step_start=4, gamma_start=0.9, anneal_updates=25,
)  # fmt: skip
MINATAR = replace(SMALL, encoder="minatar", replay_ratio=0.25, n_step=2)
ATARI = replace(
    agent_config("dqn", "atari"), hidden=(8,), batch_size=4, learning_starts_steps=40, replay_capacity=70, replay_ratio=0.1
)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine loses its power here, and a disk may take a tenth of a second for each."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def config(out: Path, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "agent": "dqn", "env": "CartPole-v1", "agent_config": SMALL, "seeds": (0,), "budget": "240-steps", "evals": 2,
        "eval_episodes": 2, "out": str(out), "device": "cpu", "compile": "off", "threads": 1, "heartbeat_s": 0.02,
        "checkpoint_every": "50-steps",
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
    monkeypatch.setattr("runs.train.Group._fail", lambda self, status: None)


def interrupt_at(step: int, number: int = signal.SIGTERM) -> Callable[[Progress], None]:
    asked = []

    def listener(progress: Progress) -> None:
        if progress.steps >= step and not asked:
            asked.append(os.kill(os.getpid(), number))

    return listener


def last(outcome: Outcome) -> schema.LedgerLine:
    return schema.read_ledger(outcome.folder)[-1]


KINDS: dict[str, dict[str, Any]] = {  # the other environments are in tests/slow/torture.py
    "rainbow": {"agent": "rainbow", "agent_config": RAINBOW},
    "iqn on Acrobot, 2 seeds of 2 envs": {
        "agent": "iqn",
        "env": "Acrobot-v1",
        "agent_config": IQN,
        "seeds": (0, 1),
        "evals": 1,
        "eval_episodes": 1,
    },
    "qrdqn on MountainCar, whose episodes are truncated": {
        "env": "MountainCar-v0",
        "agent_config": replace(SMALL, head="qr", num_quantiles=5),
        "budget": "360-steps",
        "evals": 1,
        "eval_episodes": 1,
    },
    "MinAtar": {"env": "MinAtar/Breakout-v1", "agent_config": MINATAR},
    "bbf's ideas": {"env": "MinAtar/Breakout-v1", "agent_config": SR_SPR, "budget": "160-steps"},
    "Atari": {"env": "ALE/Breakout-v5", "agent_config": ATARI, "budget": "80-steps", "evals": 1, "eval_episodes": 1},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_run_that_was_killed_and_continued_is_the_run_that_would_have_been(
    kind: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the midst of it; continued and asked to stop by a signal; continued to its end."""
    monkeypatch.setattr("envs.world.World.reseed_steps", 60)
    monkeypatch.setattr("runs.evaluate.MAX_ATARI_LANES", 1)
    whole = train(config(tmp_path / "whole", **kind))
    steps = int(parse_budget(kind.get("budget", "240-steps")).amount)
    with monkeypatch.context() as killed:
        kill_at(killed, steps // 2)
        with pytest.raises(Killed):
            train(config(tmp_path / "cut", heartbeat_s=5.0, **kind))  # the only lines of its ledger are those of checkpoints
    again = config(tmp_path / "cut", resume=True, **kind)
    parts = train(again, interrupt_at(int(0.6 * steps)))
    assert {part.status for part in parts} == {"interrupted"}
    parts = train(again)
    for uninterrupted, part in zip(whole, parts, strict=True):
        assert result(part.folder) == result(uninterrupted.folder)
        assert part.eval_scores == uninterrupted.eval_scores
        assert last(part).consumed.steps >= last(part).lineage.steps == last(uninterrupted).consumed.steps
        assert not list((part.folder / "checkpoints").glob("re*")), "a finished run needs no checkpoints"
        assert not (part.folder / "lock").exists()


def test_consumed_never_falls_and_is_never_less_than_lineage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over three kills: every cost grows from line to line; lineage goes back to the checkpoint, and only there."""
    for step in (90, 140, 230):
        with monkeypatch.context() as killed:
            kill_at(killed, step)
            with pytest.raises(Killed):
                train(config(tmp_path, resume=True, checkpoint_every="60-steps", heartbeat_s=0.001))
    (outcome,) = train(config(tmp_path, resume=True, checkpoint_every="60-steps", heartbeat_s=0.001))
    (whole,) = train(config(tmp_path / "whole"))
    assert result(outcome.folder) == result(whole.folder), "each episode and evaluation is there once"
    lines = schema.read_ledger(outcome.folder)
    backwards = 0
    for before, after in itertools.pairwise(lines):
        for name in ("frames", "steps", "updates", "episodes"):
            assert getattr(after.consumed, name) >= getattr(before.consumed, name)
            assert getattr(after.consumed, name) >= getattr(after.lineage, name)
        for name in ("wall_s", "cpu_s", "joules", "low_j", "high_j", "eval_frames", "boot_frames"):
            assert getattr(after, name) >= getattr(before, name), name
        assert after.flops.total >= before.flops.total
        backwards += after.lineage.steps < before.lineage.steps
    assert backwards == 3
    lost = sum(before.lineage.steps - after.lineage.steps for before, after in itertools.pairwise(lines)
               if after.lineage.steps < before.lineage.steps)  # fmt: skip
    line = lines[-1]
    assert line.consumed.steps - line.lineage.steps >= lost > 0
    assert (line.status, line.lineage.steps) == ("finished", 240)
    assert sum("counted steps were lost" in note for note in line.notes) == 3


def test_a_run_killed_before_its_first_checkpoint_begins_again_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = train(config(tmp_path / "whole"))
    with monkeypatch.context() as killed:
        kill_at(killed, 45)
        with pytest.raises(Killed):
            train(config(tmp_path / "cut", heartbeat_s=0.001))
    (again,) = train(config(tmp_path / "cut", resume=True))
    assert again.folder.name == "seed0"
    assert result(again.folder) == result(whole.folder)
    assert last(again).consumed.steps > 240


def test_what_has_ended_is_left_alone_and_what_was_not_begun_is_begun(tmp_path: Path) -> None:
    said: list[str] = []
    (first,) = train(config(tmp_path, resume=True), notice=said.append)
    assert said[0] == "nothing to continue for seed 0: starting"
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    (second,) = train(config(tmp_path, resume=True), notice=said.append)
    assert "finished already" in said[-1]
    assert (second.folder, second.status, second.eval_scores) == (first.folder, "finished", first.eval_scores)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_seeds_that_have_finished_in_other_groups_are_left_alone_and_the_others_begun(tmp_path: Path) -> None:
    before = [*train(config(tmp_path, seeds=(0,))), *train(config(tmp_path, seeds=(1, 2)))]
    said: list[str] = []
    outcomes = train(config(tmp_path, seeds=(0, 1, 2, 3), resume=True), notice=said.append)
    assert [outcome.folder for outcome in outcomes[:3]] == [outcome.folder for outcome in before]
    assert [(outcome.seed, outcome.status) for outcome in outcomes] == [(seed, "finished") for seed in range(4)]
    assert sorted(path.name for path in (tmp_path / "CartPole-v1/dqn").iterdir()) == ["seed0", "seed1", "seed2", "seed3"]
    assert "nothing to continue for seed 3: starting" in said
    assert train(config(tmp_path, seeds=(0, 1, 2, 3), resume=True))[3].folder == outcomes[3].folder


def test_a_rest_that_was_interrupted_goes_on_beside_what_has_ended_in_another_group(tmp_path: Path) -> None:
    train(config(tmp_path, seeds=(0,)))
    asked = config(tmp_path, seeds=(0, 1, 2), resume=True)
    assert [outcome.status for outcome in train(asked, interrupt_at(60))] == ["finished", "interrupted", "interrupted"]
    outcomes = train(asked)
    assert [(outcome.folder.name, outcome.status) for outcome in outcomes] == [(f"seed{k}", "finished") for k in range(3)]
    train(config(tmp_path / "more", seeds=(0,)), interrupt_at(60))
    with pytest.raises(InputError, match="unfinished and has other settings"):
        train(config(tmp_path / "more", seeds=(0, 1), resume=True))


def test_priorities_that_overflow_are_a_run_that_diverged_and_no_fault_of_the_program(tmp_path: Path) -> None:
    """An infinite priority would be looked for behind the last row; on a GPU that ends the whole group."""
    agent = replace(SMALL, learning_rate=1e20, prioritized=True, priority_exponent=0.5)
    (outcome,) = train(config(tmp_path, agent_config=agent, budget="1500-steps", heartbeat_s=0.5))
    assert outcome.status == "diverged"


def test_a_seed_that_diverged_is_not_trained_again_with_others(tmp_path: Path) -> None:
    asked = config(tmp_path, agent_config=replace(SMALL, learning_rate=1e30), budget="1500-steps", heartbeat_s=0.5)
    (first,) = train(asked)
    assert first.status == "diverged"
    outcomes = train(replace(asked, seeds=(0, 1), resume=True))
    assert [(outcome.folder.name, outcome.status) for outcome in outcomes] == [("seed0", "diverged"), ("seed1", "diverged")]


def test_a_rest_of_which_one_has_diverged_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 0 finished alone; then 1 and 2 trained together, of which 1 diverged before the interrupt."""
    train(config(tmp_path, seeds=(0,)))
    asked = config(tmp_path, seeds=(0, 1, 2), resume=True)
    train(asked, interrupt_at(60))
    ledger = tmp_path / "CartPole-v1/dqn/seed1" / schema.LEDGER_FILE
    lines = schema.read_ledger(ledger.parent)
    ledger.write_text("".join(map(schema.seal, [*lines[:-1], replace(lines[-1], status="diverged")])))
    outcomes = train(asked)
    assert [(outcome.seed, outcome.folder.name) for outcome in outcomes] == [(0, "seed0"), (1, "seed1"), (2, "seed2")]
    assert [last(outcome).lineage.steps for outcome in outcomes] == [240, 240, 240]


def test_finished_runs_of_another_start_are_not_taken_for_those_of_a_group_that_was_killed_at_once(tmp_path: Path) -> None:
    """Of the second start only the folder of seed 0 was made."""
    first = train(config(tmp_path, seeds=(0, 1)))
    again = tmp_path / "CartPole-v1/dqn/seed0-2"
    again.mkdir()
    record = json.loads((first[0].folder / schema.RUN_FILE).read_text())
    (again / schema.RUN_FILE).write_text(json.dumps(record | {"started_utc": "2036-01-01T00:00:00+00:00"}))
    before = [(path, path.read_bytes()) for outcome in first for path in sorted(outcome.folder.rglob("*")) if path.is_file()]
    outcomes = train(config(tmp_path, seeds=(0, 1), resume=True))
    assert sorted((outcome.seed, outcome.folder.name, outcome.status) for outcome in outcomes) == [
        (0, "seed0-3", "finished"),
        (1, "seed1", "finished"),
    ]
    assert [(path, path.read_bytes()) for path, _ in before] == before


def test_a_signal_that_comes_as_one_group_ends_ends_the_command_and_is_told(tmp_path: Path) -> None:
    """Seeds of large networks train one after another on a CPU."""
    said: list[str] = []
    asked = config(
        tmp_path, env="ALE/Breakout-v5", agent_config=ATARI, budget="60-steps", evals=1, eval_episodes=1, seeds=(0, 1)
    )

    def at_the_end(progress: Progress) -> None:
        assert (progress.seeds, progress.to_follow) == ((0,), 1)
        if progress.status == "finished":
            os.kill(os.getpid(), signal.SIGTERM)

    (outcome,) = train(asked, at_the_end, said.append)
    assert (outcome.seed, outcome.status, outcome.signal) == (0, "finished", signal.SIGTERM)
    assert said[-1] == "not begun, or not looked at: 1 more of these runs"
    assert not (tmp_path / "ALE/Breakout-v5/dqn/seed1").exists()


def test_what_there_is_to_say_of_setting_up_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("runs.family.faster_precision", lambda *asked: "there is a faster way")
    asked = config(
        tmp_path, env="ALE/Breakout-v5", agent_config=ATARI, budget="60-steps", evals=1, eval_episodes=1, seeds=(0, 1)
    )
    train(asked, notice=said.append)
    assert said.count("there is a faster way") == 1
    train(replace(asked, resume=True, seeds=(2,)), notice=said.append)
    assert said.count("there is a faster way") == 1, "another precision would not be this run"


def test_what_is_told_of_a_continued_run_is_of_all_of_it(tmp_path: Path) -> None:
    seen: list[Progress] = []
    (first,) = train(config(tmp_path, seeds=(3,)), interrupt_at(120))
    spent = last(first)
    (outcome,) = train(config(tmp_path, seeds=(3,), resume=True), seen.append)
    line = last(outcome)
    assert seen[-1].wall_s == line.wall_s > spent.wall_s
    assert seen[-1].joules == pytest.approx(line.joules)
    assert line.joules > spent.joules > 0
    assert all(progress.joules > spent.joules for progress in seen)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"budget": "300-steps"}, "budget: 240-steps, not 300-steps"),
        ({"agent_config": replace(SMALL, gamma=0.9)}, "agent.gamma: 0.99, not 0.9"),
        ({"evals": 3}, "evals: 2, not 3"),
        ({"seeds": (0, 1)}, "seeds: [0], not [0, 1]"),
    ],
)
def test_another_configuration_is_refused_with_what_differs(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    train(config(tmp_path), interrupt_at(20))
    with pytest.raises(InputError) as refusal:
        train(config(tmp_path, resume=True, **change))
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    (same,) = train(config(tmp_path, resume=True, budget="0.24k-steps", checkpoint_every="1h", heartbeat_s=1.0))
    assert same.status == "finished", "another notation of the same budget, and what decides no result"


def test_an_evaluation_that_was_cut_off_is_played_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runs.evaluate import evaluate

    (whole,) = train(config(tmp_path / "whole", evals=1))

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        return evaluate(*arguments)

    with monkeypatch.context() as cut:
        cut.setattr("runs.loop.evaluate", interrupted)
        (part,) = train(config(tmp_path / "cut", evals=1))
    assert (part.status, part.signal, schema.read_evals(part.folder)) == ("interrupted", signal.SIGUSR1, [])
    (again,) = train(config(tmp_path / "cut", evals=1, resume=True))
    assert result(again.folder) == result(whole.folder)
    assert last(again).eval_frames == last(whole).eval_frames + 2, "one step of two lanes was thrown away"


def test_a_seed_that_diverges_is_stopped_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runs.folder import load_policy
    from runs.loop import Loop

    monkeypatch.setattr("runs.loop.LOOK_STEPS", 20)
    whole = train(config(tmp_path / "whole", seeds=(0, 1, 2)))
    act = Loop._act

    def poisoned(self: Loop, obs: Any) -> Any:
        if self.learner.steps == 110:
            self.learner.params[1, 0] = np.nan
        return act(self, obs)

    monkeypatch.setattr(Loop, "_act", poisoned)
    said: list[str] = []
    outcomes = train(config(tmp_path / "ill", seeds=(0, 1, 2)), notice=said.append)
    assert [outcome.status for outcome in outcomes] == ["finished", "diverged", "finished"]
    assert any("seed 1: diverged by step 120" in text and "of step 100" in text for text in said)
    for k in (0, 2):
        assert result(outcomes[k].folder) == result(whole[k].folder)
    line = last(outcomes[1])
    assert (line.status, line.lineage.steps, line.consumed.steps, line.params_sha256) == ("diverged", 120, 240, None)
    assert schema.read_evals(outcomes[1].folder) == [], "nothing plays for an agent that is gone"
    policy = load_policy(outcomes[1].folder / schema.FINAL_CHECKPOINT)
    assert all(np.isfinite(tensor.numpy()).all() for tensor in policy.network.state_dict().values())


def test_where_all_seeds_diverge_the_last_good_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runs.loop.LOOK_STEPS", 20)
    monkeypatch.setattr("runs.loop.EXPLODED", 0.0)
    (outcome,) = train(config(tmp_path, checkpoint_every="10-steps", agent_config=replace(SMALL, learning_starts_steps=35)))
    line = last(outcome)
    assert (outcome.status, line.status, line.lineage.steps) == ("diverged", "diverged", 20)
    assert "diverged by step 20" in line.notes[-1]
    (again,) = train(
        config(tmp_path, resume=True, checkpoint_every="10-steps", agent_config=replace(SMALL, learning_starts_steps=35))
    )
    assert again.status == "diverged", "it would diverge again"


def test_a_baseline_begins_again_and_ends_where_it_would_have_ended(tmp_path: Path) -> None:
    small = replace(baseline_config("sb3:dqn", "classic"), net_arch=(8,), learning_starts=20, train_freq=4, gradient_steps=1)
    kind = {"agent": "sb3:dqn", "agent_config": small, "evals": 1, "budget": "120-steps"}
    (whole,) = train(config(tmp_path / "whole", **kind))
    train(config(tmp_path / "cut", **kind), interrupt_at(50))
    (again,) = train(config(tmp_path / "cut", resume=True, **kind))
    assert result(again.folder) == result(whole.folder)
    assert last(again).consumed.steps > 120


def test_a_full_disk_costs_a_checkpoint_and_not_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from runs import checkpoint

    write = checkpoint.write_part
    calls = []

    def full(path: Path, *arguments: Any) -> Any:
        calls.append(path)
        if 4 <= len(calls) <= 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, *arguments)

    (whole,) = train(config(tmp_path / "whole"))
    monkeypatch.setattr(checkpoint, "write_part", full)
    said: list[str] = []
    (outcome,) = train(config(tmp_path / "full"), notice=said.append)
    assert result(outcome.folder) == result(whole.folder)
    refused = next(text for text in said if "No space left" in text)
    assert refused == "no checkpoint at step 100: No space left on device; that of step 50 stays"


def test_a_ledger_that_cannot_be_written_ends_the_run_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from runs import folder
    from runs.config import DiskError

    append = folder._append
    calls = []

    def full(file: Any, line: str) -> None:
        calls.append(line)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
        append(file, line)

    (whole,) = train(config(tmp_path / "whole"))
    with monkeypatch.context() as disk:
        disk.setattr(folder, "_append", full)
        with pytest.raises(DiskError, match=r"No space left on device.*--resume"):
            train(config(tmp_path / "full", heartbeat_s=0.001))
    assert schema.read_ledger(tmp_path / "full/CartPole-v1/dqn/seed0")[-1].status == "running"
    (again,) = train(config(tmp_path / "full", resume=True))
    assert result(again.folder) == result(whole.folder)


def test_files_are_cut_back_only_where_all_can_be_and_never_through_a_link(tmp_path: Path) -> None:
    (part,) = train(config(tmp_path), interrupt_at(60))
    monitor = part.folder / schema.MONITOR_FILE
    whole = monitor.read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(whole)
    monitor.unlink()
    monitor.symlink_to(elsewhere)
    with pytest.raises(InputError, match="is a link"):
        train(config(tmp_path, resume=True))
    assert elsewhere.read_bytes() == whole
    monitor.unlink()
    monitor.write_bytes(whole[:10])
    with pytest.raises(InputError, match="shorter than at the checkpoint"):
        train(config(tmp_path, resume=True))
    monitor.write_bytes(whole)
    with (part.folder / schema.LEDGER_FILE).open("ab") as file:
        file.write(b'{"status":"runn')
    (again,) = train(config(tmp_path, resume=True))
    assert again.status == "finished"
    assert len(schema.read_ledger(again.folder)) == len((again.folder / schema.LEDGER_FILE).read_bytes().splitlines())


def damage(folder: Path) -> None:
    """Another digit in the first evaluation, so that its checksum is wrong."""
    path = folder / schema.EVALS_FILE
    first, _, rest = path.read_bytes().partition(b"\n")
    assert rest, "a damaged last line would be one that was cut off"
    path.write_bytes(first.replace(b'"steps":60', b'"steps":61') + b"\n" + rest)


def test_evaluations_that_cannot_be_read_are_one_line_before_any_file_is_changed(tmp_path: Path) -> None:
    """Of the second seed: the first one's files are as they were too."""
    asked = config(tmp_path, seeds=(0, 1), evals=4)
    outcomes = train(asked, interrupt_at(200))
    damage(outcomes[1].folder)
    with (outcomes[0].folder / schema.MONITOR_FILE).open("a") as file:
        file.write("1.0,10,1.0,10\n")  # an episode after the checkpoint, which will be played again
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"seed1 cannot be continued: .*evals\.jsonl") as error:
        train(replace(asked, resume=True))
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_evaluations_that_are_played_again_anyway_may_be_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut: behind the last checkpoint, at step 150, a line is damaged that is no last one."""
    asked = config(tmp_path, evals=16, checkpoint_every="150-steps")
    (whole,) = train(replace(asked, out=str(tmp_path / "whole")))
    with monkeypatch.context() as killed:
        kill_at(killed, 210)
        with pytest.raises(Killed):
            train(asked)
    evals = tmp_path / "CartPole-v1/dqn/seed0" / schema.EVALS_FILE
    lines = evals.read_bytes().splitlines(keepends=True)
    assert len(lines) > 11, "the tenth was played at the checkpoint"
    evals.write_bytes(b"".join([*lines[:10], lines[10].replace(b'"steps":165', b'"steps":166'), *lines[11:]]))
    with pytest.raises(schema.SchemaError):
        schema.read_evals(evals.parent)
    (again,) = train(replace(asked, resume=True))
    assert result(again.folder) == result(whole.folder)


def test_of_a_run_that_has_finished_they_are_said_and_the_others_go_on(tmp_path: Path) -> None:
    (done,) = train(config(tmp_path, evals=4))
    damage(done.folder)
    said: list[str] = []
    outcomes = train(config(tmp_path, evals=4, seeds=(0, 1), resume=True), notice=said.append)
    assert [(outcome.status, bool(outcome.eval_scores)) for outcome in outcomes] == [("finished", False), ("finished", True)]
    assert any("evals.jsonl" in text for text in said)


def test_an_empty_file_that_was_lost_is_made_anew(tmp_path: Path) -> None:
    """`find -empty -delete`, or a store of objects that keeps no empty ones."""
    (whole,) = train(config(tmp_path / "whole"))
    (part,) = train(config(tmp_path / "part"), interrupt_at(60))
    evals = part.folder / schema.EVALS_FILE
    assert evals.read_bytes() == b""
    evals.unlink()
    (again,) = train(config(tmp_path / "part", resume=True))
    assert result(again.folder) == result(whole.folder)


def test_a_run_behind_a_link_is_not_begun_anew(tmp_path: Path) -> None:
    (part,) = train(config(tmp_path / "out"), interrupt_at(60))
    part.folder.rename(tmp_path / "elsewhere")
    part.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="seed0 is a link: a run is continued only in its own folder, /"):
        train(config(tmp_path / "out", resume=True))
    assert sorted(path.name for path in part.folder.parent.iterdir()) == ["seed0"]


def test_curves_of_the_lost_part_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with monkeypatch.context() as killed:
        kill_at(killed, 130)
        with pytest.raises(Killed):
            train(config(tmp_path, heartbeat_s=0.001))
    (again,) = train(config(tmp_path, resume=True))
    points = EventAccumulator(str(again.folder)).Reload().Scalars("1 over steps/evaluation score")
    assert [point.step for point in points] == [e.steps for e in schema.read_evals(again.folder)] == [120, 240]


def test_ten_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """More agents, environments and kills, and of whole process groups: tests/slow/test_torture.py."""
    seen = torture(config(tmp_path, checkpoint_every="20-steps"), tmp_path / "here", 10, seed=1, quick_disk=True)
    assert seen["kills"] >= 10
    assert seen["went back"] > 0
