"""How a training goes, on one line."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from cli.ending import let_go_of_stdout

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


class ProgressLine:
    """One line that tells how a training goes: live on a terminal, a plain line now and then where output is piped."""

    PLAIN_EVERY_S = 10.0
    RECENT_S = 300.0  # whose pace says what is left: an hour ago the machine may have been busy, or the process stopped

    def __init__(self, config: RunConfig) -> None:
        from rich.console import Console
        from rich.live import Live

        self.config = config
        self.console = Console(highlight=False)
        self.live = Live(console=self.console, transient=False, refresh_per_second=4) if self.console.is_terminal else None
        self.last_plain_s = float("-inf")
        self.first: Progress | None = None  # of the runs that train now: setting up is no measure of speed
        self.recent: deque[Progress] = deque()

    def __enter__(self) -> ProgressLine:
        envs = self.config.envs
        on = envs[0] if len(envs) == 1 else f"{len(envs)} environments ({envs[0]} to {envs[-1]})"
        self.notice(f"training {self.config.agent} on {on}, {len(self.config.seeds)} seed(s), {self.config.budget} each")
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

    def update(self, progress: Progress) -> None:
        text = self.text(progress)
        if self.live is not None:
            from rich.text import Text

            self.live.update(Text(text))
        elif progress.status != "running" or progress.wall_s - self.last_plain_s >= self.PLAIN_EVERY_S:
            self.last_plain_s = progress.wall_s if progress.status == "running" else float("-inf")
            say(text)

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
        if progress.status == "running" and not progress.steps_per_s:
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
        play = "no physical time" if progress.play_s is None else f"{units.duration(progress.play_s)} of human play"
        parts.append(f"{units.count(progress.frames)} frames ({play})")
        if progress.energy_method == "absent":
            parts.append("energy not known")
        else:
            sign = "about " if progress.energy_method == "estimated" else ""
            parts.append(
                f"{sign}{units.energy(progress.joules)} ({units.energy_range(progress.joules, progress.low_j, progress.high_j)})"
            )
        if progress.status != "running":
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


def score(told: Score | None) -> str:
    """A score and what share of a person's it is; over several games the share alone. Empty where neither is known."""
    from analysis import units

    if told is None:
        return ""
    human = None if told.human_share is None else f"{units.percent(told.human_share)} of human"
    if told.mean is not None:
        return units.score(told.mean) + (f" ({human})" if human else "")
    return f"{human} (median of {told.games})" if human else ""
