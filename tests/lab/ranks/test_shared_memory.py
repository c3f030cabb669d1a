"""All-reduce through shared memory, by threads in place of ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lab.ranks.shared_memory import SharedMemoryGroup, path_fits
from tests.lab.ranks.several import on_threads


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_every_rank_has_the_sum_again_and_again(num_ranks: int, tmp_path: Path) -> None:
    def numbers(rank: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(rank)
        drawn = [torch.randn(n, 5, generator=generator) for n in (1, 7, 1000) for _ in range(20)]
        return [*drawn, torch.randn(6, 4, generator=generator).T, torch.tensor(float(rank)), torch.tensor([rank, 2])]

    def work(group: SharedMemoryGroup) -> list[torch.Tensor]:
        own = numbers(group.rank)
        for x in own:
            group.all_reduce(x)
        return own

    results = on_threads(tmp_path, num_ranks, work)
    expected = [sum(parts[1:], parts[0]) for parts in zip(*map(numbers, range(num_ranks)), strict=True)]
    for rank in range(num_ranks):
        for x, same, first in zip(results[rank], expected, results[0], strict=True):
            torch.testing.assert_close(x, same)
            assert torch.equal(x, first)


def test_ranks_whose_fellow_has_ended_are_told(tmp_path: Path) -> None:
    def work(group: SharedMemoryGroup) -> None:
        x = torch.ones(3)
        group.all_reduce(x)
        if group.rank:
            group.all_reduce(x)

    results = on_threads(tmp_path, 3, work)
    assert results[0] is None
    assert all(isinstance(error, OSError) for error in results[1:])


def test_what_fits_works_and_a_longer_path_does_not(tmp_path: Path) -> None:
    room = 103 - len(str(tmp_path)) - len("/x/group/.rank-9999")
    if room < 1:
        pytest.skip("the folder of this test is itself too deep")
    longest = tmp_path / ("x" * (room + 1)) / "group"
    assert path_fits(longest)
    assert not path_fits(longest.parent.with_name(longest.parent.name + "x") / "group")
    longest.parent.mkdir()
    assert on_threads(longest.parent, 2, lambda group: group.rank) == [0, 1]
