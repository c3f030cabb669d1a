"""Statistics against scipy, closed forms and slow loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lab.comparison import statistics

scores = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30).map(np.array)


@given(scores)
def test_interquartile_mean_is_scipys_trimmed_mean(values):
    assert statistics.interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-9)


def test_interquartile_mean_by_hand():
    assert statistics.interquartile_mean(np.array([100.0, 3, 1, 2, -50])) == 2.0  # one cut from each side
    assert statistics.interquartile_mean(np.array([[1.0, 2, 9], [4.0, 4, 4]])).tolist() == [4.0, 4.0]


def test_resamples_stay_within_their_stratum():
    samples = statistics.bootstrap([np.array([1.0, 2, 3]), np.array([10.0, 20])], resamples=500)
    assert samples.shape == (500, 5)
    assert set(np.unique(samples[:, :3])) == {1, 2, 3}
    assert set(np.unique(samples[:, 3:])) == {10, 20}


def test_stratified_standard_error_is_the_closed_form():
    generator = np.random.default_rng(0)
    strata = [generator.normal(0, 1, 8), generator.normal(50, 5, 12)]
    samples = statistics.bootstrap(strata, resamples=40_000).mean(axis=-1)
    variance = sum(len(x) * x.var() for x in strata) / 20**2
    assert samples.std() == pytest.approx(variance**0.5, rel=0.03)
    assert samples.mean() == pytest.approx(np.concatenate(strata).mean(), abs=0.02)


@pytest.mark.parametrize("statistic", [statistics.mean, statistics.median, statistics.interquartile_mean])
def test_interval_is_scipys_percentile_bootstrap(statistic):
    values = np.random.default_rng(1).gamma(2, 10, 12)
    ours = statistics.estimate([values], statistic, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), lambda x, axis: statistic(np.moveaxis(x, axis, -1)), method="percentile", n_resamples=20_000, rng=2
    ).confidence_interval
    assert ours.value == pytest.approx(float(statistic(values)))
    spread = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * spread)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * spread)


def test_intervals_repeat_and_single_runs_have_none():
    values = [np.array([1.0, 4, 2])]
    assert statistics.estimate(values, statistics.mean) == statistics.estimate(values, statistics.mean)
    assert statistics.estimate([np.array([3.0])], statistics.mean) == (3.0, None, None)
    assert statistics.probability_of_improvement([np.array([3.0])], [np.array([1.0])]) == (1.0, None, None)


@given(scores, scores)
def test_probability_of_improvement_is_mann_whitneys(x, y):
    found = statistics.probability_of_improvement([x], [y], resamples=5).value
    assert found == pytest.approx(stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)))
    assert found + statistics.probability_of_improvement([y], [x], resamples=5).value == pytest.approx(1)


def test_probability_of_improvement_averages_tasks():
    ours = [np.array([2.0, 2.0]), np.array([0.0, 5.0])]
    theirs = [np.array([1.0]), np.array([5.0, 9.0])]
    found = statistics.probability_of_improvement(ours, theirs)
    assert found.value == pytest.approx((1.0 + 0.125) / 2)  # all won; one of four tied
    assert 0.5 <= found.low <= found.value <= found.high <= 1


def test_interval_of_improvement_covers_the_truth():
    """Two normal populations one standard deviation apart: P(x > y) = Phi(1 / sqrt 2)."""
    generator = np.random.default_rng(3)
    truth = stats.norm.cdf(1 / 2**0.5)
    covered = []
    for trial in range(100):
        x, y = generator.normal(1, 1, 30), generator.normal(0, 1, 30)
        found = statistics.probability_of_improvement([x], [y], resamples=300, seed=trial)
        covered.append(found.low <= truth <= found.high)
    assert np.mean(covered) > 0.85


@given(scores, scores)
def test_performance_profile_is_the_slow_loop(x, y):
    thresholds = np.linspace(-1e3, 1e3, 7)
    found = statistics.performance_profile([x, y], thresholds)
    for share, threshold in zip(found, thresholds, strict=True):
        slow = [sum(1 for value in task if value > threshold) / len(task) for task in (x, y)]
        assert share == pytest.approx(sum(slow) / 2)
    assert (np.diff(found) <= 1e-12).all()
