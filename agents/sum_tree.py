"""A sum tree for sampling in proportion to priorities (Schaul et al. 2016).

A complete binary tree in one array: node i sums its children 2i and 2i + 1, the leaves are the last half. A walk down
or up it takes some twenty dependent steps on single numbers, which tensor operations do forty times slower than a
compiled loop; so the loops are compiled, and the tree lives on the CPU. A sum is always made anew from its two
children, so that sums do not drift. B indices, L leaves.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

Array = np.ndarray[Any, Any]


class SumTree:
    """Priorities of `num_leaves` leaves, all 0 at first."""

    def __init__(self, num_leaves: int) -> None:
        self.num_leaves = num_leaves
        self._first_leaf = 1 << max(num_leaves - 1, 1).bit_length()
        self._nodes = np.zeros(2 * self._first_leaf)

    @property
    def total(self) -> float:
        """The sum of all priorities."""
        return float(self._nodes[1])

    @property
    def leaves(self) -> Array:
        """All priorities (L,), float64, to be read only."""
        return self._nodes[self._first_leaf : self._first_leaf + self.num_leaves]

    def set(self, index: Array, priority: Array) -> None:
        """Change the priorities (B,) of leaves (B,), none below 0; of one index given twice the last counts."""
        _set(self._nodes, self._first_leaf, index, priority)

    def find(self, mass: Array) -> Array:
        """The leaves (B,) in whose share of [0, total) the masses (B,) lie; never one of priority 0.

        Leaf i has the share [p_0 + ... + p_{i-1}, p_0 + ... + p_i). The total must be above 0.
        """
        leaf: Array = _find(self._nodes, self._first_leaf, mass)
        return leaf

    def load(self, priority: Array) -> None:
        """Set all leaves (L,) at once."""
        self.leaves[:] = priority
        level = self._first_leaf
        while level > 1:
            self._nodes[level // 2 : level] = self._nodes[level : 2 * level].reshape(-1, 2).sum(1)
            level //= 2


@numba.njit(cache=True)
def _set(nodes: Array, first_leaf: int, index: Array, priority: Array) -> None:
    for b in range(len(index)):
        node = first_leaf + index[b]
        nodes[node] = priority[b]
        node >>= 1
        while node:
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1]
            node >>= 1


@numba.njit(cache=True)
def _find(nodes: Array, first_leaf: int, mass: Array) -> Array:
    leaf = np.empty(len(mass), np.int64)
    for b in range(len(mass)):
        node, rest = 1, mass[b]
        while node < first_leaf:
            left, right = nodes[2 * node], nodes[2 * node + 1]
            if rest < left or right == 0.0:  # rounding must not lead into an empty half
                node = 2 * node
            else:
                rest -= left
                node = 2 * node + 1
        leaf[b] = node - first_leaf
    return leaf
