"""A worker: its share of a GPU, a folder that it cannot see."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from cluster.ranks.worker import Worker
from cluster.session.imports import Imports
from lab.config import serialization
from lab.config.overrides import resolve


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without a GPU hides them from its process, which is this one."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(("share", "limits"), [(0.0, []), (0.25, [0.25]), (0.5, [0.5]), (1.0, []), (2.0, [])])
def test_a_share_of_a_gpu_is_a_share_of_its_memory(
    share: float, limits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    Worker(Imports([], []), {}, share)
    assert fractions == limits
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == (None if share else "")


def test_without_a_gpu_nothing_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: pytest.fail("there is no GPU"))
    Worker(Imports([], []), {}, 0.5)


def test_a_sweep_that_is_not_on_shared_storage_is_not_seen(tmp_path: Path) -> None:
    tree = serialization.dump(resolve("classifier/digits-cnn", []))
    outcome = Worker(Imports([], []), {}, 0.0).train(tree, str(tmp_path / "elsewhere" / "runs" / "000"))
    assert outcome.status == "unseen"
    assert outcome.error
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_a_run_waits_where_it_is_told_to(tmp_path: Path) -> None:
    tree = serialization.dump(resolve("classifier/digits-cnn", ["trainer.budget=5120", "tracking.mode=disabled"]))
    worker = Worker(Imports([], []), {}, 0.0)
    assert worker.train(tree, str(tmp_path / "run"), 2000).status == "paused"
    assert worker.train(tree, str(tmp_path / "run"), 2000).status == "paused"  # and not a step further
    assert worker.train(tree, str(tmp_path / "run")).status == "completed"
    assert worker.train(tree, str(tmp_path / "whole")).status == "completed"
    rows = [
        [line for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines() if "eval/" in line]
        for name in ("run", "whole")
    ]
    assert len(rows[0]) == len(rows[1])
