"""Networks that read trees: what a node is follows from its two children, and what a leaf is from its word's vector.

B trees, N nodes of the largest one, M nodes of all, D numbers of a word, F features.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lab.backbones.registry import register
from lab.backbones.sequences import SequenceNet


class TreeNet(SequenceNet):
    """Vectors (B, N, D) of nodes in post-order to features of each (B, N, F), of which a tree has `lengths` (B,).

    `tree` (B, N, 3) has each node's left child, its right child, and its height, 0 of leaves, which alone have vectors.
    Steps of a sequence, without a tree, are the leaves of one that branches to the left, and the features of a step are
    those of the node over all up to it.
    """

    @abstractmethod
    def read(self, x: Tensor, lengths: Tensor, tree: Tensor) -> Tensor:
        """Features (B, N, F) of trees; 0 behind their roots."""

    def forward(self, x: Tensor, lengths: Tensor | None = None, tree: Tensor | None = None) -> Tensor:
        if tree is None:
            x, tree = _branching_left(x)
            return self.read(x, torch.full(x.shape[:1], x.shape[1], device=x.device), tree)[:, ::2]
        if lengths is None:
            lengths = torch.full(x.shape[:1], x.shape[1], device=x.device)
        return self.read(x, lengths, tree)


class TreeLSTM(TreeNet):
    """Binary Tree-LSTM of constituency trees (Tai, Socher, Manning 2015), equations 9 to 14 with N = 2:

        i, o, u = sigmoid, sigmoid, tanh of W x + b of a leaf, or of U [h_l, h_r] + b of a node over two others
        f_l, f_r = sigmoid of U [h_l, h_r] + b
        c = i u + f_l c_l + f_r c_r
        h = o tanh(c)

    Nodes of one height, of all trees, are one matrix product.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.leaf = nn.Linear(size, 3 * hidden)  # i, o, u
        self.node = nn.Linear(2 * hidden, 5 * hidden)  # i, o, f_l, f_r, u

    def read(self, x: Tensor, lengths: Tensor, tree: Tensor) -> Tensor:
        order, places, levels = _scheduled(lengths, tree)
        waiting: dict[int, list[Tensor]] = {}  # states (., 2 F) of nodes that are children, by their parents' heights
        features = []
        for level in levels:
            if level.height == 0:
                gates = self.leaf(x.flatten(0, 1)[order[: level.num]])
                i, o = gates[:, : 2 * self.hidden].sigmoid().chunk(2, 1)
                c = i * gates[:, 2 * self.hidden :].tanh()
            else:
                pairs = torch.cat(waiting.pop(level.height))[places[level.first : level.first + level.num]]
                h, c = pairs.chunk(2, 2)  # (., 2, F)
                gates = self.node(h.flatten(1))
                i, o, left, right = gates[:, : 4 * self.hidden].sigmoid().chunk(4, 1)
                c = i * gates[:, 4 * self.hidden :].tanh() + left * c[:, 0] + right * c[:, 1]
            features.append(o * c.tanh())
            pieces = torch.cat([features[-1], c], 1).split(level.sizes)
            for parent, piece in zip(level.parents, pieces, strict=True):
                waiting.setdefault(parent, []).append(piece)
        flat = torch.cat(features)
        placed = flat.new_zeros(tree.shape[0] * tree.shape[1], self.hidden).index_copy(0, order, flat)
        return placed.view(*tree.shape[:2], -1)


class _Level(NamedTuple):
    """Nodes of one height: how many, the first one's number in the order of all, and how many of them have parents of
    which height (0: none)."""

    height: int
    num: int
    first: int
    parents: list[int]
    sizes: list[int]


def _scheduled(lengths: Tensor, tree: Tensor) -> tuple[Tensor, Tensor, list[_Level]]:
    """In which order nodes are computed.

    Returns:
        The numbers (M,) of nodes among the B N, by height, those of one height by their parents' height; where the
        children (M, 2) of each of them stand among all whose parents are of its height, in the order in which they
        were computed (anywhere, for leaves); and the heights from 0 up.
    """
    num_trees, num_nodes = tree.shape[:2]
    first = torch.arange(num_trees, device=tree.device)[:, None] * num_nodes
    heights = tree[..., 2].flatten()
    children = (tree[..., :2] + first[..., None]).flatten(0, 1)  # (B N, 2)
    inside = (torch.arange(num_nodes, device=tree.device) < lengths[:, None]).flatten()
    over_two = children[inside & (heights > 0)]
    parents = torch.zeros_like(heights)
    parents[over_two] = heights[inside & (heights > 0)][:, None]
    base = int(heights.max()) + 1
    keys = (heights * base + parents)[inside]
    order = keys.argsort(stable=True)
    groups, sizes = keys[order].unique_consecutive(return_counts=True)
    order = inside.nonzero()[:, 0][order]

    by_parent = parents[order].argsort(stable=True)
    ranks = torch.empty_like(heights)
    ranks[order[by_parent]] = torch.arange(len(order), device=tree.device)
    starts = torch.bincount(parents[order], minlength=base).cumsum(0).roll(1)  # of height 0 it is not looked at
    places = ranks[children[order]] - starts[heights[order]][:, None]

    levels: list[_Level] = []
    for group, size in zip(groups.tolist(), sizes.tolist(), strict=True):
        height, parent = divmod(group, base)
        if not levels or levels[-1].height != height:
            start = levels[-1].first + levels[-1].num if levels else 0
            levels.append(_Level(height, 0, start, [], []))
        last = levels[-1]
        levels[-1] = last._replace(num=last.num + size, parents=[*last.parents, parent], sizes=[*last.sizes, size])
    return order, places, levels


def _branching_left(x: Tensor) -> tuple[Tensor, Tensor]:
    """The tree (B, 2 T - 1, 3) over steps (B, T, D), with their vectors: nodes 0, 2, 4, ... are over the first 1, 2, 3,
    ... of them."""
    num_steps = x.shape[1]
    tree = torch.zeros(2 * num_steps - 1, 3, dtype=torch.int64, device=x.device)
    steps = torch.arange(1, num_steps, device=x.device)
    tree[2::2] = torch.stack([2 * steps - 2, 2 * steps - 1, steps], 1)
    vectors = x.new_zeros(len(x), len(tree), x.shape[2])
    vectors[:, 0], vectors[:, 1::2] = x[:, 0], x[:, 1:]
    return vectors, tree.expand(len(x), -1, -1)


@register("tree_lstm", example_shape=(5, 8), sequential=True, trees=True)
def tree_lstm(input_shape: tuple[int, ...], *, hidden: int = 150) -> nn.Module:
    """Binary Tree-LSTM of constituency trees (Tai, Socher, Manning 2015), computed height by height."""
    if len(input_shape) != 2 or not input_shape[0]:
        raise ValueError("it needs the nodes of a tree, or the steps of a sequence, with a vector each")
    return TreeLSTM(input_shape[1], hidden)
