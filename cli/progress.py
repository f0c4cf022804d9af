"""How a training goes, on one line."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self

from cli.ending import let_go_of_stdout
from runs.schema import ABSENT, MEASURED, RUNNING, Energy, total_energy

if TYPE_CHECKING:
    from runs.config import RunConfig
    from runs.progress import Progress, Score


def say(text: str, show: Callable[[str], None] | None = None) -> None:
    """A line on standard output. Where that cannot be written any more (whoever read it has gone, its disk is full), the training is worth
    more than its lines: from then on they go nowhere, which is said once on standard error."""
    try:
        if show is None:
            print(text, flush=True)
        else:
            show(text)
    except OSError as error:
        with suppress(OSError):
            print(f"playmeter: standard output cannot be written ({error.strerror}): going on without it", file=sys.stderr)
        let_go_of_stdout()


class Line:
    """One line that changes: live on a terminal, a plain line now and then where output is piped."""

    PLAIN_EVERY_S = 10.0

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(highlight=False)
        self.live = Live(console=self.console, transient=False, refresh_per_second=4) if self.console.is_terminal else None
        self.last_plain_s = float("-inf")

    def __enter__(self) -> Self:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            try:
                self.live.stop()
            except OSError:  # the terminal has gone
                let_go_of_stdout()

    def notice(self, text: str) -> None:
        if self.live is None:
            say(text)
        else:
            say(text, partial(self.console.print, markup=False, soft_wrap=True))

    def show(self, text: str, at_s: float, last: bool) -> None:
        """``last``: it will not change any more."""
        if self.live is not None:
            from rich.text import Text

            self.live.update(Text(text))
        elif last or at_s - self.last_plain_s >= self.PLAIN_EVERY_S:
            self.last_plain_s = float("-inf") if last else at_s
            say(text)


class ProgressLine(Line):
    """How a training goes."""

    RECENT_S = 300.0  # whose pace says what is left: an hour ago the machine may have been busy, or the process stopped

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config
        self.first: Progress | None = None  # of the runs that train now: setting up is no measure of speed
        self.recent: deque[Progress] = deque()

    def __enter__(self) -> Self:
        envs = self.config.envs
        on = envs[0] if len(envs) == 1 else f"{len(envs)} environments ({envs[0]} to {envs[-1]})"
        self.notice(f"training {self.config.agent} on {on}, {len(self.config.seeds)} seed(s), {self.config.budget} each")
        return super().__enter__()

    def update(self, progress: Progress) -> None:
        self.show(self.text(progress), progress.wall_s, progress.status != RUNNING)

    def text(self, progress: Progress) -> str:
        from analysis import units

        runs = (progress.games, progress.seeds)
        if self.first is None or runs != (self.first.games, self.first.seeds):  # each group has a clock of its own
            self.first = progress
            self.recent.clear()
        self.recent.append(progress)
        while len(self.recent) > 2 and self.recent[1].wall_s < progress.wall_s - self.RECENT_S:
            self.recent.popleft()
        parts = []
        if self.config.more_envs:
            parts.append(progress.games[0] if len(progress.games) == 1 else f"{len(progress.games)} games")
        if len(progress.seeds) < len(self.config.seeds):
            parts.append(f"seed {', '.join(map(str, progress.seeds))}")
        pace = f"{units.count(progress.steps_per_s)} steps/s"
        if progress.status == RUNNING and not progress.steps_per_s:
            pace = "set up" if progress.wall_s == self.first.wall_s else pace
            if progress.evaluating:
                pace = (
                    f"evaluating, {units.count(progress.evaluating[0])} of {units.count(progress.evaluating[1])} games played"
                )
        parts += [f"{progress.fraction:4.0%}", pace]
        if told := score(progress.eval_score):
            parts.append(f"score {told}")
        elif told := score(progress.train_score):
            parts.append(f"training score {told}")
        parts += [played(progress.frames, progress.play_s), spent(progress.energy)]
        if progress.status != RUNNING:
            parts.append(f"{progress.status} after {units.duration(progress.wall_s)}")
        elif progress.fraction > self.first.fraction:
            since = self.recent[0] if progress.fraction > self.recent[0].fraction else self.first  # a long evaluation
            whole_s = (progress.wall_s - since.wall_s) / (progress.fraction - since.fraction)
            left_s, more = whole_s * (1 - progress.fraction), progress.to_follow
            left = [f"{units.duration(left_s)} left"] if left_s else []  # what the last evaluation takes is not known
            if more:
                left.append(f"about {units.duration(left_s + more * whole_s)} with the {more} to follow")
            if left:
                parts.append(", ".join(left))
        return "  ".join(parts)


class SweepLine(Line):
    """How several trainings go that run at the same time."""

    def __init__(self, trainings: int) -> None:
        super().__init__()
        self.trainings = trainings
        self.latest: dict[int, Progress] = {}
        self.over: set[int] = set()
        self.first: tuple[float, float] | None = None  # when, and how much was done: of what was continued there was something

    def update(self, number: int, progress: Progress) -> None:
        self.latest[number] = progress
        now_s = time.monotonic()
        self.show(self.text(now_s), now_s, last=False)

    def text(self, now_s: float) -> str:
        from analysis import units

        told = self.latest.values()
        training = [progress for number, progress in self.latest.items() if number not in self.over]
        done = (len(self.over) + sum(progress.fraction for progress in training)) / self.trainings
        self.first = self.first or (now_s, done)
        counts = {"train": len(training), "wait": self.trainings - len(self.over) - len(training), "over": len(self.over)}
        play_s = None if any(progress.play_s is None for progress in told) else sum(progress.play_s or 0.0 for progress in told)
        energy = total_energy({str(number): progress.energy for number, progress in self.latest.items()})
        parts = [
            f"{done:4.0%}", ", ".join(f"{count} {what}" for what, count in counts.items()),
            f"{units.count(sum(progress.steps_per_s for progress in training))} steps/s",
            played(sum(progress.frames for progress in told), play_s), spent(energy),
        ]  # fmt: skip
        since_s, before = self.first
        if done > before:
            parts.append(f"about {units.duration((now_s - since_s) * (1 - done) / (done - before))} left")
        return "  ".join(parts)


def played(frames: int, play_s: float | None) -> str:
    from analysis import units

    play = "no physical time" if play_s is None else f"{units.duration(play_s)} of human play"
    return f"{units.count(frames)} frames ({play})"


def spent(energy: Energy) -> str:
    """With its interval."""
    from analysis import units

    if energy.method == ABSENT:
        return "energy not known"
    sign = "" if energy.method == MEASURED else "about "
    return f"{sign}{units.energy(energy.joules)} ({units.energy_range(energy.joules, energy.low_j, energy.high_j)})"


def score(told: Score | None) -> str:
    """A score and what share of a person's it is; over several games the share alone. Empty where neither is known."""
    from analysis import units

    if told is None:
        return ""
    human = None if told.human_share is None else f"{units.percent(told.human_share)} of human"
    if told.mean is not None:
        return units.score(told.mean) + (f" ({human})" if human else "")
    return f"{human} (median of {told.games})" if human else ""
