"""Readers of foreign result tables: stable-baselines3's Monitor, dqn_zoo's CSV, Dopamine's published JSON, and a plain CSV.

Where the formats come from: stable_baselines3/common/monitor.py and callbacks.py (EvalCallback); dqn_zoo/*/run_atari.py
(``log_output``) and its README on results.tar.gz; dopamine baselines/atari/data/*.json.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from runs.config import InputError
from runs.foreign import ForeignRun, ImportConfig, Point, Row, TrainingEpisode, check_grows, is_atari, read_table, read_text
from runs.foreign import training_points as curve_of
from runs.schema import EVALUATION, TRAINING, UNKNOWN

DQN_ZOO_COLUMNS = {"iteration", "frame", "eval_episode_return"}
DOPAMINE_FIELDS = {"Iteration", "Value", "Agent"}
DOPAMINE_STEPS_PER_ITERATION = 250_000  # Runner.training_steps of its Atari configurations: 1,000,000 frames
PLAIN_COLUMNS = ("steps", "frames", "score", "seed", "agent", "env", "wall_s", "joules")


# stable-baselines3: a folder of *monitor.csv files is a run, one file an environment that it trained on.


def read_sb3(files: list[Path], config: ImportConfig) -> list[ForeignRun]:
    folders = dict.fromkeys(path.parent for path in files)
    return [_monitored(folder, [path for path in files if path.parent == folder], config) for folder in folders]


def _monitored(folder: Path, files: list[Path], config: ImportConfig) -> ForeignRun:
    headers = [_monitor_header(path) for path in files]
    names = {str(header["env_id"]) for header in headers if header.get("env_id") not in (None, "None")}
    if len(names) > 1:
        raise InputError(f"{folder} monitors several environments ({', '.join(sorted(names))}): import them one by one")
    name = next(iter(names), None)
    starts = [_start(path, header) for path, header in zip(files, headers, strict=True)]
    rows = [
        (row.number("t") + start - min(starts), row) for path, start in zip(files, starts, strict=True) for row in _monitor_rows(path)
    ]  # fmt: skip
    if not rows:
        raise InputError(f"{folder} holds no finished episode")
    training = _episodes(sorted(rows, key=lambda timed: timed[0]), _counts_frames(folder, config, name))
    evaluations = folder / "evaluations.npz"
    points = _evaluations(evaluations) if evaluations.is_file() else curve_of(training)
    kind = EVALUATION if evaluations.is_file() else TRAINING
    sources = (*files, evaluations) if evaluations.is_file() else tuple(files)
    last = training[-1]
    return ForeignRun(
        "sb3", sources, "", None, name, None, kind, points, training, len(training), last.steps, started_s=min(starts) or None
    )


def _counts_frames(folder: Path, config: ImportConfig, name: str | None) -> bool:
    """Whether ``l`` counts emulator frames. Only on Atari may it: make_atari_env puts Monitor inside the frame skip."""
    if not is_atari(config.env or name):
        return False
    if config.frames_per_step is None:
        raise InputError(
            f"{folder}: the lengths may be steps or emulator frames. Give --frames-per-step 1 if Monitor stood inside the frame skip, "
            "as make_atari_env puts it, or 4 if around it"
        )
    return config.frames_per_step == 1


def _episodes(rows: list[tuple[float, Row]], frames: bool) -> list[TrainingEpisode]:
    episodes, done = [], 0
    for wall_s, row in rows:
        length = row.count("l")
        done += length
        axes = (None, done, wall_s, None, length) if frames else (done, None, wall_s, length)
        episodes.append(TrainingEpisode(row.number("r"), *axes))
    return episodes


def _monitor_header(path: Path) -> dict[str, Any]:
    first = read_text(path).partition("\n")[0]
    try:
        header = json.loads(first.removeprefix("#"))
    except (ValueError, RecursionError):
        header = None
    if not (first.startswith("#") and isinstance(header, dict)):
        raise InputError(
            f"{path} is not from stable-baselines3's Monitor: its first line should be a comment with t_start and env_id"
        )
    return header


def _start(path: Path, header: dict[str, Any]) -> float:
    start = header.get("t_start", 0.0)
    if isinstance(start, bool) or not isinstance(start, (int, float)) or not math.isfinite(start):
        raise InputError(f"{path}: t_start is {start!r}, it should be a number of seconds")
    return float(start)


def _monitor_rows(path: Path) -> list[Row]:
    """Whole lines only: a run that was cut off may have torn the last one."""
    body = read_text(path).partition("\n")[2].rpartition("\n")[0]
    if len(body.splitlines()) < 2:
        return []
    rows = read_table(path, body, first_line=2)
    if missing := sorted({"r", "l", "t"} - rows[0].cells.keys()):
        raise InputError(f"{path} is not from stable-baselines3's Monitor: it has no column {missing[0]!r}")
    return rows


def _evaluations(path: Path) -> list[Point]:
    """What EvalCallback wrote: arrays of numbers; one that would have to be unpickled is refused."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            timesteps, results = arrays["timesteps"], arrays["results"]
        steps, scores = timesteps.astype(np.int64).tolist(), results.astype(float)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not from stable-baselines3's EvalCallback: {' '.join(str(error).split())[:150]}") from None
    if scores.ndim != 2 or len(scores) != len(steps) or not scores.size or not np.isfinite(scores).all():
        raise InputError(f"{path} should hold a row of finite returns for each of its {len(steps)} timesteps")
    return [Point(returns.tolist(), steps=at) for at, returns in zip(steps, scores, strict=True)]


