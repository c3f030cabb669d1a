"""Evaluation in the course of training, which leaves no trace in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lab.data.module import LabDataModule
from lab.pictures import Image, save_png
from lab.ranks import ranks
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.seeding import derive_seed
from lab.training.dead_units import DeadUnits
from lab.training.learner import Learner


@contextmanager
def evaluating(module: Learner[Any], seed: int) -> Iterator[None]:
    """Evaluation mode without gradients, with random numbers of its own: training goes on as if it had not been."""
    state, training = checkpoint.rng_state(), module.training
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    module.eval()
    try:
        with torch.no_grad(), ranks.alone():
            yield
    finally:
        module.train(training)
        checkpoint.set_rng_state(state)


class Evaluator:
    """Measures a module on the validation split (or in its environment), and draws what it does."""

    def __init__(self, run: Run, data: LabDataModule, seed: int) -> None:
        self.run, self.data, self.seed = run, data, seed

    def evaluate(self, module: Learner[Any], *, film: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Metrics, the paths of `pictures` by name, and of `films` where one is wanted and the module makes one.

        Args:
            film: says of the metrics whether a film is wanted.
        """
        count, dead_units = module.counters[module.counter], DeadUnits()
        with module.averaged(), evaluating(module, derive_seed(self.seed, "evaluation", count)):
            module.renew_statistics(self.data)
            with dead_units.watching(module):
                row: dict[str, Any] = dict(module.evaluate(self.data))
            row |= dead_units.metrics()
            warning = dead_units.warning()
            if warning and count:
                module.warn_once("dead units", warning)
            pictures = module.pictures(self.data)
            path = module.film(self.data, self.run.media) if film(row) else None
        if pictures:
            row["pictures"] = {name: self._save(image, name, count) for name, image in pictures.items()}
        if path is not None:
            row["films"] = {path.stem: str(path.relative_to(self.run.path))}
        return row

    def _save(self, image: Image, name: str, count: int) -> str:
        path = self.run.media / name / f"{count:012d}.png"
        save_png(image, path)
        return str(path.relative_to(self.run.path))
