import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rliable import metrics
from scipy import stats

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


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([0, 1, -1]), st.integers(0, 2**32 - 1))
def test_iqm_along_any_axis_is_scipys_trimmed_mean(rows, columns, axis, seed):
    scores = np.random.default_rng(seed).normal(size=(rows, columns)).round(1)
    assert statistics.iqm(scores, axis=axis) == pytest.approx(stats.trim_mean(scores, 0.25, axis=axis))


def test_one_seed_has_no_interval():
    assert statistics.bootstrap_iqm([np.array([3.0])]) is None
    assert statistics.bootstrap_iqm([np.array([3.0, 4.0]), np.array([5.0])]) is None
    assert statistics.bootstrap_curve([np.array([[3.0], [4.0]])]) is None


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
    low, high = statistics.bootstrap_curve([scores], resamples=1000)
    coverage = np.mean((low <= 0) & (high >= 0))
    assert 0.88 <= coverage <= 0.975


def test_a_curve_band_equals_the_interval_of_each_point_alone():
    scores = np.random.default_rng(3).normal(size=(4, 6))
    low, high = statistics.bootstrap_curve([scores], resamples=2000)
    alone = [statistics.bootstrap_iqm([row]) for row in scores]
    assert low == pytest.approx([i.low for i in alone])
    assert high == pytest.approx([i.high for i in alone])


def test_a_seed_that_never_got_there_counts_as_the_most_expensive():
    assert statistics.median_reached([10.0, 20.0, None]) == 20
    assert statistics.median_reached([10.0, None, None]) is None
    assert statistics.median_reached([10.0, None]) is None
    assert statistics.median_reached([]) is None


def tasks_of(scores):
    """rliable's [runs, tasks] as our one array a task."""
    return list(scores.T)


SCORES = st.integers(2, 8).flatmap(
    lambda runs: st.lists(
        st.lists(st.floats(-5, 5).map(lambda x: round(x, 1)), min_size=3, max_size=3), min_size=runs, max_size=runs
    )
)


@given(SCORES, st.floats(0.1, 3))
def test_the_optimality_gap_agrees_with_rliable(scores, gamma):
    scores = np.array(scores)
    assert statistics.optimality_gap(tasks_of(scores), gamma) == pytest.approx(metrics.aggregate_optimality_gap(scores, gamma))


@given(SCORES, SCORES)
def test_the_probability_of_improvement_agrees_with_rliable(x, y):
    """Scores of one digit make ties, which count half in both."""
    x, y = np.array(x), np.array(y)
    ours = statistics.probability_of_improvement(tasks_of(x), tasks_of(y))
    assert ours == pytest.approx(metrics.probability_of_improvement(x, y))
    assert ours == pytest.approx(1 - statistics.probability_of_improvement(tasks_of(y), tasks_of(x)))


def test_a_performance_profile_is_the_share_of_runs_above_each_score():
    """Two tasks with three runs: above 0 are 4 of 6, above 1 (strictly, as rliable counts) 2 of 6, above 5 none."""
    tasks = [np.array([0.0, 0.5, 2.0]), np.array([-1.0, 1.0, 5.0])]
    assert statistics.performance_profile(tasks, np.array([-2.0, 0, 1, 5])) == pytest.approx([1, 4 / 6, 2 / 6, 0])


def test_the_area_under_a_profile_up_to_one_is_what_the_gap_leaves():
    """For scores in [0, 1]: mean score = integral of P(score > tau), so the gap is 1 minus that area."""
    tasks = list(np.random.default_rng(5).uniform(size=(3, 8)))
    taus = (np.arange(20_000) + 0.5) / 20_000
    assert 1 - statistics.performance_profile(tasks, taus).mean() == pytest.approx(statistics.optimality_gap(tasks), abs=1e-4)


def test_intervals_of_profile_gap_and_improvement_agree_with_resampling_by_hand():
    rng = np.random.default_rng(6)
    x, y = rng.normal(0.6, 0.3, size=(10, 3)), rng.normal(0.4, 0.3, size=(8, 3))
    taus = np.array([0.3, 0.6, 0.9])
    gaps, wins, profiles = [], [], []
    for _ in range(3000):
        drawn_x = np.column_stack([rng.choice(x[:, task], 10) for task in range(3)])
        drawn_y = np.column_stack([rng.choice(y[:, task], 8) for task in range(3)])
        gaps.append(metrics.aggregate_optimality_gap(drawn_x))
        wins.append(
            np.mean(np.sign(drawn_x[:, None] - drawn_y[None, :]) / 2 + 0.5)
        )  # over pairs and tasks; rliable's takes 1 ms
        profiles.append([np.mean(drawn_x > tau) for tau in taus])
    gap = statistics.bootstrap_gap(tasks_of(x))
    win = statistics.bootstrap_improvement(tasks_of(x), tasks_of(y))
    low, high = statistics.bootstrap_profile(tasks_of(x), taus)
    assert (gap.low, gap.high) == pytest.approx(np.percentile(gaps, [2.5, 97.5]), abs=0.01)
    assert (win.low, win.high) == pytest.approx(np.percentile(wins, [2.5, 97.5]), abs=0.015)
    assert np.array([low, high]) == pytest.approx(np.percentile(profiles, [2.5, 97.5], axis=0), abs=0.035)  # steps of 1/30


def test_a_single_run_has_no_interval_of_any_kind():
    one, two = [np.array([1.0])], [np.array([1.0, 2.0])]
    assert statistics.bootstrap_gap(one) is None
    assert statistics.bootstrap_improvement(one, two) is None
    assert statistics.bootstrap_improvement(two, one) is None
    assert statistics.bootstrap_profile(one, np.array([0.0])) is None


def test_intervals_over_games_contain_the_truth_about_95_times_in_100():
    """Games of different level and spread; the truth is known. Improvement: X is normal with mean 0.8 above Y's in every game, so
    P(X > Y) = Phi(0.8 / sqrt 2). Gap: uniform scores on [0, 2 m]; E min(score, 1) in closed form. IQM: the games are shifted so little
    that the trimmed mean of the mixture of three symmetric densities around one centre is that centre. 200 experiments, three
    standard errors are 4.6 %; ten runs a game make the bootstrap a little too narrow."""
    rng = np.random.default_rng(7)
    truth_win = stats.norm.cdf(0.8 / np.sqrt(2))
    ends = np.array([0.8, 1.6, 3.0])
    truth_gap = 1 - np.mean([end / 2 if end <= 1 else (0.5 + (end - 1)) / end for end in ends])
    inside = {"win": 0, "gap": 0, "iqm": 0}
    for _ in range(200):
        x, y = rng.normal(0.8, 1, size=(3, 10)), rng.normal(0, 1, size=(3, 10))
        win = statistics.bootstrap_improvement(list(x), list(y))
        gap = statistics.bootstrap_gap([rng.uniform(0, end, 10) for end in ends])
        middle = statistics.bootstrap_iqm([rng.normal(1.0, spread, 10) for spread in (0.2, 0.5, 1.0)], resamples=1000)
        inside["win"] += win.low <= truth_win <= win.high
        inside["gap"] += gap.low <= truth_gap <= gap.high
        inside["iqm"] += middle.low <= 1.0 <= middle.high
    for name, count in inside.items():
        assert 0.86 <= count / 200 <= 0.99, (name, count / 200)


def test_strata_are_kept_a_game_with_one_level_adds_no_spread():
    """Two games far apart, each without spread: within games every resample is the same. Over pooled runs it would not be."""
    assert statistics.bootstrap_iqm([np.zeros(5), np.full(5, 10.0)]) == statistics.Interval(5.0, 5.0)
