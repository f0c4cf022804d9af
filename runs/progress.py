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


HumanShare = Callable[[str, float], float | None]
"""Environment and score -> the share of the human score, 0 random play and 1 the human tester; None where neither was published."""


def no_human(env_id: str, score: float) -> float | None:
    return None


@dataclass(frozen=True)
class Score:
    """The latest scores of S runs, as far as they have any."""

    mean: float | None  # of all seeds; None over several environments, whose scores have no common scale
    human_share: float | None  # of the mean; over several environments the median of them
    games: int  # environments in ``human_share``


def score_of(games: Sequence[str], scores: Sequence[Sequence[float]], human_share: HumanShare) -> Score | None:
    """``scores`` [S][any number] of runs in ``games`` [S]; None where there are none."""
    by_game: dict[str, list[float]] = {game: [] for game in games}
    for game, of_run in zip(games, scores, strict=True):
        by_game[game] += of_run
    means = {game: float(np.mean(of_game)) for game, of_game in by_game.items() if of_game}
    if not means:
        return None
    shares = [share for game, mean in means.items() if (share := human_share(game, mean)) is not None]
    mean = next(iter(means.values())) if len(by_game) == 1 else None
    return Score(mean, float(np.median(shares)) if shares else None, len(shares))


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
    evaluating: tuple[int, int] | None  # games that are over, of how many, in sum over seeds
    train_score: Score | None  # of the latest training games
    eval_score: Score | None  # of the latest evaluation

    @property
    def energy(self) -> Energy:
        return Energy(self.joules, self.low_j, self.high_j, self.energy_method)


Listener = Callable[[Progress], None]


@dataclass
class Reporter:
    """Tells a listener how far the S runs of this process are."""

    listener: Listener
    human_share: HumanShare
    games: Sequence[str]  # [S]
    seeds: Sequence[int]  # [S]
    to_follow: int
    counters: Counters
    budget: Budget
    wall_s: float  # at the last report
    steps: int = field(init=False)  # at the last report
    first_step: int = field(init=False)  # of this process
    trained: list[Sequence[float]] = field(init=False)  # [S] the latest training games of each
    evaluating: tuple[int, int] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.trained = [[] for _ in self.seeds]
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
        so far; each by run."""
        counters, seeds = self.counters, self.counters.seeds
        before_s, before_steps = (self.wall_s, self.steps) if status == RUNNING else (whole.active_s["setup"], self.first_step)
        seconds = max(whole.wall_s - before_s, 1e-9)
        self.trained = [list(now) or before for now, before in zip(games, self.trained, strict=True)]
        frames = int(counters.frames_by_seed.sum())
        rate = counters.frame_rate_hz
        self.listener(
            Progress(
                games=tuple(dict.fromkeys(self.games)),
                seeds=tuple(dict.fromkeys(self.seeds)),
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
                train_score=score_of(self.games, self.trained, self.human_share),
                eval_score=score_of(self.games, [of_run[-1:] for of_run in evaluations], self.human_share),
            )
        )
        self.wall_s, self.steps = whole.wall_s, counters.steps
