"""Histograms of layers over the course of a run, in bins that are the same all the time. T evaluations, B bins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lab.comparison.statistics import Array

NUM_BINS = 40
_LARGEST = 1e30
_TAIL = 0.001
"""share of the numbers that may lie beyond either end"""


class Layer(NamedTuple):
    """Steps (T,), the ends of the bins, and the share of the numbers (T, B) in each bin."""

    steps: list[int]
    low: float
    high: float
    shares: Array


def layers_of(rows: Iterable[Mapping[str, Any]], counter: str) -> dict[str, Layer]:
    """The histograms of rows of metrics, by name (weights/..., activations/..., gradients/...)."""
    series: dict[str, list[tuple[int, float, float, Array]]] = {}
    for row in rows:
        for name, each in _histograms(row.get("histograms")):
            step = row.get(counter)
            if isinstance(step, int):
                series.setdefault(name, []).append((step, *each))
    return {name: _together(each) for name, each in series.items()}


def rebinned(low: float, high: float, counts: Array, edges: Array) -> Array:
    """The share of the numbers between each two of `edges` (B + 1,), spread evenly within each of their own bins."""
    own = np.linspace(low, high, len(counts) + 1)
    below = np.concatenate([[0.0], np.cumsum(counts)]) / max(float(counts.sum()), 1.0)
    shares: Array = np.diff(np.interp(edges, own, below))
    return shares


def _together(series: Sequence[tuple[int, float, float, Array]]) -> Layer:
    ends = np.array([_ends(low, high, counts) for _, low, high, counts in series])
    lowest, highest = float(ends[:, 0].min()), float(ends[:, 1].max())
    edges = np.linspace(lowest, highest, NUM_BINS + 1)
    shares = np.stack([rebinned(low, high, counts, edges) for _, low, high, counts in series])
    return Layer([step for step, *_ in series], lowest, highest, shares)


def _ends(low: float, high: float, counts: Array) -> tuple[float, float]:
    """Between which nearly all numbers lie, so that a single large one does not press the rest into one bin."""
    below = np.concatenate([[0.0], np.cumsum(counts)]) / max(float(counts.sum()), 1.0)
    own = np.linspace(low, high, len(counts) + 1)
    first, last = int((below <= _TAIL).nonzero()[0][-1]), int((below >= 1 - _TAIL).nonzero()[0][0])
    return float(own[first]), float(own[last])


def _histograms(values: Any) -> Iterable[tuple[str, tuple[float, float, Array]]]:
    """Those of a row that are what a run writes; others are left out."""
    for name, each in values.items() if isinstance(values, dict) else ():
        try:
            low, high, counts = float(each[0]), float(each[1]), np.array(each[2], dtype=np.float64)
        except (TypeError, ValueError, IndexError, KeyError):
            continue
        is_line = counts.ndim == 1 and len(counts) > 0 and bool((counts >= 0).all()) and 0 < counts.sum() < _LARGEST
        if is_line and -_LARGEST < low < high < _LARGEST:
            yield name, (low, high, counts)