# dqn_zoo: one results.csv a run, or the published table of an agent, with environment_name and seed.


def read_dqn_zoo(files: list[Path], config: ImportConfig) -> list[ForeignRun]:
    return [run for path in files for run in _dqn_zoo(path)]


def _dqn_zoo(path: Path) -> list[ForeignRun]:
    rows = read_table(path, read_text(path))
    if missing := sorted(DQN_ZOO_COLUMNS - rows[0].cells.keys()):
        raise InputError(f"{path} is no result of dqn_zoo: it has no column {missing[0]!r}")
    agent = None if path.stem.startswith("results") else path.stem  # the published tables are named after their agents
    runs = []
    for part, members in _grouped(rows, ("environment_name", "seed")):
        # A phase in which no game ended has no return.
        scored = [row for row in members if not _is_nan(row, "eval_episode_return")]
        points = [_zoo_point(row) for row in scored]
        _check_growing(members, "frame")
        runs.append(
            ForeignRun(
                "dqn_zoo", (path,), part, agent, members[0].cells.get("environment_name"), _seed(members[0]), EVALUATION, points,
                episodes=_sum(members, "train_num_episodes"), budget=f"{members[-1].count('frame')}-frames",
            )
        )  # fmt: skip
    return runs


def _zoo_point(row: Row) -> Point:
    games = row.count("eval_num_episodes") if "eval_num_episodes" in row.cells else None
    return Point([row.number("eval_episode_return")], frames=row.count("frame"), games=games)


def _is_nan(row: Row, column: str) -> bool:
    return row.cells[column].lower() == "nan"


def _sum(rows: list[Row], column: str) -> int | None:
    return sum(row.count(column) for row in rows) if column in rows[0].cells else None


# Dopamine: baselines/atari/data/<game>.json, a list of {Iteration, Value, Agent}: mean training returns, runs not told apart by name.


def read_dopamine_json(files: list[Path], config: ImportConfig) -> list[ForeignRun]:
    return [run for path in files for run in _dopamine(path, config)]


def is_dopamine_json(path: Path) -> bool:
    try:
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(entries, list) and bool(entries) and isinstance(entries[0], dict) and entries[0].keys() >= DOPAMINE_FIELDS


def _dopamine(path: Path, config: ImportConfig) -> list[ForeignRun]:
    if not is_dopamine_json(path):
        raise InputError(f"{path} is no published result of Dopamine: it should be a list of Iteration, Value and Agent")
    agents: dict[str, list[tuple[int, float]]] = {}
    for number, entry in enumerate(json.loads(path.read_bytes()), 1):
        iteration, value = _dopamine_entry(path, number, entry)
        agents.setdefault(entry["Agent"], []).append((iteration, value))
    per_iteration = steps_per_iteration(path, config, path.stem)
    runs = []
    for agent, entries in agents.items():
        for number, scores in enumerate(_split_runs(path, agent, entries)):
            points = [Point([value], steps=(iteration + 1) * per_iteration) for iteration, value in scores]
            budget = f"{points[-1].steps}-steps"
            runs.append(
                ForeignRun("dopamine", (path,), f"{agent} {number}", agent, path.stem, None, TRAINING, points, budget=budget)
            )
    return runs


def _dopamine_entry(path: Path, number: int, entry: Any) -> tuple[int, float]:
    match entry:
        case {"Iteration": int(iteration), "Value": int() | float() as value, "Agent": str()} if (
            iteration >= 0 and math.isfinite(value)
        ):
            return iteration, float(value)
    raise InputError(f"{path} entry {number} should have a whole Iteration, a finite Value and the name of an Agent")


