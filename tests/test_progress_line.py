"""What a training's line says at each of its moments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.config import AgentConfig
from cli.progress import ProgressLine, SweepLine
from runs.config import RunConfig
from runs.progress import Progress, Score

NOW = Progress(
    games=("CartPole-v1",), seeds=(0,), to_follow=0, status="running", fraction=0.0, steps_per_s=0.0, steps=0, frames=0, play_s=0.0, wall_s=5.0, joules=36.0, low_j=7.2,
    high_j=72.0, energy_method="estimated", evaluating=None, train_score=None, eval_score=None,
)  # fmt: skip
LATER = replace(
    NOW, fraction=0.25, steps_per_s=125.0, steps=1_000, frames=1_000, play_s=20.0, wall_s=13.0, train_score=Score(21.5, None, 0)
)


@pytest.fixture
def line(tmp_path: Path) -> ProgressLine:
    return ProgressLine(RunConfig("dqn", "CartPole-v1", AgentConfig(), (0,), out=str(tmp_path)))


def test_before_the_first_step_no_speed_is_told(line: ProgressLine) -> None:
    assert line.text(NOW) == "  0%  set up  0 frames (0 s of human play)  about 0.0100 Wh (0.00200–0.0200 Wh)"


def test_while_it_trains_speed_score_play_energy_and_what_is_left(line: ProgressLine) -> None:
    """A quarter in the 8 s since it was set up: three quarters are 24 s."""
    line.text(NOW)
    text = line.text(LATER)
    assert text.startswith(" 25%  125 steps/s  training score 21.5  1,000 frames (20.0 s of human play)  about 0.0100 Wh")
    assert text.endswith("  24.0 s left")
    assert "0 steps/s" in line.text(replace(LATER, steps_per_s=0.0, wall_s=15.0)), "a training that stands still"


def test_what_is_left_is_told_by_the_pace_of_the_last_minutes(line: ProgressLine) -> None:
    """1 % every 10 s, but for an hour in which the process was stopped: a few minutes later that hour is nothing to go by."""

    def after(percent: int, stopped_s: float) -> str:
        return line.text(replace(LATER, fraction=percent / 100, wall_s=5 + 10 * percent + stopped_s))

    line.text(NOW)
    assert [after(percent, 0.0) for percent in range(1, 41)][-1].endswith("  10.0 min left")
    assert not after(41, 3600.0).endswith("  9.83 min left")
    texts = [after(percent, 3600.0) for percent in range(42, 81)]
    assert texts[-1].endswith("  3.33 min left")
    assert line.text(replace(LATER, fraction=0.8, wall_s=5 + 800 + 7200.0)).endswith(" min left"), "a long evaluation"


def test_where_seeds_train_one_after_another_it_says_which_and_what_all_of_them_take(tmp_path: Path) -> None:
    """Each has a clock of its own, also one that goes on from a checkpoint, whose seconds are more than those of the one before."""
    line = ProgressLine(RunConfig("dqn", "ALE/Pong-v5", AgentConfig(), (0, 1, 2), out=str(tmp_path)))
    line.text(replace(NOW, to_follow=2))
    text = line.text(replace(LATER, to_follow=2))
    assert text.startswith("seed 0   25%  125 steps/s")
    assert text.endswith("  24.0 s left, about 88.0 s with the 2 to follow")
    resumed = replace(NOW, seeds=(1,), to_follow=1, fraction=0.5, wall_s=100.0)
    assert "left" not in line.text(resumed)
    assert line.text(replace(resumed, fraction=0.75, wall_s=110.0)).endswith("  10.0 s left, about 50.0 s with the 1 to follow")
    line.text(replace(NOW, seeds=(2,)))
    assert line.text(replace(LATER, seeds=(2,))).endswith("  24.0 s left")


def test_an_evaluation_is_no_training_at_no_speed(line: ProgressLine) -> None:
    line.text(NOW)
    text = line.text(replace(LATER, steps_per_s=0.0, evaluating=(37, 1_000)))
    assert " 25%  evaluating, 37 of 1,000 games played  training score" in text
    assert " 25%  125 steps/s" in line.text(replace(LATER, evaluating=(0, 1_000))), "it has just begun"


def test_the_last_evaluation_is_not_told_as_no_time_left(tmp_path: Path) -> None:
    """It may be longer than the training."""
    line = ProgressLine(RunConfig("dqn", "ALE/Pong-v5", AgentConfig(), (0, 1, 2), out=str(tmp_path)))
    line.text(replace(NOW, to_follow=1))
    evaluating = replace(LATER, fraction=1.0, steps_per_s=0.0, wall_s=45.0, evaluating=(3, 100))
    assert line.text(replace(evaluating, to_follow=1)).endswith("Wh)  about 40.0 s with the 1 to follow")
    assert line.text(evaluating).endswith("Wh)")


def test_a_score_is_told_with_its_share_of_a_persons_and_that_alone_over_several_games(line: ProgressLine) -> None:
    line.text(NOW)
    assert "  score 1,140 (13 % of human)  " in line.text(replace(LATER, eval_score=Score(1140.0, 0.132, 1)))
    assert "  training score −20.7 (0 % of human)  " in line.text(replace(LATER, train_score=Score(-20.7, 0.0, 1)))
    several = Score(None, -0.017, 26)
    assert "  training score −1.7 % of human (median of 26)  " in line.text(replace(LATER, train_score=several))
    assert "  score −1.7 % of human (median of 26)  " in line.text(replace(LATER, eval_score=several))
    assert "125 steps/s  1,000 frames" in line.text(replace(LATER, train_score=Score(None, None, 0)))
    played = line.text(replace(LATER, eval_score=Score(None, None, 0), train_score=several))
    assert "125 steps/s  training score −1.7 %" in played


def test_the_end_says_how_long_it_took_and_what_is_not_known(line: ProgressLine) -> None:
    line.text(NOW)
    done = replace(
        LATER,
        fraction=1.0,
        status="finished",
        eval_score=Score(200.0, None, 0),
        play_s=None,
        energy_method="absent",
        wall_s=60.0,
    )
    assert (
        line.text(done)
        == "100%  125 steps/s  score 200  1,000 frames (no physical time)  energy not known  finished after 60.0 s"
    )


def test_of_trainings_at_the_same_time_it_tells_how_many_and_their_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four: one is over, one at a quarter, one at a half, one waits: 44 %. In 60 s they came from 19 % to there, so what is left takes 135 s."""
    line = SweepLine(4)
    line.latest = {0: replace(LATER, fraction=0.5), 1: replace(LATER, fraction=0.25)}
    assert (
        line.text(100.0)
        == " 19%  2 train, 2 wait, 0 over  250 steps/s  2,000 frames (40.0 s of human play)  about 0.0200 Wh (0.00400–0.0400 Wh)"
    )
    line.over.add(0)
    line.latest[2] = replace(LATER, fraction=0.5)
    text = line.text(160.0)
    assert text.startswith(" 44%  2 train, 1 wait, 1 over  250 steps/s  3,000 frames (60.0 s of human play)  about 0.0300 Wh")
    assert text.endswith("  about 2.25 min left")
    line.latest[3] = replace(LATER, play_s=None, energy_method="absent")
    assert "4,000 frames (no physical time)  about 0.0300 Wh" in line.text(170.0)
