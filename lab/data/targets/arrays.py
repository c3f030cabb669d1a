"""Labels as whole arrays of each split, as files hold them: what the readers of all targets share."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def mean_and_spread(values: Array) -> tuple[Array, Array]:
    """The mean and the standard deviation (F,) of numbers (N, F) float64; of a column of one value, this and 1.

    What is too large to be squared gives an infinite deviation.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        mean, spread = values.mean(0), values.std(0)
    alike = values.max(0) == values.min(0)
    return np.where(alike, values[0], mean), np.where(alike, 1.0, np.where(np.isnan(spread), np.inf, spread))


def column(y: Array) -> Array:
    """Labels (N,) of a column (N, 1); others as they are."""
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