def steps_per_iteration(path: Path, config: ImportConfig, env: str | None) -> int:
    """Training steps of an iteration of Dopamine, which its files do not say."""
    if config.steps_per_iteration is not None:
        return config.steps_per_iteration
    if is_atari(config.env or env):
        return DOPAMINE_STEPS_PER_ITERATION
    raise InputError(f"{path} does not say how many training steps an iteration had: give --steps-per-iteration")


def _split_runs(path: Path, agent: str, entries: list[tuple[int, float]]) -> list[list[tuple[int, float]]]:
    """Run after run (the iteration starts again), or iteration after iteration with one entry a run, in the same order of runs."""
    iterations = [iteration for iteration, _ in entries]
    if not any(a == b for a, b in pairwise(iterations)):
        starts = [0, *(k for k in range(1, len(entries)) if iterations[k] < iterations[k - 1]), len(entries)]
        return [entries[a:b] for a, b in pairwise(starts)]
    by_iteration: dict[int, list[float]] = {}
    for iteration, value in entries:
        by_iteration.setdefault(iteration, []).append(value)
    counts = {len(values) for values in by_iteration.values()}
    if len(counts) > 1:
        raise InputError(
            f"{path}: {agent} has {min(counts)} to {max(counts)} entries an iteration, so its runs cannot be told apart"
        )
    return [[(iteration, values[k]) for iteration, values in sorted(by_iteration.items())] for k in range(counts.pop())]


# A plain CSV: PLAIN_COLUMNS, of which score and one of steps and frames are needed.


def read_plain(files: list[Path], config: ImportConfig) -> list[ForeignRun]:
    tables = [(path, read_table(path, read_text(path))) for path in files]
    first = tables[0][1][0].cells.keys()
    for path, rows in tables:
        if rows[0].cells.keys() != first:
            raise InputError(f"{path} has other columns than {files[0]}: import them one by one")
    return [run for path, rows in tables for run in _plain(path, [_renamed(row, config) for row in rows], config)]


def _renamed(row: Row, config: ImportConfig) -> Row:
    names = {}
    for pair in config.columns:
        ours, _, theirs = pair.partition("=")
        if ours not in PLAIN_COLUMNS or not theirs:
            raise InputError(f"--columns {pair}: write NAME=YOURS, where NAME is one of {', '.join(PLAIN_COLUMNS)}")
        if theirs not in row.cells:
            raise InputError(f"{row.path} has no column {theirs!r}; it has {', '.join(row.cells)}")
        names[theirs] = ours
    kept = {name: cell for name, cell in row.cells.items() if name not in names and name not in names.values()}
    return Row(row.path, row.line, kept | {ours: row.cells[theirs] for theirs, ours in names.items()})


def _plain(path: Path, rows: list[Row], config: ImportConfig) -> list[ForeignRun]:
    columns = rows[0].cells.keys()
    if "score" not in columns or not columns & {"steps", "frames"}:
        raise InputError(
            f"{path} needs a column score and one of steps and frames; it has {', '.join(columns)}: name them with --columns"
        )
    kind = config.returns or UNKNOWN
    runs = []
    for part, members in _grouped(rows, ("agent", "env", "seed")):
        for column in ("steps", "frames", "wall_s", "joules"):
            _check_growing(members, column)
        first, points = members[0], _plain_points(members)
        unit = "steps" if "steps" in columns else "frames"
        budget = f"{getattr(points[-1], unit)}-{unit}"
        named = (first.cells.get("agent"), first.cells.get("env"), _seed(first))
        runs.append(ForeignRun("csv", (path,), part, *named, kind, points, budget=budget))
    return runs


def _plain_points(rows: list[Row]) -> list[Point]:
    """One point a place on the x axis: several rows at the same steps and frames are several games."""
    points: dict[tuple[int | None, int | None], Point] = {}
    for row in rows:
        at = (_optional(row, "steps"), _optional(row, "frames"))
        scores = [*(points[at].returns if at in points else []), row.number("score")]
        wall_s, joules = (row.not_negative(name) if name in row.cells else None for name in ("wall_s", "joules"))
        points[at] = Point(scores, *at, wall_s, joules)
    return list(points.values())


def _optional(row: Row, column: str) -> int | None:
    return row.count(column) if column in row.cells else None


def _seed(row: Row) -> int | None:
    return _optional(row, "seed")


def _grouped(rows: list[Row], columns: Iterable[str]) -> list[tuple[str, list[Row]]]:
    """The rows of each run, in the order of their first rows: those that agree in ``columns``, as far as there are such."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row.cells.get(name) for name in columns]), []).append(row)
    return list(groups.items())


def _check_growing(rows: list[Row], column: str) -> None:
    if column in rows[0].cells:
        for before, row in pairwise(rows):
            check_grows(before.not_negative(column), row.not_negative(column), row, column)
