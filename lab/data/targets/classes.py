"""One class of several."""

from __future__ import annotations

from typing import NamedTuple


class Classes(NamedTuple):
    """A class label in [0, num); a batch holds y (B,) int64."""

    num: int
    names: tuple[str, ...] = ()
