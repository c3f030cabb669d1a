"""Curves made small: downsampled runs, and the seeds of a group as one curve with an interval.

n points of a curve, G points of a grid, S runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from lab.comparison import statistics
from lab.comparison.records import Curve
from lab.comparison.statistics import Array

Axis = Literal["steps", "seconds"]
_RESAMPLES = 300


class Band(NamedTuple):
    """The interquartile mean of several curves and its bootstrap interval, (G,) each."""

    x: Array
    middle: Array
    low: Array
    high: Array


def downsample(curve: Curve, max_points: int) -> Curve:
    """A curve of at most `max_points`: the lowest and the highest point of each stretch, the first and the last."""
    count = len(curve.values)
    if count <= max_points:
        return curve
    stretches = max(1, (max_points - 2) // 2)
    size = -(-count // stretches)
    padded = np.resize(curve.values, stretches * size).astype(np.float64)
    padded[count:] = curve.values[-1]
    table = padded.reshape(stretches, size)
    starts = np.arange(stretches) * size
    kept = np.concatenate([starts + table.argmin(axis=1), starts + table.argmax(axis=1), [0, count - 1]])
    indices = np.unique(np.minimum(kept, count - 1))
    return Curve(*(column[indices] for column in curve))


def band(curves: Sequence[Curve], axis: Axis, max_points: int = 101) -> Band:
    """Several runs' curves of one metric as one, over steps or seconds.

    Curves are interpolated between their points, never beyond them: where some runs have ended, the rest goes on.
    """
    xs = [getattr(curve, axis) for curve in curves]
    first = xs[0]
    if len(first) <= max_points and all(len(x) == len(first) and np.array_equal(x, first) for x in xs):
        grid = np.unique(first)
    else:
        grid = np.linspace(min(x[0] for x in xs), max(x[-1] for x in xs), max_points)
    values = np.stack(
        [np.interp(grid, x, curve.values, left=np.nan, right=np.nan) for x, curve in zip(xs, curves, strict=True)]
    )  # (S, G)
    middle, low, high = (np.full(len(grid), np.nan) for _ in range(3))
    present = np.isfinite(values)
    for pattern in np.unique(present, axis=1).T:
        if not pattern.any():
            continue
        where = (present == pattern[:, None]).all(axis=0)
        scores = values[np.ix_(pattern, where)].T  # (G', S')
        middle[where] = statistics.interquartile_mean(scores)
        samples = statistics.interquartile_mean(statistics.bootstrap([scores], _RESAMPLES))
        low[where], high[where] = statistics.interval(samples)
    kept = np.isfinite(middle)
    return Band(grid[kept], middle[kept], low[kept], high[kept])
