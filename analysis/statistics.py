"""Statistics over seeds and games, after Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice" (arXiv 2108.13264).

The interquartile mean (IQM) drops the best and the worst quarter of the runs. Every interval is a stratified percentile bootstrap
by ``scipy.stats.bootstrap``: each task is a sample of its own, so runs are drawn again with replacement within each task, and the
resamples are vectorised. ``scores_by_task`` is always one array [S] a task; tasks may have different numbers of runs S, which then
count as runs, as in a pooled IQM. The estimators agree with rliable's (see the tests).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

CONFIDENCE = 0.95
RESAMPLES = 2000
IQM_MIN_RUNS = 4  # with fewer, a quarter is less than one run: nothing is dropped and the IQM is the mean
FEW_RUNS = 5  # with fewer, a bootstrap interval is far too narrow: of 2 runs it is just their range
_SEED = 20210830  # a report of the same runs shows the same interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


def estimator(n_runs: int) -> str:
    """What the centre of that many runs is called: "IQM", or "mean" where there are too few to drop a quarter."""
    return "IQM" if n_runs >= IQM_MIN_RUNS else "mean"


def iqm(scores: Floats, axis: int = -1) -> Floats:
    """Interquartile mean along ``axis``; for fewer than 4 values it is their mean.

    The same as ``scipy.stats.trim_mean(scores, 0.25, axis)``, which takes six times as long for the samples of a bootstrap.
    """
    ordered = np.sort(np.moveaxis(np.asarray(scores), axis, -1), axis=-1)
    count = ordered.shape[-1]
    return np.asarray(ordered[..., count // 4 : count - count // 4].mean(axis=-1))


def _pooled_iqm(*samples: Floats, axis: int = -1) -> Floats:
    return iqm(np.concatenate(samples, axis=axis), axis=axis)


def bootstrap_iqm(scores_by_task: Sequence[Floats], resamples: int = RESAMPLES) -> Interval | None:
    """95 % percentile interval of the IQM over all runs of all tasks, resampled within each task.

    ``scores_by_task``: one array [S] a task. None where a task has a single run: one run says nothing about its spread.
    """
    if min(len(scores) for scores in scores_by_task) < 2:
        return None
    return _iqm_interval(resamples, *(np.asarray(scores, float).tobytes() for scores in scores_by_task))


@lru_cache(maxsize=1024)  # where all seeds spent alike, scores at equal budgets are the same in every currency
def _iqm_interval(resamples: int, *scores_by_task: bytes) -> Interval:
    low, high = _bootstrap(tuple(np.frombuffer(scores) for scores in scores_by_task), resamples)
    return Interval(float(low), float(high))


def bootstrap_curve(scores_by_task: Sequence[Floats], resamples: int = RESAMPLES) -> tuple[Floats, Floats] | None:
    """Pointwise 95 % band of the IQM over all runs of all tasks, resampled within each task.

    ``scores_by_task``: one array [T, S] a task, the same T points; at every point the same draw of seeds. None where a task has a
    single run.
    """
    if min(scores.shape[-1] for scores in scores_by_task) < 2:
        return None
    return _bootstrap(tuple(scores_by_task), resamples)


def over_games(scores: Sequence[float]) -> dict[str, float]:
    """What tables of papers hold: mean, median and IQM of one score a game."""
    values = np.array(scores)
    return {"mean": float(values.mean()), "median": float(np.median(values)), "iqm_of_means": float(iqm(values))}


def optimality_gap(scores_by_task: Sequence[Floats], gamma: float = 1.0) -> float:
    """How far the runs stay below ``gamma`` on average, what is above it counting as ``gamma``; 0 is best. Scores are normalised."""
    return float(_gap(gamma)(*scores_by_task))


def bootstrap_gap(scores_by_task: Sequence[Floats], gamma: float = 1.0) -> Interval | None:
    """95 % interval of the optimality gap; None where a task has a single run."""
    return _interval(scores_by_task, _gap(gamma))


def _gap(gamma: float) -> Callable[..., Floats]:
    def gap(*samples: Floats, axis: int = -1) -> Floats:
        return np.asarray(gamma - np.minimum(np.concatenate(samples, axis=axis), gamma).mean(axis=axis))

    return gap


def performance_profile(scores_by_task: Sequence[Floats], taus: Floats) -> Floats:
    """Share of runs, over all tasks, that score more than each of ``taus`` [T] (the run-score distribution). Returns [T]."""
    return _above(taus)(*scores_by_task)


def bootstrap_profile(
    scores_by_task: Sequence[Floats], taus: Floats, resamples: int = RESAMPLES
) -> tuple[Floats, Floats] | None:
    """Pointwise 95 % band of the performance profile, [T] each; None where a task has a single run."""
    if min(len(scores) for scores in scores_by_task) < 2:
        return None
    return _bootstrap(tuple(np.asarray(s, float) for s in scores_by_task), resamples, _above(taus))


def _above(taus: Floats) -> Callable[..., Floats]:
    def share_above(*samples: Floats, axis: int = -1) -> Floats:
        scores = np.concatenate(samples, axis=axis)
        return np.stack([(scores > tau).mean(axis=axis) for tau in taus])

    return share_above


def probability_of_improvement(x_by_task: Sequence[Floats], y_by_task: Sequence[Floats]) -> float:
    """P(X > Y): how likely a run of X beats a run of Y on the same task, ties counting half, averaged over tasks.

    A Mann-Whitney U statistic over all pairs of runs, divided by their number. Needs no normalised scores.
    """
    return float(_improvement(*x_by_task, *y_by_task))


def bootstrap_improvement(x_by_task: Sequence[Floats], y_by_task: Sequence[Floats]) -> Interval | None:
    """95 % interval of the probability of improvement, runs of X and of Y resampled within each task; None with a single run."""
    return _interval([*x_by_task, *y_by_task], _improvement)


def _improvement(*samples: Floats, axis: int = -1) -> Floats:
    """``samples``: [..., S] of X for each task, then of Y for each task. The runs are on the last axis."""
    tasks = len(samples) // 2
    pairs = zip(samples[:tasks], samples[tasks:], strict=True)
    wins = [(np.sign(x[..., :, None] - y[..., None, :]).mean(axis=(-2, -1)) + 1) / 2 for x, y in pairs]
    return np.asarray(np.mean(wins, axis=0))


def _interval(samples: Sequence[Floats], statistic: Callable[..., Floats]) -> Interval | None:
    if min(len(scores) for scores in samples) < 2:
        return None
    low, high = _bootstrap(tuple(np.asarray(s, float) for s in samples), RESAMPLES, statistic)
    return Interval(float(low), float(high))


def _bootstrap(
    samples: tuple[Floats, ...], resamples: int, statistic: Callable[..., Floats] = _pooled_iqm
) -> tuple[Floats, Floats]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # all runs equal: the interval is that point, and right
        result = stats.bootstrap(
            samples, statistic, n_resamples=resamples, confidence_level=CONFIDENCE, method="percentile",
            vectorized=True, axis=-1, rng=np.random.default_rng(_SEED),
        )  # fmt: skip
    return result.confidence_interval.low, result.confidence_interval.high


def median_reached(values: Sequence[float | None]) -> float | None:
    """Median cost to reach something, where None never reached it and counts as more than any number.

    Averaging only those that reached it would reward an agent whose other seeds fail. None where the median did not reach it.
    """
    ordered = [float("inf") if v is None else v for v in values]
    middle = float(np.median(ordered)) if ordered else float("inf")
    return middle if np.isfinite(middle) else None
