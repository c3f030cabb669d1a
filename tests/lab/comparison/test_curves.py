"""Downsampling and bands."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lab.comparison.curves import band, downsample
from lab.comparison.records import Curve, curves_of


def curve(values, scale=1.0):
    values = np.asarray(values, float)
    steps = np.arange(1.0, len(values) + 1)
    return Curve(steps, steps * scale, values)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(8, 200), st.integers(0, 10**6))
def test_downsampling_keeps_ends_and_extremes(count, max_points, seed):
    full = curve(np.random.default_rng(seed).normal(size=count))
    small = downsample(full, max_points)
    assert len(small.values) <= max(max_points, 1)
    assert (np.diff(small.steps) > 0).all()
    assert small.steps[0] == full.steps[0]
    assert small.steps[-1] == full.steps[-1]
    assert small.values.max() == full.values.max()
    assert small.values.min() == full.values.min()
    assert np.isin(small.values, full.values).all()


def test_short_curves_are_left_alone():
    full = curve([3, 1, 2])
    assert downsample(full, 10) is full


def test_a_band_on_common_steps_is_the_interquartile_mean_at_each():
    values = np.random.default_rng(0).normal(size=(5, 20))
    found = band([curve(row) for row in values], "steps")
    np.testing.assert_allclose(found.x, np.arange(1, 21))
    np.testing.assert_allclose(found.middle, stats.trim_mean(values, 0.25, axis=0))
    assert (found.low <= found.middle).all()
    assert (found.middle <= found.high).all()


def test_curves_are_interpolated_over_seconds():
    found = band([curve([0, 10, 20], scale=1.0), curve([0, 10, 20], scale=2.0)], "seconds")
    at = np.interp(2.5, found.x, found.middle)
    assert abs(at - (15 + 2.5) / 2) < 0.1


def test_what_has_ended_does_not_bend_the_rest():
    found = band([curve([1.0] * 10), curve([3.0] * 20)], "steps")
    assert np.allclose(found.middle[found.x <= 10], 2.0)
    assert np.allclose(found.middle[found.x > 10], 3.0)


def slowly(rows, counter):
    """`curves_of`, row by row."""
    points = {}
    for row in rows:
        for key, value in row.items():
            if "/" in key and isinstance(value, int | float):
                points.setdefault(key, []).append((row.get(counter, 0), row.get("seconds", 0.0), value))
    return points


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["n", "seconds", "a/x", "a/y", "b/z", "pictures"]),
            st.one_of(st.integers(0, 1000), st.floats(-1e6, 1e6), st.none(), st.booleans(), st.just({"p": "q"})),
        ).map(
            lambda row: row | {key: 1.5 for key in ("n", "seconds") if not isinstance(row.get(key, 1.0), int | float)}
        ),
        max_size=30,
    )
)
def test_rows_taken_together_are_the_rows_one_by_one(rows):
    found = curves_of(rows, "n")
    wanted = slowly(rows, "n")
    assert set(found) == set(wanted)
    for key, points in wanted.items():
        np.testing.assert_array_equal(np.array(found[key]).T, np.array(points, dtype=float))
