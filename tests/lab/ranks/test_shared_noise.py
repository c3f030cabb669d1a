"""Noise of several ranks is the noise of one process, divided; all else each rank draws for itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from lab.ranks import ranks, shared_noise

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def generators(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(shared_noise, "_shared", {})
    numpy_state = np.random.get_state()
    with torch.random.fork_rng():
        yield
    np.random.set_state(numpy_state)


def test_a_single_process_draws_from_the_global_generator() -> None:
    shared_noise.separate_generators(0, CPU)
    torch.manual_seed(1)
    drawn = shared_noise.randn(3, 2, device=CPU)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.randn(3, 2))
    assert shared_noise.noise_state() == {}


def test_ranks_divide_the_noise_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a state is restored; what they draw otherwise differs."""
    torch.manual_seed(1)
    normal, uniform, later = torch.randn(2, 6, 4), torch.rand(6, 2), torch.rand(3)
    monkeypatch.setattr(ranks, "num_ranks", lambda: 3)
    own = set()
    for rank in range(3):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        torch.manual_seed(1)
        shared_noise.separate_generators(0, CPU)
        own.add((float(torch.rand(())), float(np.random.rand())))
        rows = ranks.shard(6)
        assert torch.equal(shared_noise.randn(2, 2, 4, dim=1, device=CPU), normal[:, rows])
        assert torch.equal(shared_noise.rand(2, 2, device=CPU), uniform[rows])
        shared_noise.set_noise_state(shared_noise.noise_state())
        shared_noise.separate_generators(7, CPU)
        assert torch.equal(shared_noise.rand(1, device=CPU), later[rank : rank + 1])
    assert len(own) == 3
