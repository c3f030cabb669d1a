"""A sum tree for sampling in proportion to priorities (Schaul et al. 2016).

A complete binary tree in one array: node i sums its children 2i and 2i + 1, the leaves are the last half. A walk down
or up it takes some twenty dependent steps on single numbers, which tensor operations do forty times slower than a
compiled loop; so the loops are compiled, and the tree lives on the CPU. They go level by level with the whole batch:
then the steps of different walks overlap in the processor, and neighbours share what is above them. A sum is always
made anew from its two children, so that sums do not drift. B indices, K batches, L leaves.
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

    def draw(self, shift: Array, beta: float, leaf: Array, weight: Array) -> None:
        """Write K batches of leaves and their importance weights, the largest of each batch 1, all (K, B).

        `shift` (K, B) is uniform in [0, 1): one leaf comes from each of B equal shares of the total (appendix B.2.1).
        A weight is (p_i / min p)^-beta.
        """
        _draw(self._nodes, self._first_leaf, shift, beta, leaf, weight)

    def set_by_error(self, index: Array, td_error: Array, epsilon: float, alpha: float) -> float:
        """Set the priorities of leaves (B,) to (|td_error| + epsilon)^alpha; returns the largest of them."""
        return float(_set_by_error(self._nodes, self._first_leaf, index, td_error, epsilon, alpha))

    def load(self, priority: Array) -> None:
        """Set all leaves (L,) at once."""
        self.leaves[:] = priority
        level = self._first_leaf
        while level > 1:
            self._nodes[level // 2 : level] = self._nodes[level : 2 * level].reshape(-1, 2).sum(1)
            level //= 2


@numba.njit(cache=True)
def _set(nodes: Array, first_leaf: int, index: Array, priority: Array) -> None:
    touched, count, level = np.empty(len(index), np.int64), len(index), first_leaf
    for b in range(count):
        touched[b] = first_leaf + index[b]
        nodes[touched[b]] = priority[b]
    while level > 1:
        level >>= 1
        num_parents = 0
        for b in range(count):
            parent = touched[b] >> 1
            if num_parents == 0 or parent != touched[num_parents - 1]:
                touched[num_parents] = parent
                num_parents += 1
        count = num_parents
        for b in range(count):
            node = touched[b]
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1]


@numba.njit(cache=True)
def _set_by_error(nodes: Array, first_leaf: int, index: Array, td_error: Array, epsilon: float, alpha: float) -> float:
    priority, largest = np.empty(len(index)), 0.0
    for b in range(len(index)):
        priority[b] = (abs(np.float64(td_error[b])) + epsilon) ** alpha
        largest = max(largest, priority[b])
    _set(nodes, first_leaf, index, priority)
    return largest


@numba.njit(cache=True)
def _find(nodes: Array, first_leaf: int, mass: Array) -> Array:
    node, rest, level = np.ones(len(mass), np.int64), mass.copy(), 1
    while level < first_leaf:
        for b in range(len(mass)):
            left, right = nodes[2 * node[b]], nodes[2 * node[b] + 1]
            goes_right = not (rest[b] < left or right == 0.0)  # rounding must not lead into an empty half
            rest[b] -= left * goes_right
            node[b] = 2 * node[b] + goes_right
        level *= 2
    return node - first_leaf


@numba.njit(cache=True)
def _draw(nodes: Array, first_leaf: int, shift: Array, beta: float, leaf: Array, weight: Array) -> None:
    num_batches, batch_size = shift.shape
    share = nodes[1] / batch_size
    for k in range(num_batches):
        leaf[k] = _find(nodes, first_leaf, (shift[k] + np.arange(batch_size)) * share)
        least = nodes[first_leaf + leaf[k, 0]]
        for b in range(1, batch_size):
            least = min(least, nodes[first_leaf + leaf[k, b]])
        for b in range(batch_size):
            weight[k, b] = (nodes[first_leaf + leaf[k, b]] / least) ** -beta
