"""The Tree-LSTM against one that follows its equations node by node. B trees, N nodes, F features."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from lab.backbones import BackboneConfig
from lab.backbones.features import Features, Places
from lab.backbones.trees import TreeLSTM

SIZE, HIDDEN = 5, 4


def random_trees(words: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """How many nodes each tree over so many words has, and their left and right children and heights (B, N, 3)."""
    rng = random.Random(seed)

    def add(rows: list[list[int]], num: int) -> int:
        left = right = height = 0
        if num > 1:
            cut = rng.randint(1, num - 1)
            left, right = add(rows, cut), add(rows, num - cut)
            height = 1 + max(rows[left][2], rows[right][2])
        rows.append([left, right, height])
        return len(rows) - 1

    trees = torch.zeros(len(words), 2 * max(words) - 1, 3, dtype=torch.int64)
    for tree, num in zip(trees, words, strict=True):
        rows: list[list[int]] = []
        add(rows, num)
        tree[: len(rows)] = torch.tensor(rows)
    return torch.tensor([2 * num - 1 for num in words]), trees


def recursive(net: TreeLSTM, x: Tensor, tree: Tensor, node: int, features: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
    """h and c (F,) of a node of one tree, with those of all nodes below it in `features`."""
    left, right, height = tree[node].tolist()
    if height == 0:
        i, o, u = net.leaf(x[node]).chunk(3)
        c = i.sigmoid() * u.tanh()
    else:
        h_left, c_left = recursive(net, x, tree, left, features)
        h_right, c_right = recursive(net, x, tree, right, features)
        i, o, f_left, f_right, u = net.node(torch.cat([h_left, h_right])).chunk(5)
        c = i.sigmoid() * u.tanh() + f_left.sigmoid() * c_left + f_right.sigmoid() * c_right
    features[node] = o.sigmoid() * c.tanh()
    return features[node], c


@pytest.mark.parametrize("words", [[1], [2], [1, 1], [7, 1, 12, 2, 30, 7]])
def test_heights_at_once_equal_nodes_one_by_one(words: list[int]) -> None:
    torch.manual_seed(0)
    net = TreeLSTM(SIZE, HIDDEN)
    lengths, trees = random_trees(words)
    x = torch.randn(*trees.shape[:2], SIZE, requires_grad=True)
    weight = torch.randn(*trees.shape[:2], HIDDEN)
    expected = torch.zeros(*trees.shape[:2], HIDDEN)
    for i, (length, tree) in enumerate(zip(lengths.tolist(), trees, strict=True)):
        features: dict[int, Tensor] = {}
        recursive(net, x[i], tree, length - 1, features)
        assert len(features) == length
        for number, h in features.items():
            expected[i, number] = h
    outputs = net(x, lengths, trees)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    wanted = [x, *net.parameters()]
    gradients = [torch.autograd.grad((y * weight).sum(), wanted, materialize_grads=True) for y in (outputs, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_what_is_behind_a_root_changes_nothing() -> None:
    torch.manual_seed(0)
    net = TreeLSTM(SIZE, HIDDEN)
    lengths, trees = random_trees([3, 6])
    x = torch.randn(*trees.shape[:2], SIZE)
    strange_x, strange_trees = x.clone(), trees.clone()
    strange_x[0, 5:], strange_trees[0, 5:] = 7.0, 1
    outputs = net(strange_x, lengths, strange_trees)
    torch.testing.assert_close(outputs, net(x, lengths, trees))
    assert not outputs[0, 5:].any()


def test_a_sequence_is_a_tree_that_branches_to_the_left() -> None:
    torch.manual_seed(0)
    net = TreeLSTM(SIZE, HIDDEN)
    x = torch.randn(3, 4, SIZE)
    tree = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 0], [2, 3, 2], [0, 0, 0], [4, 5, 3]])
    for steps in range(1, 5):
        nodes = torch.zeros(3, 2 * steps - 1, SIZE)
        nodes[:, [0, 1, 3, 5][:steps]] = x[:, :steps]
        expected = net(nodes, torch.full((3,), 2 * steps - 1), tree[: 2 * steps - 1].expand(3, -1, -1))[:, -1]
        torch.testing.assert_close(net(x)[:, steps - 1], expected)


def test_features_are_places_one_a_node_and_the_vector_is_the_roots() -> None:
    torch.manual_seed(0)
    lengths, trees = random_trees([3, 6])
    x = torch.randn(*trees.shape[:2], SIZE)
    places = Features(BackboneConfig("tree_lstm", hidden=HIDDEN), x.shape[1:], "places")
    vector = Features(BackboneConfig("tree_lstm", hidden=HIDDEN), x.shape[1:])
    vector.load_state_dict(places.state_dict())
    given = places(x, lengths, trees)
    assert isinstance(given, Places)
    assert given.mask.sum(1).tolist() == [5, 11]
    assert places.spec.shapes == ((11, HIDDEN),)
    torch.testing.assert_close(vector(x, lengths, trees), torch.stack([given.values[0, 4], given.values[1, 10]]))
