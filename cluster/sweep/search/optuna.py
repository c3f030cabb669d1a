"""Optuna asks and is told (Akiba et al. 2019), with its tree-structured Parzen estimator (Bergstra et al. 2011).

    lab sweep ppo/cartpole "module.optimizer.lr=log(1e-5,1e-2)" module.epochs=4,10,20 --search optuna --num-samples 40

The study is made anew from the sweep's entries each time that a run is wanted, runs in progress included, and the
sampler's seed depends on how many there are: nothing of it is kept that a killed driver could lose.
"""

from __future__ import annotations

import warnings
from typing import Any

from cluster.sweep.search.base import Search, entries_of
from cluster.sweep.space import Range, Space, as_text
from cluster.sweep.summary import Group, groups
from cluster.sweep.sweep import Entry, Sweep
from lab.errors import UserError


class Optuna(Search):
    """`num_samples` points for each recipe; the values of a grid are choices."""

    def __init__(self, sweep: Sweep, space: Space) -> None:
        super().__init__(sweep, space)
        try:
            import optuna
        except ImportError:
            raise UserError("--search optuna needs the package optuna: pip install optuna.") from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna

    def propose(self, free: int) -> list[Entry]:
        """As many points as the free workers can take, for the recipes in turn."""
        new: list[Entry] = []
        while len(new) < free:
            counts = {target: len(self._points(target, new)) for target in self.sweep.settings.targets}
            target = min(counts, key=lambda name: counts[name])
            if counts[target] >= self.sweep.settings.num_samples:
                break
            values = self._ask(target, new)
            new += entries_of(self, len(self.sweep.entries) + len(new), target, values, stage=0)
        return new

    def _stage(self, stage: int) -> list[Entry]:
        """One entry for each choice, to be checked before the sweep starts."""
        rows: list[Entry] = []
        for target in self.sweep.settings.targets:
            first = {field: as_text(found.low) for field, found in self.space.ranges.items()}
            for point in self.space.points():
                rows += entries_of(self, len(rows), target, point | first, stage)
        return rows

    def _points(self, target: str, new: list[Entry]) -> list[list[Entry]]:
        """The entries of each point of a recipe, in the order in which they were asked for."""
        found: dict[int, list[Entry]] = {}
        for entry in [*self.sweep.entries, *new]:
            if entry.target == target:
                found.setdefault(entry.point, []).append(entry)
        return list(found.values())

    def _ask(self, target: str, new: list[Entry]) -> dict[str, str]:
        optuna, settings = self._optuna, self.sweep.settings
        points = self._points(target, new)
        ranked = {point[0].point: groups(self.sweep, point)[0] for point in points}
        scores = [group.mean for group in ranked.values() if group.mean is not None]
        mode = next((group.mode for group in ranked.values() if group.metric), "max")
        worst = (min(scores) if mode == "max" else max(scores)) if scores else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=max(4, min(10, settings.num_samples // 3)),
                multivariate=True,
                constant_liar=True,
                seed=settings.search_seed * 1_000_003 + len(points),
            )
            study = optuna.create_study(direction="maximize" if mode == "max" else "minimize", sampler=sampler)
            for point in points:
                study.add_trial(self._trial(point, ranked[point[0].point], worst))
            asked = study.ask(self._distributions())
        return {
            field: as_text(value) if field in self.space.ranges else str(value) for field, value in asked.params.items()
        }

    def _trial(self, point: list[Entry], group: Group, worst: float | None) -> Any:
        """A point as a trial: in progress, or with the mean of its seeds; one without any score is as bad as any."""
        states = self._optuna.trial.TrialState
        value = group.mean if group.mean is not None else worst
        state, value = (states.COMPLETE, value) if all(e.ended for e in point) else (states.RUNNING, None)
        if state == states.COMPLETE and value is None:
            state = states.FAIL
        params = {
            field: _within(self.space.ranges[field], text) if field in self.space.ranges else text
            for field, text in point[0].values.items()
        }
        return self._optuna.trial.create_trial(
            state=state, value=value, params=params, distributions=self._distributions()
        )

    def _distributions(self) -> dict[str, Any]:
        kinds = self._optuna.distributions
        found: dict[str, Any] = {
            field: kinds.CategoricalDistribution(choices) for field, choices in self.space.grid.items()
        }
        for field, (kind, low, high) in self.space.ranges.items():
            found[field] = (
                kinds.IntDistribution(int(low), int(high))
                if kind == "int"
                else kinds.FloatDistribution(low, high, log=kind == "log")
            )
        return found


def _within(whole: Range, text: str) -> float:
    """A value as it was asked for, before it was rounded to an override's digits."""
    value = min(max(float(text), whole.low), whole.high)
    return int(value) if whole.kind == "int" else value
