"""Statistics over seeds, after Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice" (arXiv 2108.13264).

The interquartile mean (IQM) drops the best and the worst quarter of the runs; its interval is a stratified bootstrap: runs
are drawn again with replacement within each task. Both agree with rliable (see the tests).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

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
    """Interquartile mean along ``axis``; for fewer than 4 values it is their mean."""
    return np.asarray(stats.trim_mean(scores, proportiontocut=0.25, axis=axis))


def _pooled_iqm(*samples: Floats, axis: int = -1) -> Floats:
    return iqm(np.concatenate(samples, axis=axis), axis=axis)


def bootstrap_iqm(scores_by_task: Sequence[Floats], resamples: int = RESAMPLES) -> Interval | None:
    """95 % percentile interval of the IQM over all runs of all tasks, resampled within each task.

    ``scores_by_task``: one array [S] a task. None where a task has a single run: one run says nothing about its spread.
    """
    if min(len(scores) for scores in scores_by_task) < 2:
        return None
    low, high = _bootstrap(tuple(np.asarray(s, float) for s in scores_by_task), resamples)
    return Interval(float(low), float(high))


def bootstrap_curve(scores: Floats, resamples: int = RESAMPLES) -> tuple[Floats, Floats] | None:
    """Pointwise 95 % band of the IQM. ``scores`` [T, S], the same draw of seeds at every one of the T points."""
    if scores.shape[-1] < 2:
        return None
    return _bootstrap((scores,), resamples)


def _bootstrap(samples: tuple[Floats, ...], resamples: int) -> tuple[Floats, Floats]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # all runs equal: the interval is that point, and right
        result = stats.bootstrap(
            samples, _pooled_iqm, n_resamples=resamples, confidence_level=CONFIDENCE, method="percentile",
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
