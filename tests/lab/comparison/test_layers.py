"""Histograms of rows of metrics over time: the same bins, no number lost, strange rows left out."""

from __future__ import annotations

import numpy as np
import pytest

from lab.comparison.layers import NUM_BINS, layers_of, rebinned
from lab.comparison.records import classes_of


def test_rebinning_loses_and_moves_nothing() -> None:
    counts = np.array([1.0, 3.0, 4.0])  # of width 1, from 0 to 3
    assert rebinned(0, 3, counts, np.array([0, 1, 2, 3.0])) == pytest.approx(counts / 8)
    assert rebinned(0, 3, counts, np.array([-1, 0.5, 2.5, 9.0])) == pytest.approx([0.5 / 8, 5.5 / 8, 2 / 8])
    assert rebinned(0, 3, counts, np.linspace(-5, 5, 41)).sum() == pytest.approx(1)


def test_layers_share_their_ends_over_time() -> None:
    rows = [
        {"samples": 10, "histograms": {"weights/a": [-1.0, 1.0, [5, 5]]}},
        {"samples": 15},
        {"samples": 20, "histograms": {"weights/a": [0.0, 4.0, [1, 0, 0, 1]], "weights/b": [0.0, 1.0, [1]]}},
    ]
    layers = layers_of(rows, "samples")
    layer = layers["weights/a"]
    assert (layer.steps, layer.low, layer.high) == ([10, 20], -1.0, 4.0)
    assert layer.shares.shape == (2, NUM_BINS)
    assert layer.shares.sum(1) == pytest.approx([1, 1])
    assert layer.shares[1, : NUM_BINS // 5].sum() == pytest.approx(0)
    assert layers["weights/b"].steps == [20]


def test_one_number_far_away_does_not_press_the_rest_together() -> None:
    counts = [0] * 100
    counts[0], counts[-1] = 99_999, 1
    (layer,) = layers_of([{"samples": 1, "histograms": {"weights/a": [0.0, 100.0, counts]}}], "samples").values()
    assert layer.high == pytest.approx(1.0)


@pytest.mark.parametrize(
    "histograms",
    [
        7,
        {"a": 3},
        {"a": [0, 1]},
        {"a": [1, 0, [1]]},
        {"a": [0, 1, [-1]]},
        {"a": [0, 1, ["x"]]},
        {"a": [0, 1e999, [1]]},
        {"a": [-1e308, 1e308, [1]]},
    ],
)
def test_what_is_no_histogram_is_left_out(histograms: object) -> None:
    assert layers_of([{"samples": 1, "histograms": histograms}], "samples") == {}


def test_the_last_table_of_classes_counts() -> None:
    rows = [{"classes": {"a": {"f1": 0.1}}}, {"classes": {"a": {"f1": 0.5, "word": "x"}, "b": 3}}, {"eval/x": 1.0}]
    assert classes_of(rows) == {"a": {"f1": 0.5}}
    assert classes_of([{"classes": [1]}]) == {}
