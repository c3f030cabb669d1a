"""Sequences of many lengths, in minibatches."""

from __future__ import annotations

import torch

from lab.data.language.ragged import LengthOrder, Ragged


def test_sequences_are_padded_to_the_longest_of_a_minibatch() -> None:
    held = Ragged.of([[1, 2, 3], [], [4], [5, 6]])
    assert held.padded(torch.tensor([3, 0])).tolist() == [[5, 6, 0], [1, 2, 3]]
    assert held.padded(torch.tensor([2, 1]), -1).tolist() == [[4], [-1]]
    rows = Ragged.of([[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]])
    assert rows.padded(torch.tensor([0, 1])).tolist() == [[[1, 2], [0, 0]], [[3, 4], [5, 6]]]


def test_an_epoch_has_each_sequence_once_among_others_of_like_length() -> None:
    lengths = torch.randint(1, 40, (1003,), generator=torch.Generator().manual_seed(0))
    order = LengthOrder(lengths, 10, seed=1)
    first = [order.next() for _ in range(order.num_batches)]
    assert order.num_batches == 100
    assert len(torch.cat(first).unique()) == 1000
    spread = torch.stack([lengths[batch].max() - lengths[batch].min() for batch in first]).float()
    assert spread.mean() < 3  # 36 where batches are drawn at random
    second = [order.next() for _ in range(order.num_batches)]
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_the_number_of_minibatches_is_the_whole_state() -> None:
    lengths = torch.arange(1, 101)
    one, other = LengthOrder(lengths, 7, seed=3), LengthOrder(lengths, 7, seed=3)
    for _ in range(17):
        one.next()
    other.drawn = one.drawn
    assert all(torch.equal(one.next(), other.next()) for _ in range(20))
    assert not torch.equal(LengthOrder(lengths, 7, seed=4).next(), LengthOrder(lengths, 7, seed=3).next())
