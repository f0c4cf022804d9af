import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rliable import metrics

from analysis import statistics


def test_iqm_of_eight_runs_is_the_mean_of_the_middle_four():
    assert statistics.iqm(np.array([0.0, 1, 2, 3, 4, 5, 6, 1000])) == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_below_four_runs_nothing_is_dropped_and_it_is_called_the_mean():
    assert statistics.iqm(np.array([1.0, 2.0, 9.0])) == pytest.approx(4)
    assert statistics.estimator(3) == "mean"
    assert statistics.estimator(4) == "IQM"


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=40))
def test_iqm_agrees_with_rliable(scores):
    assert statistics.iqm(np.array(scores)) == pytest.approx(metrics.aggregate_iqm(np.array(scores)[:, None]), abs=1e-6)


def test_one_seed_has_no_interval():
    assert statistics.bootstrap_iqm([np.array([3.0])]) is None
    assert statistics.bootstrap_iqm([np.array([3.0, 4.0]), np.array([5.0])]) is None
    assert statistics.bootstrap_curve(np.array([[3.0], [4.0]])) is None


def test_equal_seeds_have_an_interval_of_no_width():
    assert statistics.bootstrap_iqm([np.full(5, 500.0)]) == statistics.Interval(500.0, 500.0)


def test_stratified_bootstrap_agrees_with_resampling_by_hand():
    """rliable's own scheme: within each task (column) runs are drawn with replacement, then rliable's IQM over all of them."""
    rng = np.random.default_rng(1)
    scores = rng.normal([0.2, 1.0, 3.0], [0.05, 0.3, 1.0], size=(10, 3))
    draws = []
    for _ in range(4000):
        resampled = np.column_stack([rng.choice(scores[:, task], 10) for task in range(3)])
        draws.append(metrics.aggregate_iqm(resampled))
    low, high = np.percentile(draws, [2.5, 97.5])
    interval = statistics.bootstrap_iqm([scores[:, task] for task in range(3)], resamples=4000)
    assert interval.low == pytest.approx(low, abs=0.05 * (high - low))
    assert interval.high == pytest.approx(high, abs=0.05 * (high - low))


def test_every_sample_of_two_runs_is_drawn_as_often_as_it_should_be():
    """Two runs 0 and 1: the resampled mean is 0, 1/2, 1 with 1/4, 1/2, 1/4, so 2.5 % and 97.5 % are the ends."""
    assert statistics.bootstrap_iqm([np.array([0.0, 1.0])]) == statistics.Interval(0.0, 1.0)


def test_the_95_percent_interval_contains_the_truth_about_95_times_in_100():
    """400 experiments of 20 normal seeds whose true IQM is 0, in one call: the points of a curve are independent experiments.
    A percentile bootstrap of 20 is slightly too narrow; three standard errors of 400 trials are 3.3 %."""
    scores = np.random.default_rng(2).normal(size=(400, 20))
    low, high = statistics.bootstrap_curve(scores, resamples=1000)
    coverage = np.mean((low <= 0) & (high >= 0))
    assert 0.88 <= coverage <= 0.975


def test_a_curve_band_equals_the_interval_of_each_point_alone():
    scores = np.random.default_rng(3).normal(size=(4, 6))
    low, high = statistics.bootstrap_curve(scores, resamples=2000)
    alone = [statistics.bootstrap_iqm([row]) for row in scores]
    assert low == pytest.approx([i.low for i in alone])
    assert high == pytest.approx([i.high for i in alone])


def test_a_seed_that_never_got_there_counts_as_the_most_expensive():
    assert statistics.median_reached([10.0, 20.0, None]) == 20
    assert statistics.median_reached([10.0, None, None]) is None
    assert statistics.median_reached([10.0, None]) is None
    assert statistics.median_reached([]) is None
