"""What other people's result files say of a run, before it becomes a run folder: the plain data, and the reading of tables.

Nothing here or in the readers executes what a file holds: text, JSON, TensorBoard's protocol buffers and arrays of numbers only.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from envs import EnvSpec, all_specs
from runs.config import InputError
from runs.schema import UNKNOWN

LARGEST = 2**53  # counts beyond are damage
TRAINING_WINDOWS = 20  # points of a curve that is made of single training episodes


@dataclass(frozen=True)
class ImportConfig:
    """What the user says of the files; None: whatever they say themselves."""

    path: Path
    """A file or a folder: every run in it is imported."""
    format: str = "auto"
    """sb3, tensorboard, dopamine, dqn_zoo or csv; auto looks at the files."""
    agent: str | None = None
    """The agent's name, where the files do not say it or should not be believed."""
    env: str | None = None
    """The environment, likewise; a name of `playmeter envs` brings its real-time rate and threshold."""
    protocol: str = UNKNOWN
    """How it was played and evaluated (nature, sticky, atari100k, ... or a name of your own)."""
    frames_per_step: int | None = None
    """Frames that a step of these files stands for. Not assumed on Atari: without it frames (or steps) stay unknown."""
    steps_per_iteration: int | None = None
    """dopamine: training steps of an iteration; its published 250,000 on Atari."""
    returns: str | None = None
    """csv: evaluation or training, what the scores are returns of; without it they are marked as unknown."""
    columns: tuple[str, ...] = ()
    """csv: names of your columns, e.g. `steps=global_step score=mean_return`."""
    out: str = "results"
    """Folder for the run folders."""
    again: bool = False
    """Import once more what was imported before."""


@dataclass(frozen=True)
class Point:
    """A score: ``returns`` of single games, or their one mean and perhaps how many ``games`` it is of. Counters are cumulative."""

    returns: list[float]
    steps: int | None = None
    frames: int | None = None
    wall_s: float | None = None
    joules: float | None = None
    games: int | None = None


@dataclass(frozen=True)
class TrainingEpisode:
    """``steps`` and ``frames``: of training when it ended; ``length`` and ``length_frames``: its own."""

    score: float
    steps: int | None = None
    frames: int | None = None
    wall_s: float | None = None
    length: int | None = None
    length_frames: int | None = None


@dataclass(frozen=True)
class ForeignRun:
    """One run as its files tell it. None is what they do not say."""

    format: str
    files: tuple[Path, ...]
    part: str  # which of the runs in these files
    agent: str | None
    env: str | None
    seed: int | None
    kind: str  # of the points: evaluation, training or unknown
    points: list[Point]
    training: list[TrainingEpisode] = field(default_factory=list)
    episodes: int | None = None
    steps: int | None = None  # trained in all, where it went on after the last point
    frames: int | None = None
    budget: str | None = None
    started_s: float | None = None  # Unix time


def training_points(episodes: Sequence[TrainingEpisode]) -> list[Point]:
    """Single training episodes as a curve: each point holds the episodes that ended in one twentieth of the run."""
    ends = [e.steps if e.steps is not None else e.frames or 0 for e in episodes]
    width = max(1, ends[-1]) / TRAINING_WINDOWS
    windows: dict[int, list[TrainingEpisode]] = {}
    for episode, end in zip(episodes, ends, strict=True):
        windows.setdefault(math.ceil(end / width), []).append(episode)
    return [Point([e.score for e in w], w[-1].steps, w[-1].frames, w[-1].wall_s) for w in windows.values()]


def known_env(name: str) -> EnvSpec | None:
    """The environment that a foreign name means, None where it is none of ours.

    Atari games go by many names: BreakoutNoFrameskip-v4, ALE/Breakout-v5, breakout, ms_pacman. Everything else by its id alone.
    """
    specs = {spec.id: spec for spec in all_specs()}
    if name in specs:
        return specs[name]
    stem = re.sub(r"(NoFrameskip|Deterministic)?(-v\d+)?$", "", name.removeprefix("ALE/"))
    games = {_letters(s.id.removeprefix("ALE/").removesuffix("-v5")): s for s in specs.values() if s.kind == "atari"}
    return None if "/" in stem or stem in {s.split("-v")[0] for s in specs} else games.get(_letters(stem))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_atari(name: str | None) -> bool:
    env = known_env(name) if name else None
    return env is not None and env.kind == "atari"


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text: it cannot be imported") from None


@dataclass(frozen=True)
class Row:
    """A line of a table by column; a cell that is no number is named with its place."""

    path: Path
    line: int
    cells: dict[str, str]

    def fault(self, column: str, what: str) -> InputError:
        shown = self.cells[column] if len(self.cells[column]) <= 40 else self.cells[column][:37] + "..."
        return InputError(f"{self.path} line {self.line}: {column} is {shown!r}, it should be {what}")

    def number(self, column: str) -> float:
        """A finite number. Raises InputError."""
        try:
            value = float(self.cells[column].replace("_", "?"))  # Python's 1_000 is nobody's number
        except ValueError:
            raise self.fault(column, "a number") from None
        if not math.isfinite(value):
            raise self.fault(column, "a finite number")
        return value

    def count(self, column: str) -> int:
        """A whole number that is not negative, ``1e6`` and ``1000.0`` too. Raises InputError."""
        value = self.number(column)
        if not 0 <= value <= LARGEST or value != int(value):
            raise self.fault(column, "a whole number, not negative")
        return int(value)

    def not_negative(self, column: str) -> float:
        value = self.number(column)
        if value < 0:
            raise self.fault(column, "a number that is not negative")
        return value


def read_table(path: Path, text: str, first_line: int = 1) -> list[Row]:
    """The rows of a CSV with a header, blank lines left out. Raises InputError where a row has more or fewer cells than it."""
    lines = _csv_lines(path, text, first_line)
    header = [cell.strip() for _, cell_list in [next(lines, (0, []))] for cell in cell_list]
    if not any(header):
        raise InputError(f"{path} is empty: it should start with the names of its columns")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise InputError(f"{path} has two columns called {twice[0]!r}")
    rows = []
    for number, cells in lines:
        if len(cells) != len(header):
            raise InputError(f"{path} line {number} has {len(cells)} cells, its header names {len(header)} columns")
        rows.append(Row(path, number, dict(zip(header, (cell.strip() for cell in cells), strict=True))))
    if not rows:
        raise InputError(f"{path} has a header and no rows")
    return rows


def _csv_lines(path: Path, text: str, first_line: int) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num + first_line - 1, cells
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num + first_line - 1} is no CSV: {error}") from None


def header_of(path: Path) -> list[str]:
    """The column names of a CSV file, empty where it has none that can be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [cell.strip() for cell in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def check_grows(before: float, now: float, row: Row, column: str) -> None:
    """Raise InputError where a counter falls: two runs were put into one."""
    if now < before:
        raise InputError(
            f"{row.path} line {row.line}: {column} goes back from {before:g} to {now:g}: tell runs apart by a seed column"
        )
