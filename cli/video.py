"""``playmeter video``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from analysis import units
from cli.parsing import parse, writable_or_dash, write_whole
from cli.train import human_share
from runs.config import InputError


@dataclass(frozen=True)
class Video:
    """Show a game of a run's final agent as a moving picture, at the speed at which a person would play it."""

    folder: Positional[Path]
    """A run folder."""
    out: Path | None = None
    """The file: .gif, .webp or .png; the default is named after the run, e.g. Breakout-v5-der-seed0.gif."""
    seconds: float = 60.0
    """How much of the game to show, from its start."""
    protocol: str | None = None
    """The rules of play (`playmeter envs`); the default is the run's own."""
    epsilon: float | None = None
    """The share of random actions, from 0 to 1; the default is the protocol's."""
    seed: int = 0
    """Another number, another game: the one that `playmeter eval --episodes 1` plays."""


def video_command(argv: Sequence[str]) -> int:
    """Film one game of a final agent."""
    from analysis.tables import NoRunsError, read_runs

    asked: Video = parse(Video, argv, "video")
    if not asked.seconds > 0:
        raise InputError(f"--seconds is {asked.seconds:g}: show some of the game")
    try:
        runs, unread = read_runs([asked.folder])
    except NoRunsError as error:
        raise InputError(str(error)) from None
    if (found := len(runs) + len(unread)) > 1:
        raise InputError(f"{asked.folder} holds {found} runs: name one of them, e.g. {runs[0].folder}")
    from runs.film import check_suffix, film, moving_picture
    from runs.final_agent import Asked, check

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures are drawn, no window is opened
    record, folder = runs[0].record, runs[0].folder
    out = asked.out or Path(f"{record.env.id.rpartition('/')[2]}-{record.agent.replace(':', '-')}-{folder.name}.gif")
    suffix = check_suffix(out)
    writable_or_dash(str(out))
    how = Asked(1, asked.epsilon, asked.protocol, asked.seed)
    try:
        check(folder, record, runs[0].total.status, how)
        shown = film(folder, record, how, asked.seconds)
    except InputError as error:
        raise InputError(f"{asked.folder}: {error}") from None
    content = moving_picture(shown, f"{record.agent} on {record.env.id}", suffix)
    write_whole(out, content)
    score, steps = shown.scores[-1], len(shown.screens) - 1
    share = human_share(record.env.id, score)
    human = "" if share is None or not shown.over else f" ({units.percent(share)} of human)"
    rate = record.env.frame_rate_hz
    length = f"{units.count(steps)} steps" if rate is None else f"{units.duration(shown.frames[-1] / rate)} of play"
    part = "a whole game" if shown.over else "the beginning of a game"
    if not shown.over and len(shown.screens) * shown.step_s <= asked.seconds:
        part += ", as much as fits into memory"
    print(f"video: {out}: {part}, {length}, score {units.score(score)}{human}, {units.size(len(content))}")
    return 0
