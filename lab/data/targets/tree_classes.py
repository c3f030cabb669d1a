"""A class for each node of a tree."""

from __future__ import annotations

from typing import NamedTuple

from lab.data.targets.classes import Classes


class TreeClasses(NamedTuple):
    """One of `classes` for nodes in post-order; a batch holds y (B, N) int64, NO_TAG where a node has none, and after
    the root, which has one.

    `mean_labelled` is how many nodes of a training tree have a class.
    """

    classes: Classes
    mean_labelled: float
