"""Several ranks on this machine without Ray: in processes for whole runs, and in threads for single collectives."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing

from lab.config import serialization
from lab.experiment import Experiment
from lab.ranks import ranks
from lab.ranks.shared_memory import SharedMemoryGroup
from lab.runs.directory import Run
from lab.training.train import train


def _rank(rank: int, num_ranks: int, init_method: str, jobs: list[tuple[dict[str, Any], str, int]]) -> None:
    torch.set_num_threads(1)
    for i, (tree, path, chunks) in enumerate(jobs):
        stop = stop_after(chunks if rank == num_ranks - 1 else 0)  # one rank alone is asked
        with ranks.joined(f"{init_method}{i}", rank, num_ranks):
            train(serialization.validate(tree), resume=Run(Path(path)), on_loop=stop)


def stop_after(chunks: int) -> Callable[[Any], None]:
    """For `train(on_loop=...)`: ask to stop in the course of so many chunks; 0 never does."""

    def on_loop(loop: Any) -> None:
        inner, num_chunks = loop.on_train_batch_end, [0]

        def counted(*arguments: Any) -> None:
            num_chunks[0] += 1
            if num_chunks[0] == chunks:
                loop.ask_to_stop()
            inner(*arguments)

        loop.on_train_batch_end = counted

    return on_loop


def train_on_ranks(num_ranks: int, jobs: list[tuple[Experiment, Path, int]]) -> list[Run]:
    """Train (or go on with) each experiment in its run directory, stopped after so many chunks; 0: to its end."""
    runs = [Run(path) if path.exists() else Run.create(experiment, path) for experiment, path, _ in jobs]
    plain = [(serialization.dump(experiment), str(path), chunks) for experiment, path, chunks in jobs]
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (num_ranks, f"file://{folder}/meeting", plain), nprocs=num_ranks)
    return runs


def on_threads(folder: Path, num_ranks: int, work: Callable[[SharedMemoryGroup], Any]) -> list[Any]:
    """What `work` returns in the thread of each rank, or the exception that it raises there.

    The group of a thread is what `work` takes; within `as_ranks` all of lab.ranks goes by it, too.
    """
    results: list[Any] = [None] * num_ranks

    def one(rank: int) -> None:
        group = _own.group = SharedMemoryGroup(folder / "group", rank, num_ranks, timeout=30.0)
        try:
            results[rank] = work(group)
        except Exception as error:
            results[rank] = error
        group.close()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def as_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each thread of `on_threads` a rank to lab.ranks."""
    monkeypatch.setattr(ranks, "num_ranks", lambda: _own.group.num_ranks)
    monkeypatch.setattr(ranks, "rank", lambda: _own.group.rank)
    monkeypatch.setattr(ranks, "shared_memory", lambda: _own.group)


_own = threading.local()
