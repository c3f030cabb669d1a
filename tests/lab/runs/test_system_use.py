"""What a run uses of its machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lab.compare import records
from lab.config.overrides import resolve
from lab.runs import system_use
from lab.runs.directory import Run
from lab.runs.system_use import SystemUse
from lab.training.train import train


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


def used(path: Path, seconds: float) -> SystemUse:
    run: Any = SimpleNamespace(system_path=path)
    loop: Any = SimpleNamespace(run=run, state={"seconds": seconds}, writes=True)
    return SystemUse(loop)


def test_cpu_cores_are_seconds_of_work_a_second(tmp_path: Path) -> None:
    use = used(tmp_path / "system.jsonl", 1.0)
    module: Any = SimpleNamespace(device=torch.device("cpu"), counter="samples", counters={"samples": 3})
    use.on_train_start(None, module)  # type: ignore[arg-type]
    began = time.process_time()
    while time.process_time() - began < 0.3:
        pass
    time.sleep(0.3)
    use._write(module)
    row = json.loads((tmp_path / "system.jsonl").read_text())
    assert 0.1 < row["system/cpu_cores"] < 0.8
    assert row["samples"] == 3


def test_a_resumed_run_cuts_back_to_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "system.jsonl"
    path.write_text('{"seconds": 1.0}\n{"seconds": 5.0}\n{"seconds": 9.0}\n{"seconds": 1')
    used(path, 6.0).on_train_start(None, SimpleNamespace(device=torch.device("cpu")))  # type: ignore[arg-type]
    assert [json.loads(line)["seconds"] for line in path.read_text().splitlines()] == [1.0, 5.0]
