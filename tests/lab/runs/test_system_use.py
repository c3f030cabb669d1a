"""What a run uses of its machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lab.comparison import records
from lab.config.overrides import resolve
from lab.runs import system_use
from lab.runs.directory import Run
from lab.runs.system_use import SystemUse
from lab.training.train import train


@pytest.mark.slow
def test_a_run_writes_what_it_used_apart_from_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_use, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(system_use, "_PERIOD_SECONDS", 0.0)
    settings = ["tracking.mode=disabled", "trainer.budget=6400", "trainer.eval_period=6400"]
    train(resolve("classifier/digits-cnn", settings), run_dir=tmp_path / "run")
    run = Run.open(tmp_path / "run")
    rows = records.system_rows(run)
    assert len(rows) >= 3
    assert all(0 < row["system/memory_gb"] < 64 for row in rows)
    assert max(row["system/cpu_cores"] for row in rows) > 0.2
    assert not any("system/" in key for row in run.metrics() for key in row)
    curves = records.read(run).curves
    assert curves["system/memory_gb"].steps.tolist() == [row["samples"] for row in rows]


def status(seconds: float) -> SimpleNamespace:
    return SimpleNamespace(counter="samples", count=3, seconds=seconds)


def test_cpu_cores_are_seconds_of_work_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_use, "_FIRST_SECONDS", 0.0)
    use = SystemUse(tmp_path / "system.jsonl", torch.device("cpu"))
    use.start(status(1.0))
    began = time.process_time()
    while time.process_time() - began < 0.3:
        pass
    time.sleep(0.3)
    use.update(status(1.0))
    row = json.loads((tmp_path / "system.jsonl").read_text())
    assert 0.1 < row["system/cpu_cores"] < 0.8
    assert row["samples"] == 3


def test_a_resumed_run_cuts_back_to_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "system.jsonl"
    path.write_text('{"seconds": 1.0}\n{"seconds": 5.0}\n{"seconds": 9.0}\n{"seconds": 1')
    SystemUse(path, torch.device("cpu")).start(status(6.0))
    assert [json.loads(line)["seconds"] for line in path.read_text().splitlines()] == [1.0, 5.0]
