"""When a run counts as hanging, when as waiting, and what the user reads of its worker."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.session.session import Resources
from cluster.sweep.hangs import Attempt, HangWatch
from cluster.sweep.sweep import Sweep, SweepConfig, SweepEntry


class FakeCluster:
    def __init__(self, slots: int) -> None:
        self.num_slots = slots

    def slots(self, need: Resources) -> int:
        return self.num_slots

    def __str__(self) -> str:
        return "1 CPU"


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The workers that are killed."""
    workers: list[Any] = []
    monkeypatch.setattr(ray, "kill", workers.append)
    return workers


def watch_of(tmp_path: Path, slots: int = 1) -> tuple[HangWatch, SweepEntry, list[str]]:
    sweep = Sweep(tmp_path, SweepConfig(name="s", targets=("a",), hang_seconds=20), [])
    lines: list[str] = []
    cluster: Any = FakeCluster(slots)
    return HangWatch(cluster, sweep, Resources(1, 0), lines.append), SweepEntry(index=0, folder="r", target="a"), lines


def attempt(entry: SweepEntry, seconds_ago: float) -> Attempt:
    return Attempt("worker", entry, time.time() - seconds_ago, "up", 1)


def write(tmp_path: Path, name: str, seconds_ago: float) -> None:
    path = tmp_path / "runs" / "r" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    os.utime(path, (time.time() - seconds_ago,) * 2)


def test_a_run_that_writes_nothing_for_long_is_ended(tmp_path: Path, killed: list[Any]) -> None:
    watch, entry, _ = watch_of(tmp_path)
    write(tmp_path, "metrics.jsonl", 15)
    assert not watch.end_if_hanging(attempt(entry, 100))
    write(tmp_path, "metrics.jsonl", 30)
    write(tmp_path, "log.txt", 25)  # the newest sign counts
    assert watch.end_if_hanging(attempt(entry, 100))
    assert killed == ["worker"]
    error: Any = ray.exceptions.RayActorError()
    assert watch.reason(entry, error) == "it gave no sign of life for 25 s"
    assert watch.reason(entry, error) == "its worker died"  # that was another time


def test_a_run_that_starts_has_ten_minutes_more(tmp_path: Path, killed: list[Any]) -> None:
    watch, entry, _ = watch_of(tmp_path)
    write(tmp_path, "metrics.jsonl", 1000)  # of an earlier attempt
    assert not watch.end_if_hanging(attempt(entry, 600))
    assert watch.end_if_hanging(attempt(entry, 640))
    assert killed == ["worker"]


def test_a_worker_without_a_machine_waits_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "wait", lambda references, timeout: ([], references))
    watch, entry, lines = watch_of(tmp_path)
    assert watch.has_machine(attempt(entry, 0), num_attempts=1)  # there is room for it to start
    assert not watch.has_machine(attempt(entry, 0), num_attempts=2)
    assert not watch.has_machine(attempt(entry, 0), num_attempts=2)
    assert lines == ["waiting for a machine with 1 CPU free; the cluster has 1 CPU"]
    monkeypatch.setattr(ray, "wait", lambda references, timeout: (references, []))
    assert watch.has_machine(attempt(entry, 0), num_attempts=2)  # it runs


def test_want_of_memory_is_told_apart(tmp_path: Path) -> None:
    watch, entry, _ = watch_of(tmp_path)
    memory = "its worker was ended for want of memory on its machine"
    assert watch.reason(entry, ray.exceptions.OutOfMemoryError("killed")) == memory
    assert watch.reason(entry, RuntimeError("the node was running low on memory")) == memory
