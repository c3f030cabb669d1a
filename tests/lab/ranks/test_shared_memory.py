"""Sums through shared memory, by threads in place of ranks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.ranks.shared_memory import MachineRanks, fits


def on_ranks(folder: Path, num_ranks: int, work: Callable[[MachineRanks], Any]) -> list[Any]:
    """What each rank's work gives, or its exception."""
    found: list[Any] = [None] * num_ranks

    def one(rank: int) -> None:
        near = MachineRanks(folder / "near", rank, num_ranks, timeout=30.0)
        try:
            found[rank] = work(near)
        except Exception as error:
            found[rank] = error
        near.close()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_every_rank_has_the_sum_again_and_again(num_ranks: int, tmp_path: Path) -> None:
    def numbers(rank: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(rank)
        drawn = [torch.randn(n, 5, generator=generator) for n in (1, 7, 1000) for _ in range(20)]
        return [*drawn, torch.randn(6, 4, generator=generator).T, torch.tensor(float(rank)), torch.tensor([rank, 2])]

    def work(near: MachineRanks) -> list[torch.Tensor]:
        mine = numbers(near.rank)
        for x in mine:
            near.all_reduce(x)
        return mine

    found = on_ranks(tmp_path, num_ranks, work)
    wanted = [sum(parts[1:], parts[0]) for parts in zip(*map(numbers, range(num_ranks)), strict=True)]
    for rank in range(num_ranks):
        for x, same, first in zip(found[rank], wanted, found[0], strict=True):
            torch.testing.assert_close(x, same)
            assert torch.equal(x, first)


def test_ranks_whose_fellow_has_ended_are_told(tmp_path: Path) -> None:
    def work(near: MachineRanks) -> None:
        x = torch.ones(3)
        near.all_reduce(x)
        if near.rank:
            near.all_reduce(x)

    found = on_ranks(tmp_path, 3, work)
    assert found[0] is None
    assert all(isinstance(error, OSError) for error in found[1:])


def test_what_fits_works_and_a_longer_path_does_not(tmp_path: Path) -> None:
    room = 103 - len(str(tmp_path)) - len("/x/near/.rank-9999")
    if room < 1:
        pytest.skip("the folder of this test is itself too deep")
    longest = tmp_path / ("x" * (room + 1)) / "near"
    assert fits(longest)
    assert not fits(longest.parent.with_name(longest.parent.name + "x") / "near")
    longest.parent.mkdir()
    assert on_ranks(longest.parent, 2, lambda near: near.rank) == [0, 1]
