"""Learning curves as numbers: what each seed had scored when it had spent so much of a currency, and the centre over seeds and games.

Seeds are brought to common x values by linear interpolation between their evaluations; then the IQM (mean below 4 seeds) and its
stratified bootstrap band are taken at each x, point by point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from analysis import convert, statistics, tables
from analysis.statistics import Floats
from runs import schema

GRID_POINTS = 60  # more than a chart on a page shows; a curve with more evaluations is thinned to that many
CURVE_RESAMPLES = 300
CURRENCIES = ("steps", "frames", "human_play_h", "wall_s", "gpu_h", "joules", "flops")

Seed = dict[str, Floats]  # one run: "score" and each currency that it has numbers for, at its evaluations [T]
Line = tuple[Floats, Floats]  # x, strictly growing, and score


@dataclass(frozen=True)
class Curve:
    """Centre and band over ``n`` runs at common x, [T] each; no band where a game has a single run."""

    x: Floats
    score: Floats
    low: Floats | None
    high: Floats | None
    n: int


def of_runs(runs: Sequence[tables.Run]) -> dict[str, Seed]:
    """The evaluations of each run that has some, by run id; of the energy its low and high too."""
    return {run.id: _seed(run) for run in runs if len(run.evals)}


def _seed(run: tables.Run) -> Seed:
    """The columns of ``tables.evals_table`` that have numbers, as arrays."""
    energy = ["joules", "low_j", "high_j"] if tables.energy_method(run) != schema.ABSENT else []
    known = [name for name in ("score", "steps", "frames", "wall_s", "flops", *energy) if not run.evals[name].null_count()]
    seed = {name: run.evals[name].to_numpy() for name in known}
    hour_a_frame = convert.play_h(1, run.record.env.frame_rate_hz)
    if hour_a_frame is not None and "frames" in seed:
        seed["human_play_h"] = seed["frames"] * hour_a_frame
    return seed | (_gpu(run, seed["wall_s"]) if "wall_s" in seed else {})


def _gpu(run: tables.Run, wall_s: Floats) -> Seed:
    """Allocated GPU-hours at each evaluation: a device is allocated by the clock, busy or not, so they grow with wall time."""
    total = run.total
    return {"gpu_h": wall_s / total.wall_s * total.gpu_allocated_s / 3600} if total.gpu_allocated_s and total.wall_s else {}


def line(seed: Seed, column: str) -> Line:
    """Score over one currency; of evaluations at one x the last counts."""
    x = seed[column]
    last = np.append(x[1:] > x[:-1], True)
    return x[last], seed["score"][last]


def thin(values: Line, points: int = GRID_POINTS) -> Line:
    """At most that many points of a line, first and last among them."""
    x, y = values
    keep = np.unique(np.linspace(0, len(x) - 1, min(points, len(x))).round().astype(int))
    return x[keep], y[keep]


def curve(games: Sequence[Sequence[Line]]) -> Curve | None:
    """The IQM over the runs of all games, lines of one game each; None without any line.

    The common x lie in the range that every run covers, so that the same runs stand behind every point.
    """
    lines = [each for game in games for each in game]
    if not lines:
        return None
    grid = _grid([x for x, _ in lines])
    scores = [np.array([np.interp(grid, x, y) for x, y in game]).T for game in games]  # [T, S] a game
    band = _band(*((s.shape, s.tobytes()) for s in scores))
    low, high = band if band is not None else (None, None)
    return Curve(grid, statistics.iqm(np.concatenate(scores, axis=-1)), low, high, len(lines))


@lru_cache(maxsize=64)  # where seeds are evaluated at the same steps, several axes have the same scores
def _band(*scores: tuple[tuple[int, int], bytes]) -> tuple[Floats, Floats] | None:
    return statistics.bootstrap_curve([np.frombuffer(raw).reshape(shape, order="C") for shape, raw in scores], CURVE_RESAMPLES)


def _grid(xs: list[Floats]) -> Floats:
    """The evaluations' own x where all runs share them, else evenly spaced x over the range that all runs cover."""
    if all(len(x) == len(xs[0]) and np.array_equal(x, xs[0]) for x in xs):
        return thin((xs[0], xs[0]))[0]
    start, end = max(x[0] for x in xs), min(x[-1] for x in xs)
    return np.linspace(start, end, GRID_POINTS) if end > start else np.array([end])


def score_at(values: Line, x: float) -> float | None:
    """The score at one x, interpolated; None outside of what the run covers."""
    return float(np.interp(x, *values)) if values[0][0] <= x <= values[0][-1] else None
