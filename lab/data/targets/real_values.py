"""Real numbers: what regression predicts."""

from __future__ import annotations

from typing import NamedTuple


class RealValues(NamedTuple):
    """Real numbers by name; a batch holds y (B, T) float32 in the data's own units.

    `mean` and `scale` (the standard deviation; 1 where all values are alike) are those of the training split.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
