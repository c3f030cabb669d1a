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
from lab.training.class_table import shown
from lab.training.health.dead_units import DeadUnits
from lab.training.health.health import PREFIX, Health
from lab.training.learner import Learner, Monitor


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

    def __init__(self, run: Run, data: LabDataModule, seed: int, health: Health | None) -> None:
        self.run, self.data, self.seed, self.health = run, data, seed, health

    def evaluate(self, module: Learner[Any], *, film: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Metrics, the paths of `pictures` by name, and of `films` where one is wanted and the module makes one.

        Also the table of `classes`, where the module tells one; where there are diagnostics, theirs, and `histograms`.

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
            if table := module.table(self.data, "val"):
                row["classes"] = shown(table).rows
            pictures = module.pictures(self.data)
            path = module.film(self.data, self.run.media) if film(row) else None
            scored = self.health.training_score(module, self.data) if self.health is not None else None
        if self.health is not None:
            row |= {**self._fit(scored, row), **self.health.evaluation(module)}
            if (filters := self.health.picture(module)) is not None:
                pictures = {**pictures, "first-layer": filters}
        if pictures:
            row["pictures"] = {name: self._save(image, name, count) for name, image in pictures.items()}
        if path is not None:
            row["films"] = {path.stem: str(path.relative_to(self.run.path))}
        return row

    def _fit(self, scored: tuple[Monitor, float] | None, row: dict[str, Any]) -> dict[str, float]:
        """The score of training samples, and the gap: by how much that of the validation split is worse."""
        if scored is None or scored[0].metric not in row:
            return {}
        (metric, mode), value = scored
        gap = (value - row[metric]) if mode == "max" else (row[metric] - value)
        return {f"{PREFIX}train_{metric.removeprefix('eval/')}": value, f"{PREFIX}gap": gap}

    def _save(self, image: Image, name: str, count: int) -> str:
        path = self.run.media / name / f"{count:012d}.png"
        save_png(image, path)
        return str(path.relative_to(self.run.path))
