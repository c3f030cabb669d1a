"""One experiment on several workers of a real cluster: as one process, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lab import catalog
from lab.config.overrides import resolve
from lab.errors import UserError
from lab.experiment import Experiment
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.train import train

SMALL = [
    "module.backbone.dropout=0",
    "trainer.num_threads=1",
    "trainer.checkpoint_seconds=0.5",
    "tracking.mode=disabled",
]


def small(*overrides: str) -> Experiment:
    return resolve("classifier/digits-cnn", [*SMALL, *overrides])


def kill_a_worker(team: Any) -> None:
    """SIGKILL the second rank's process once there is a checkpoint."""
    import ray

    def work() -> None:
        while not (team.run.checkpoints / "last.ckpt").is_file():
            time.sleep(0.05)
        _, pid = ray.get(team.roster.workers[1].identity.remote())
        os.kill(pid, signal.SIGKILL)

    threading.Thread(target=work, daemon=True).start()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_worker_changes_nothing(cluster: Any, tmp_path: Path) -> None:
    """Room for two of four workers; one is killed; the run ends as that of one undisturbed process."""
    common = ["trainer.budget=32000", "trainer.checkpoint_seconds=0.3", "trainer.eval_period=16000"]
    team = small(*common, "trainer.num_workers=4", "trainer.min_workers=2")
    result = train(team, run_dir=tmp_path / "team", on_loop=kill_a_worker)
    alone = train(small(*common), run_dir=tmp_path / "alone")
    assert result.status == "completed"
    assert result.run.result()["workers"] == 2
    assert len(checkpoint.load(result.run.checkpoint("last"))["ranks"]) == 1
    assert result.best is not None
    assert alone.best is not None
    assert result.best["value"] == pytest.approx(alone.best["value"], abs=0.02)
    rows = [row for row in result.run.metrics() if "eval/accuracy" in row]
    assert [row["samples"] for row in rows] == [row["samples"] for row in alone.run.metrics() if "eval/accuracy" in row]
    assert "the run goes on from its last checkpoint" in (result.run.path / "log.txt").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "team"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_team_that_is_asked_to_stop_is_resumed_by_one_process(cluster: Any, tmp_path: Path) -> None:
    def stop_when_saved(team: Any) -> None:
        while not (team.run.checkpoints / "last.ckpt").is_file():
            time.sleep(0.05)
        team.ask_to_stop()

    stopped = train(
        small("trainer.num_workers=2", "trainer.budget=1000000"),
        run_dir=tmp_path / "run",
        on_loop=lambda team: threading.Thread(target=stop_when_saved, args=[team], daemon=True).start(),
    )
    assert stopped.status == "interrupted"
    before = Run.open(tmp_path / "run").result()
    budget = before["samples"] + 6400
    goes_on = small(f"trainer.budget={budget}", "trainer.num_workers=1")
    assert train(goes_on, resume=Run.open(tmp_path / "run")).status == "completed"
    counts = [json.loads(line)["samples"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert counts == sorted(counts)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_team_gives_a_long_chunk_up(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    catalog.allow_import("recipes_for_tests")
    asked: list[float] = []

    def stop_in_a_long_chunk(team: Any) -> None:
        last = team.run.checkpoints / "last.ckpt"
        while not (last.is_file() and checkpoint.load(last)["counters"]["samples"] >= 5760):
            time.sleep(0.05)
        time.sleep(2.0)
        asked.append(time.monotonic())
        team.ask_to_stop()

    def in_background(team: Any) -> None:
        threading.Thread(target=stop_in_a_long_chunk, args=[team], daemon=True).start()

    words = ["module.backbone.dropout=0", "trainer.num_workers=2"]
    stopped = train(resolve("recipes_for_tests:sleepy", words), run_dir=tmp_path / "run", on_loop=in_background)
    assert time.monotonic() - asked[0] < 30
    assert stopped.status == stopped.run.result()["status"] == "interrupted"
    assert stopped.run.result()["samples"] == checkpoint.load(stopped.run.last)["counters"]["samples"] <= 6400


@pytest.mark.slow
def test_a_team_that_still_starts_ends_at_once(cluster: Any, tmp_path: Path) -> None:
    began = time.monotonic()
    stopped = train(small("trainer.num_workers=2"), run_dir=tmp_path / "run", on_loop=lambda team: team.ask_to_stop())
    assert stopped.status == "interrupted"
    assert time.monotonic() - began < 10
    assert train(small("trainer.budget=640"), resume=Run(tmp_path / "run")).status == "completed"


def test_too_few_resources_are_one_sentence(cluster: Any, tmp_path: Path) -> None:
    experiment = small("trainer.num_workers=4")
    with pytest.raises(UserError, match="num_workers=4 needs 1 CPU for each worker; the cluster has 2 CPU, room"):
        train(experiment, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sizes_that_cannot_be_divided_are_one_sentence(cluster: Any, tmp_path: Path) -> None:
    experiment = small("trainer.num_workers=7")
    with pytest.raises(UserError, match=r"data\.batch_size=64 cannot be divided equally among 7 workers"):
        train(experiment, run_dir=tmp_path / "run")
