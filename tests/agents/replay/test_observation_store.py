"""Replay of several ranks, divided among another number of them: every environment's column arrives whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agents.replay.files import RingFiles, folder_name
from agents.replay.ring import Ring, empty_ring
from lab.ranks import ranks

NUM_ROWS, WRITTEN = 6, 9
CPU = torch.device("cpu")


def rings(num_envs: int) -> dict[str, Ring]:
    return {
        "reward": empty_ring(NUM_ROWS, (num_envs,), torch.float32, CPU),
        "obs": empty_ring(NUM_ROWS, (num_envs, 3), torch.uint8, CPU),
    }


def saved(folder: Path, num_envs: int) -> tuple[dict[str, Ring], dict[str, object]]:
    """Rings that have run over their end, saved in two pieces."""
    filled = rings(num_envs)
    files = RingFiles(folder, filled)
    for length in (4, WRITTEN - 4):
        filled["reward"].append(torch.randn(length, num_envs))
        filled["obs"].append(torch.randint(256, (length, num_envs, 3), dtype=torch.uint8))
        manifest = files.save()
    return filled, manifest


def newest(ring: Ring) -> torch.Tensor:
    return ring.read(WRITTEN - NUM_ROWS, WRITTEN)


def test_two_ranks_columns_become_those_of_one(tmp_path: Path) -> None:
    folders = [tmp_path / folder_name(rank, 2) for rank in range(2)]
    old = [saved(folder, 2) for folder in folders]
    whole = rings(4)
    RingFiles(tmp_path / "replay", whole).load_columns(folders, [manifest for _, manifest in old], slice(0, 4))
    for name, ring in whole.items():
        assert ring.num_written == WRITTEN
        assert torch.equal(newest(ring), torch.cat([newest(filled[name]) for filled, _ in old], 1))


def test_one_process_columns_become_those_of_two_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, manifest = saved(tmp_path / "replay", 4)
    monkeypatch.setattr(ranks, "num_ranks", lambda: 2)
    for rank in range(2):
        mine = rings(2)
        columns = slice(2 * rank, 2 * rank + 2)
        RingFiles(tmp_path / folder_name(rank, 2), mine).load_columns([tmp_path / "replay"], [manifest], columns)
        for name, ring in mine.items():
            assert torch.equal(newest(ring), newest(old[name])[:, columns])
