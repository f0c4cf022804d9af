"""The forecast: its arithmetic by hand, its readings of a ledger, and its counts against a training that was really run."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import playmeter
from agents.config import AgentConfig
from analysis.convert import ANYWHERE, Rates
from cli.plan import costs, gpu_in_words, seeds_in_one_process
from envs import spec
from runs.budget import parse_budget
from runs.checkpoint import Manifest, Store
from runs.config import InputError, RunConfig
from runs.family import FamilyTrainer
from runs.plan import (
    Forecast,
    Job,
    Pace,
    Range,
    forecast,
    game_steps,
    learning_pace,
    mean_pace,
    plan,
    power,
    spread_out,
    try_out,
    warm_up_pace,
    whole,
)  # fmt: skip
from runs.prepare import Runs
from runs.schema import Counts, Energy, Flops, LedgerLine, read_ledger
from runs.train import train


def exactly(value: float) -> Range:
    return Range(value, value, value)


PACE = Pace(
    games=("a",), runs=2, setup_s=Range(30.0, 25.0, 40.0), warm_up_step_s=0.01, learning_step_s=Range(0.1, 0.08, 0.2), eval_setup_s=1.0, eval_observation_s=0.002,
    game_steps=Range(50.0, 10.0, 100.0), frames_per_step=4.0, eval_frames_per_observation=3.0, watts=Range(100.0, 50.0, 200.0),
    energy_method="estimated", gpus=1.0, forward_flops=7, update_flops=1_000, memory_bytes=1, replay_bytes=1, checkpoint_bytes=1,
    seconds=10.0,
)  # fmt: skip
JOB = Job(parse_budget("1000-steps"), 60.0, warm_up_steps=200, replay_ratio=0.25, evals=3, eval_episodes=5)


def test_the_arithmetic_by_hand() -> None:
    """200 steps at 0.01 s, 800 at 0.1; 3 evaluations of 5 games of 50 steps at 0.002 s and 1 s each; 30 s (25 to 40) before all that."""
    found = forecast(PACE, JOB)
    assert found.steps == 1_000
    assert found.wall_s.value == pytest.approx(30 + 2 + 80 + 3 * (1 + 5 * 50 * 0.002))
    assert found.wall_s.low == pytest.approx(25 + 2 + 64 + 3 * (1 + 5 * 10 * 0.002))
    assert found.wall_s.high == pytest.approx(40 + 2 + 160 + 3 * (1 + 5 * 100 * 0.002))
    assert found.frames == 2 * 4_000, "two seeds"
    assert found.play_s == pytest.approx(8_000 / 60)
    assert found.eval_frames.value == pytest.approx(2 * 3 * 5 * 50 * 3)
    assert found.joules is not None
    assert found.joules.value == pytest.approx(found.wall_s.value * 100)
    assert found.joules.high == pytest.approx(found.wall_s.high * 200), "slow and hungry at once"
    assert found.gpu_h.value == pytest.approx(found.wall_s.value / 3600), "the process has one GPU, whatever the seeds"
    assert found.flops.value == pytest.approx(2 * (1_000 * 7 + 800 / 4 * 1_000 + 750 * 7))


def test_groups_one_after_another_take_as_long_as_all_of_them() -> None:
    one = forecast(PACE, JOB)
    three = whole([one], 3)
    assert three.wall_s.value == pytest.approx(3 * one.wall_s.value)
    assert (three.frames, three.checkpoint_bytes, three.steps) == (3 * one.frames, 3 * one.checkpoint_bytes, one.steps)


def test_games_that_were_not_tried_take_what_those_tried_take_in_the_mean() -> None:
    """Two of ten were tried, one of them twice as slow."""
    fast, slow = forecast(PACE, JOB), forecast(replace(PACE, learning_step_s=PACE.learning_step_s * 2), JOB)
    found = whole([fast, slow], 10)
    for end in ("low", "value", "high"):
        both = getattr(fast.wall_s, end) + getattr(slow.wall_s, end)
        assert getattr(found.wall_s, end) == pytest.approx(5 * both)
    assert found.play_s == pytest.approx(10 * 8_000 / 60)
    assert whole([fast, replace(slow, play_s=None, joules=None)], 10).play_s is None
    assert whole([fast, replace(slow, play_s=None, joules=None)], 10).joules is None


def test_what_is_tried_of_many_games_lies_far_apart() -> None:
    def tried(count: int) -> list[int]:
        groups = [Runs((spec("CartPole-v1"),), (number,)) for number in range(count)]
        return [group.seeds[0] for group in spread_out(groups)]

    assert [tried(count) for count in (1, 2, 3, 5, 26)] == [[0], [0, 1], [0, 1, 2], [0, 2, 4], [0, 12, 25]]


def test_a_pace_of_several_games_is_their_mean_and_needs_the_room_of_the_largest() -> None:
    slow = replace(PACE, games=("b",), learning_step_s=Range(0.3, 0.1, 0.9), memory_bytes=5)
    found = mean_pace([PACE, slow])
    assert (found.games, found.memory_bytes, found.runs) == (("a", "b"), 5, 2)
    assert found.learning_step_s == Range(pytest.approx(0.2), 0.08, 0.9)
    assert found.watts == PACE.watts
    assert mean_pace([PACE, replace(slow, watts=None)]).watts is None


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ("4000-frames", 1_000),
        ("10s-play", 150),  # 600 frames
        ("36.5s", 200),  # setting up, evaluations and the whole warm-up
        ("37.5s", 210),
        ("5625J", 960),  # of one run: 100 W x (36.5 + 0.1 x 760) s / 2
        ("1e5flops", 585),  # 585 forward passes and 385 / 4 updates are 100,345; a step less is 250 less
    ],
)
def test_a_budget_in_any_unit_becomes_the_steps_that_use_it_up(budget: str, steps: int) -> None:
    found = forecast(PACE, replace(JOB, budget=parse_budget(budget))).steps
    assert found == pytest.approx(steps, abs=1)


def line(steps: int, updates: int, learn_s: float, act_s: float = 0.0, joules: float = 0.0) -> LedgerLine:
    counts = Counts(frames=steps, steps=steps, updates=updates)
    phases = {"setup": 5.0, "act": act_s, "learn": learn_s, "env": 0.0, "eval": 99.0, "io": 0.0}
    energy = {"cpu_package": Energy(joules, joules / 2, joules * 3, "estimated")}
    return LedgerLine(
        "running", "2026-01-01T00:00:00+00:00", counts, counts, 0, 0, 5 + learn_s + act_s, phases, 0.0, 0.0, None, energy, Flops(),
        1, 0,
    )  # fmt: skip


def test_the_pace_is_read_apart_before_and_after_learning_starts() -> None:
    warm_up = [line(0, 0, 0), line(100, 0, 0, act_s=1.0)]
    learning = [line(100 + 10 * k, k, 2.0 * k, act_s=1.0, joules=30.0 * k) for k in range(1, 22)]
    assert warm_up_pace([*warm_up, *learning]) == pytest.approx(0.01)
    pace = learning_pace([*warm_up, *learning])
    assert pace.value == pytest.approx(0.2)
    assert (pace.low, pace.high) == pytest.approx((0.18, 0.22)), "a steady machine may still differ by a tenth tomorrow"
    watts = power([*warm_up, *learning], seeds=4)
    assert watts is not None
    assert (watts.value, watts.low, watts.high) == pytest.approx((60, 30, 180)), "15 W are this run's share of four"


def test_an_uneven_pace_has_a_wide_range() -> None:
    seconds = [0.0]
    for k in range(20):
        seconds.append(seconds[-1] + (1.0 if k % 2 else 3.0))
    pace = learning_pace([line(0, 0, 0), *(line(10 * k, k, s) for k, s in enumerate(seconds[1:], 1))])
    assert pace.value == pytest.approx(0.2, rel=0.05)
    assert pace.low == pytest.approx(0.1, rel=0.01)
    assert pace.high == pytest.approx(0.3, rel=0.01)


def test_games_may_last_from_what_was_seen_to_the_limit() -> None:
    assert game_steps(20, 500) == Range(250, 20, 500)
    assert game_steps(300, 200) == Range(200, 200, 200), "games that a stop cut off count as far as they got, and by halves"
    assert game_steps(400, 27_000) == Range(600, 200, 2_400), "a limit that no game reaches says nothing"


AGENT = AgentConfig(hidden=(8,), batch_size=4, learning_starts_steps=600, replay_capacity=2_000, replay_ratio=0.5)
CONFIG = RunConfig("dqn", "CartPole-v1", AGENT, (0, 1), "1500-steps", evals=2, eval_episodes=3, device="cpu", compile="off")


def test_what_is_counted_is_forecast_exactly(tmp_path: Path) -> None:
    """Frames, acting and updating FLOPs, and the checkpoint's size are those of the real run; time is not promised here."""
    config = replace(CONFIG, out=str(tmp_path / "out"))
    pace, found = plan(config, 1.0, lambda text: None)
    assert not (tmp_path / "out").exists(), "a forecast leaves nothing behind"
    outcomes = train(config, notice=lambda text: None)
    last = read_ledger(outcomes[0].folder)[-1]
    assert (found.steps, found.frames) == (last.lineage.steps, 2 * (last.lineage.frames or 0))
    eval_observations = 2 * 3 * pace.game_steps.value
    act_and_update = found.flops.value / 2 - eval_observations * pace.forward_flops
    assert act_and_update == pytest.approx((last.flops.act or 0) + (last.flops.update or 0), rel=3e-3)
    sizes = [(one.folder / "checkpoints/final.pt").stat().st_size for one in outcomes]
    assert pace.checkpoint_bytes == pytest.approx(sum(sizes), rel=0.02)
    assert 0.1 * (last.wall_s or 0) < found.wall_s.value < 10 * (last.wall_s or 0), "not another unit"


