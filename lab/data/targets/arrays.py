"""Labels as whole arrays of each split, as files hold them: what the readers of all targets share."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def column(y: Array) -> Array:
    """Labels (N,) of a column (N, 1); others as they are."""
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
