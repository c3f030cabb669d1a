"""The sum tree against plain sums and searches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.replay.sum_tree import SumTree

priorities = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e6)), min_size=1, max_size=70)


def tree_of(values: list[float]) -> SumTree:
    tree = SumTree(len(values))
    tree.load(np.asarray(values))
    return tree


@pytest.mark.slow
@given(priorities, st.data())
@settings(deadline=None, max_examples=200)
def test_set_keeps_leaves_and_total(values: list[float], data: st.DataObject) -> None:
    tree = tree_of(values)
    expected = np.asarray(values)
    for _ in range(3):
        index = np.asarray(data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=9)))
        new = np.asarray(data.draw(st.lists(st.floats(0, 1e6), min_size=len(index), max_size=len(index))))
        tree.set(index, new)
        for i, value in zip(index, new, strict=True):  # the last one counts
            expected[i] = value
    np.testing.assert_array_equal(tree.leaves, expected)
    assert tree.total == pytest.approx(expected.sum(), rel=1e-12)


@given(priorities.filter(lambda values: sum(values) > 0), st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(deadline=None, max_examples=300)
def test_find_agrees_with_a_linear_search(values: list[float], shares: list[float]) -> None:
    tree = tree_of(values)
    mass = np.asarray(shares) * tree.total
    ends = np.cumsum(values)
    for leaf, m in zip(tree.find(mass), mass, strict=True):
        assert values[leaf] > 0
        tolerance = 1e-9 * tree.total
        assert ends[leaf] - values[leaf] - tolerance <= m <= ends[leaf] + tolerance


def test_mass_at_or_past_the_end_finds_the_last_leaf_that_is_not_empty() -> None:
    tree = tree_of([0.0, 3.0, 0.0, 2.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(tree.find(np.asarray([0.0, 2.999, 3.0, 5.0, 6.0])), [1, 1, 3, 3, 3])


def test_load_makes_the_same_sums_as_set() -> None:
    values = np.random.default_rng(0).random(1000)
    loaded, given_one_by_one = SumTree(1000), SumTree(1000)
    loaded.load(values)
    given_one_by_one.set(np.arange(1000), values)
    np.testing.assert_array_equal(loaded._nodes, given_one_by_one._nodes)


def test_draw_takes_one_leaf_of_each_share_and_weighs_it_against_the_rarest() -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.random(300) < 0.3, 0.0, rng.random(300) ** 4)
    tree, shift = tree_of(values.tolist()), rng.random((5, 16))
    leaf, weight = np.empty((5, 16), np.int64), np.empty((5, 16), np.float32)
    tree.draw(shift, 0.7, leaf, weight)
    mass = (shift + np.arange(16)) * tree.total / 16
    np.testing.assert_array_equal(leaf.ravel(), tree.find(mass.ravel()))
    for k in range(5):
        np.testing.assert_allclose(weight[k], (values[leaf[k]] / values[leaf[k]].min()) ** -0.7, rtol=1e-6)


def test_errors_become_priorities_and_of_one_leaf_given_twice_the_last_counts() -> None:
    tree = tree_of([1.0] * 9)
    largest = tree.set_by_error(np.asarray([2, 7, 2]), np.asarray([-3.0, 0.5, 1.5], np.float32), 0.25, 2.0)
    expected = np.ones(9)
    expected[[2, 7]] = 1.75**2, 0.75**2
    np.testing.assert_allclose(tree.leaves, expected)
    assert tree.total == pytest.approx(expected.sum())
    assert largest == pytest.approx(3.25**2)