def test_several_environments_are_forecast_together(tmp_path: Path) -> None:
    """One after another on a CPU: what is counted is that of both trainings, and the time is longer than either's."""
    config = replace(CONFIG, out=str(tmp_path / "out"), more_envs=("Acrobot-v1",))
    pace, found = plan(config, 1.0, lambda text: None)
    assert pace.games == ("CartPole-v1", "Acrobot-v1")
    outcomes = train(config, notice=lambda text: None)
    ends = [read_ledger(outcome.folder)[-1] for outcome in outcomes]
    assert (found.steps, found.frames) == (1_500, sum(end.lineage.frames or 0 for end in ends))
    assert found.play_s == pytest.approx(3_000 / 50 + 3_000 / 5)
    assert found.checkpoint_bytes == pytest.approx(
        sum((one.folder / "checkpoints/final.pt").stat().st_size for one in outcomes), rel=0.02
    )
    assert found.wall_s.value > pace.setup_s.low + 3_000 * pace.learning_step_s.low / 2


def test_a_budget_too_short_for_one_of_them_is_refused_before_anything_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 s are 1,000 steps of CartPole and 100 of Acrobot, where learning starts after 600."""
    monkeypatch.setattr("runs.plan.calibrate", lambda *_: pytest.fail("tried"))
    with pytest.raises(InputError, match="ends before learning starts"):
        plan(replace(CONFIG, budget="20s-play", more_envs=("Acrobot-v1",)), 1.0, lambda text: None)


def test_seeds_that_train_one_after_another_are_told_apart_by_their_number() -> None:
    """Their groups are of one seed each, whatever number was asked for."""
    tried = [(replace(CONFIG, seeds=tuple(range(n))), whole([forecast(PACE, JOB)], n)) for n in (1, 4)]
    lines = list(seeds_in_one_process(tried))[1:]
    assert [line.split()[0] for line in lines] == ["1", "4"]
    assert {line.split("process")[1].split("a seed")[0].strip() for line in lines} == {"116 s"}, (
        "30 + 2 + 80 + 3 (1 + 0.5), rounded"
    )


def test_what_is_compiled_in_the_trial_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first trainer that is made takes a second longer, as with a compiler whose cache is cold: that is the high end alone."""
    made, init = [], FamilyTrainer.__init__

    def slow_at_first(trainer: FamilyTrainer, *of: Any) -> None:
        if not made:
            time.sleep(1.0)
        made.append(trainer)
        init(trainer, *of)

    monkeypatch.setattr(FamilyTrainer, "__init__", slow_at_first)
    pace, _ = plan(CONFIG, 1.0, lambda text: None)
    assert pace.setup_s.low == pace.setup_s.value < 0.8
    assert pace.setup_s.high >= 1.0


