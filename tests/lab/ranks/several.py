"""Several ranks in processes of this machine, without Ray: what `cluster.ranks.team` starts, as small as it gets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

from lab.config import serialization
from lab.experiment import Experiment
from lab.ranks import ranks
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
        inner, seen = loop.on_train_batch_end, [0]

        def counted(*arguments: Any) -> None:
            seen[0] += 1
            if seen[0] == chunks:
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
