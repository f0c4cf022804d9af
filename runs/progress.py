"""What a listener is told of a training that goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from runs.budget import Budget
from runs.counters import Counters
from runs.meter import MeterReading
from runs.schema import RUNNING, Energy


def each_once(notice: Callable[[str], None]) -> Callable[[str], None]:
    """``notice``, told nothing twice: group after group, or case after case, would say the same."""
    said: set[str] = set()

    def tell(text: str) -> None:
        if text not in said:
            said.add(text)
            notice(text)

    return tell


@dataclass(frozen=True)
class Progress:
    """What a listener is told at every heartbeat, evaluation and end; sums over the S runs of the process where it says so."""

    games: tuple[str, ...]  # the environments of these runs
    seeds: tuple[int, ...]  # and their seeds
    to_follow: int  # groups of runs that begin when this one has ended
    status: str
    fraction: float  # of the budget
    steps_per_s: float  # in sum over seeds: since the last report, and over the whole run once it has ended
    steps: int  # per seed
    frames: int  # in sum over seeds
    play_s: float | None  # in sum over seeds
    wall_s: float
    joules: float  # in sum over seeds
    low_j: float
    high_j: float
    energy_method: str
    evaluating: bool
    train_score: float | None  # mean of the latest training games of all seeds
    eval_score: float | None  # mean of the latest evaluation over all seeds


Listener = Callable[[Progress], None]


@dataclass
class Reporter:
    """Tells a listener how far the S runs of this process are."""

    listener: Listener
    games: tuple[str, ...]
    seeds: tuple[int, ...]
    to_follow: int
    counters: Counters
    budget: Budget
    wall_s: float  # at the last report
    steps: int = field(init=False)  # at the last report
    first_step: int = field(init=False)  # of this process
    train_score: float | None = field(default=None, init=False)
    evaluating: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.steps = self.first_step = self.counters.steps

    def report(
        self,
        status: str,
        whole: MeterReading,
        wall_s: float,
        energy: Energy,
        games: Sequence[Sequence[float]],
        evaluations: Sequence[Sequence[float]],
    ) -> None:
        """``whole``: of this process. ``wall_s``, ``energy``: of the runs, with those that they continue.

        ``games``: scores of the training games since the last report; ``evaluations``: mean scores of all
        so far; each by seed."""
        counters, seeds = self.counters, self.counters.seeds
        before_s, before_steps = (self.wall_s, self.steps) if status == RUNNING else (whole.active_s["setup"], self.first_step)
        seconds = max(whole.wall_s - before_s, 1e-9)
        scores = [score for of_seed in games for score in of_seed]
        self.train_score = float(np.mean(scores)) if scores else self.train_score
        latest = [of_seed[-1] for of_seed in evaluations if of_seed]
        frames = int(counters.frames_by_seed.sum())
        rate = counters.frame_rate_hz
        self.listener(
            Progress(
                games=self.games,
                seeds=self.seeds,
                to_follow=self.to_follow,
                status=status,
                fraction=min(1.0, self.budget.fraction(counters)),
                steps_per_s=(counters.steps - before_steps) * seeds / seconds,
                steps=counters.steps,
                frames=frames,
                play_s=None if rate is None else frames / rate,
                wall_s=wall_s,
                joules=energy.joules,
                low_j=energy.low_j,
                high_j=energy.high_j,
                energy_method=energy.method,
                evaluating=self.evaluating,
                train_score=self.train_score,
                eval_score=float(np.mean(latest)) if latest else None,
            )
        )
        self.wall_s, self.steps = whole.wall_s, counters.steps