def test_the_checkpoint_at_a_trials_end_is_no_part_of_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped training writes one, which takes seconds where the agent is large."""
    save = Store.save

    def slow(self: Store, *args: Any) -> Manifest:
        time.sleep(2)
        return save(self, *args)

    monkeypatch.setattr(Store, "save", slow)
    trial = try_out(CONFIG, Runs((spec("CartPole-v1"),) * 2, (0, 1)), 1.0, lambda text: None)
    assert trial.lines[-1].lineage.updates, "it learned"
    assert trial.lines[-1].active_s["io"] < 2


def test_the_command_prints_and_writes_what_it_found(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["plan", "dqn", "CartPole-v1", "--budget", "900-steps", "--compile", "off", "--device", "cpu", "--seconds", "1"]
    words += ["--agent.hidden", "8", "--agent.learning-starts-steps", "100", "--evals", "1", "--eval-episodes", "2"]
    assert (
        playmeter.main([*words, "--country", "FRA", "--pue", "1.2", "--try-seeds", "3", "--json", str(tmp_path / "plan.json")])
        == 0
    )
    text = capsys.readouterr().out
    for part in (
        "900 steps a seed",
        "wall time",
        "France, with a PUE of 1.2",
        "18.0 s of human play",
        "3 in one process",
        "fastest a seed",
    ):
        assert part in text
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["forecast"]["steps"] == 900
    assert (content["country"], content["pue"], content["price_usd_per_gpu_hour"]) == ("FRA", "1.2", None)
    assert content["forecast"]["low_co2_kg"] <= content["forecast"]["co2_kg"] <= content["forecast"]["high_co2_kg"]
    assert [entry["seeds"] for entry in content["side_by_side"]] == [1, 3]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sb3:dqn", "CartPole-v1"], "the family's agents"),
        (["dqn", "CartPole-v1", "--seconds", "0"], "--seconds"),
        (["dqn", "CartPole-v1", "--country", "Frence"], "France"),
        (["dqn", "CartPole-v1", "--price-usd-per-kwh", "-1"], "not negative"),
        (["dqn", "CartPole-v1", "--price-usd-per-gpu-hour", "H1000"], "H100"),
        (["dqn", "CartPole-v1", "--pue", "0.5"], "from 1 on"),
        (["dqn", "CartPole-v1", "--budget", "soon"], "number"),
        (["dqn"], "plan needs an agent and an environment"),
        (["dqn", "CartPole-v1", "--try-seeds", "0"], "--try-seeds"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert playmeter.main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_forecast_of_gpu_hours_says_what_renting_them_costs() -> None:
    found, at = replace(forecast(PACE, JOB), gpu_h=Range(2, 1, 4)), Rates(gpu_hour="2.5")
    assert gpu_in_words(found, costs(found, at), at) == "2.00 h (1.00–4.00 h): $5.00 ($2.50–$10.00), price given"
    assert gpu_in_words(found, costs(found, ANYWHERE), ANYWHERE) == "2.00 h (1.00–4.00 h)"


def test_forecasts_compare() -> None:
    assert isinstance(forecast(PACE, JOB), Forecast)
    assert exactly(2) + 1 == exactly(3)
    assert Range(2, 1, 3) * Range(10, 5, 20) == Range(20, 5, 60)
