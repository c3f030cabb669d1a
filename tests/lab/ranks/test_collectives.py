"""Collective operations: by threads in place of ranks, but for those of torch.distributed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from lab.errors import Failure
from lab.ranks import collectives, ranks
from tests.lab.ranks.several import as_ranks, on_threads


def test_a_single_process_has_what_it_gives() -> None:
    assert (collectives.total(2.0), collectives.totals([1.0, 2.0]), collectives.all_reduce_max(3)) == (2.0, [1, 2], 3)
    assert collectives.gather("x") == ["x"]
    assert collectives.mean_metrics({"loss": 1.0}) == {"loss": 1.0}
    assert float(collectives.mean(torch.tensor(4.0))) == 4.0
    collectives.barrier()


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_sums_and_means_are_those_over_ranks(num_ranks: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    as_ranks(monkeypatch)

    def work(group: Any) -> tuple[list[float], float]:
        collectives.barrier()
        return collectives.totals([1.0, group.rank]), float(collectives.mean(torch.tensor(group.rank)))

    last = num_ranks - 1
    assert on_threads(tmp_path, num_ranks, work) == [([num_ranks, num_ranks * last / 2], last / 2)] * num_ranks


@pytest.mark.parametrize("sizes", [[4, 4], [5, 0, 2]])
def test_moments_are_those_of_all_rows(sizes: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = 1e6 + torch.randn(sum(sizes), 3, 2, dtype=torch.float64)
    count, var, mean = collectives.moments(rows)
    as_ranks(monkeypatch)

    def work(group: Any) -> tuple[int, Tensor, Tensor]:
        return collectives.moments(rows.split(sizes)[group.rank])

    for computed in on_threads(tmp_path, len(sizes), work):
        assert computed[0] == count == len(rows)
        torch.testing.assert_close(computed[1:], (var, mean), rtol=1e-9, atol=0)


@pytest.mark.slow
def test_processes_gather_broadcast_and_check(tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, (2, f"file://{tmp_path}/meeting"), nprocs=2)


def _rank(rank: int, num_ranks: int, init_method: str) -> None:
    with ranks.joined(init_method, rank, num_ranks):
        assert (ranks.rank(), ranks.num_ranks()) == (rank, num_ranks)
        assert ranks.shared_memory() is not None
        assert collectives.all_reduce_max(10 - rank) == 10
        assert collectives.gather(f"rank {rank}") == (["rank 0", "rank 1"] if rank == 0 else [])
        metrics = {"loss": float(rank), f"of_{rank}": 5.0}
        assert collectives.mean_metrics(metrics) == ({"loss": 0.5, "of_0": 5.0, "of_1": 5.0} if rank == 0 else metrics)
        net = nn.Linear(2, 1)
        nn.init.constant_(net.weight, rank)
        with pytest.raises(Failure, match=r"come apart \(weight\)"):
            collectives.check_agreement(net)
        collectives.broadcast_parameters(net)
        assert net.weight.tolist() == [[0.0, 0.0]]
        collectives.check_agreement(net)
        with ranks.alone():
            assert (ranks.rank(), ranks.num_ranks()) == (0, 1)
    assert (ranks.num_ranks(), ranks.shared_memory()) == (1, None)
