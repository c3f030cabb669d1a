"""Optuna (Akiba et al. 2019) proposes points, by its tree-structured Parzen estimator (Bergstra et al. 2011).

    lab sweep ppo/cartpole "module.optimizer.lr=log(1e-5,1e-2)" module.epochs=4,10,20 --search optuna --num-samples 40

The study is made anew from the sweep's entries for each new point, runs in progress included, and the sampler's seed
depends on how many points there are: there is no state that a killed driver could lose.
"""

from __future__ import annotations

import warnings
from typing import Any

from cluster.sweep.search.base import Search
from cluster.sweep.space import Range, Space, as_text
from cluster.sweep.summary import SeedGroup, seed_groups
from cluster.sweep.sweep import Sweep, SweepEntry
from lab.errors import UserError
from lab.seeding import derive_seed


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

    def propose(self, free: int) -> list[SweepEntry]:
        """As many points as the free workers can take, for the recipes in turn."""
        new: list[SweepEntry] = []
        while len(new) < free:
            counts = {target: len(self._points(target, new)) for target in self.sweep.settings.targets}
            target = min(counts, key=lambda name: counts[name])
            if counts[target] >= self.sweep.settings.num_samples:
                break
            values = self._ask(target, new)
            new += self.entries_of(len(self.sweep.entries) + len(new), target, values, stage=0)
        return new

    def stage_entries(self, stage: int) -> list[SweepEntry]:
        """One entry for each choice, to be checked before the sweep starts."""
        rows: list[SweepEntry] = []
        for target in self.sweep.settings.targets:
            first = {field: as_text(whole.low) for field, whole in self.space.ranges.items()}
            for point in self.space.points():
                rows += self.entries_of(len(rows), target, point | first, stage)
        return rows

    def _points(self, target: str, new: list[SweepEntry]) -> list[list[SweepEntry]]:
        """The entries of each point of a recipe, in the order in which they were asked for."""
        points: dict[int, list[SweepEntry]] = {}
        for entry in [*self.sweep.entries, *new]:
            if entry.target == target:
                points.setdefault(entry.point, []).append(entry)
        return list(points.values())

    def _ask(self, target: str, new: list[SweepEntry]) -> dict[str, str]:
        optuna, settings = self._optuna, self.sweep.settings
        points = self._points(target, new)
        ranked = {point[0].point: seed_groups(self.sweep, point)[0] for point in points}
        scores = [group.mean for group in ranked.values() if group.mean is not None]
        mode = next((group.mode for group in ranked.values() if group.metric), "max")
        worst = (min(scores) if mode == "max" else max(scores)) if scores else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=max(4, min(10, settings.num_samples // 3)),
                multivariate=True,
                constant_liar=True,
                seed=derive_seed(settings.search_seed, "optuna", target, len(points)),
            )
            study = optuna.create_study(direction="maximize" if mode == "max" else "minimize", sampler=sampler)
            for point in points:
                study.add_trial(self._trial(point, ranked[point[0].point], worst))
            trial = study.ask(self._distributions())
        return {
            field: as_text(value) if field in self.space.ranges else str(value) for field, value in trial.params.items()
        }

    def _trial(self, point: list[SweepEntry], group: SeedGroup, worst: float | None) -> Any:
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
        distributions: dict[str, Any] = {
            field: kinds.CategoricalDistribution(choices) for field, choices in self.space.grid.items()
        }
        for field, (kind, low, high) in self.space.ranges.items():
            distributions[field] = (
                kinds.IntDistribution(int(low), int(high))
                if kind == "int"
                else kinds.FloatDistribution(low, high, log=kind == "log")
            )
        return distributions


def _within(whole: Range, text: str) -> float:
    """A value inside its range: an override's digits may have rounded it to just outside."""
    value = min(max(float(text), whole.low), whole.high)
    return int(value) if whole.kind == "int" else value
