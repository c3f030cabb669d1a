"""Which runs a sweep makes, and which it stops early: functions of the sweep's entries and of their runs' files alone,
so that a sweep that was cut off goes on as if it had not been.

grid     every combination of recipes, values and seeds
random   `num_samples` draws from the ranges for each of them (Bergstra and Bengio, 2012)
asha     the same, and at each rung (budget / 4, / 16, ...) a run goes on only if it is among the best quarter of those
         that have come so far (asynchronous successive halving: Li et al., 2020)
pbt      the same, and the worst quarter take over from the best one as they train (pbt.py)
optuna   each point is chosen from what the earlier ones came to (tpe.py)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cluster.space import Range, Space
from cluster.state import Entry, Sweep
from cluster.summary import Group, groups
from lab.errors import UserError
from lab.runs import Run

_REDUCTION = 4
_MIN_SHARE = 1 / 64
_STAGE_SHARE = 1 / 3


class Search:
    """Proposes a sweep's entries, stage by stage."""

    def __init__(self, sweep: Sweep, space: Space) -> None:
        self.sweep, self.space = sweep, space
        self.say: Callable[[str], None] = lambda text: None
        """tells the user something in a line"""
        settings = sweep.settings
        searched = space.ranges or (settings.search == "optuna" and space.grid)
        if settings.search != "grid" and not searched:
            raise UserError(
                f"--search {settings.search} needs a range, for example module.optimizer.lr=log(1e-5,1e-2)."
            )
        if settings.search == "grid" and space.ranges:
            raise UserError(
                f"--search grid has no use for the range of {next(iter(space.ranges))}; try --search random."
            )
        if settings.stages > 1 and not space.ranges:
            raise UserError("--stages needs a range to narrow, for example module.optimizer.lr=log(1e-5,1e-2).")
        if settings.stages > 1 and settings.search in ("pbt", "optuna"):
            raise UserError(f"--search {settings.search} narrows by itself; --stages goes with random and asha.")

    def prepare(self) -> None:
        """Finish what a driver that was killed had begun."""

    def propose(self, free: int) -> list[Entry]:
        """The next stage's entries once the last one has ended, else none."""
        entries, settings = self.sweep.entries, self.sweep.settings
        if not all(entry.ended for entry in entries):
            return []
        stage = max((entry.stage for entry in entries), default=-1) + 1
        return self._stage(stage) if stage < settings.stages else []

    def judge(self, entry: Entry, result: dict[str, Any]) -> bool:
        """Whether a running entry should be stopped: never."""
        return False

    def pause_at(self, entry: Entry, budget: int) -> int | None:
        """The count of steps or samples at which an entry's run waits for the others; None for no wait."""
        return None

    def ranges(self, target: str, stage: int) -> dict[str, Range]:
        """The ranges of a stage: the whole ones first, then a third around the best run so far."""
        found = self.space.ranges
        for earlier in range(stage):
            best = self._best(target, earlier)
            if best is not None:
                found = {
                    field: whole.narrowed(float(best.values[field]), _STAGE_SHARE) for field, whole in found.items()
                }
        return found

    def _best(self, target: str, stage: int) -> Group | None:
        entries = [entry for entry in self.sweep.entries if entry.target == target and entry.stage == stage]
        ranked = groups(self.sweep, entries)
        return ranked[0] if ranked and ranked[0].mean is not None else None

    def _stage(self, stage: int) -> list[Entry]:
        settings, index = self.sweep.settings, len(self.sweep.entries)
        generator = np.random.default_rng([settings.search_seed, stage])
        entries: list[Entry] = []
        draws = settings.num_samples if self.space.ranges else 1
        for target in settings.targets:
            space = self.space._replace(ranges=self.ranges(target, stage))
            for point in space.points():
                for _ in range(draws):
                    entries += entries_of(self, index + len(entries), target, point | space.sample(generator), stage)
        return entries

    def _folder(self, index: int, values: dict[str, str], target: str, seed: int) -> str:
        return folder_name(index, target, values, seed)


class Asha(Search):
    """Stops a run at a rung unless it is among the best there."""

    def __init__(self, sweep: Sweep, space: Space) -> None:
        super().__init__(sweep, space)
        self._values: dict[tuple[int, int], float | None] = {}
        self._judged: set[tuple[int, int]] = set()

    def judge(self, entry: Entry, result: dict[str, Any]) -> bool:
        passed = [rung for rung in rungs(result["budget"]) if result[result["counter"]] >= rung]
        if not passed or (entry.index, passed[-1]) in self._judged:
            return False
        value = self._value(entry, passed[-1], result)
        if value is None:
            return False
        self._judged.add((entry.index, passed[-1]))
        siblings = [
            other for other in self.sweep.entries if other.index != entry.index and other.target == entry.target
        ]
        others = [self._value(other, passed[-1]) for other in siblings if other.status != "waiting"]
        return not survives(value, [v for v in others if v is not None], result["monitor"]["mode"])

    def _value(self, entry: Entry, rung: int, result: dict[str, Any] | None = None) -> float | None:
        """The best value of the monitored metric that the entry's run had when it passed a rung."""
        if (entry.index, rung) not in self._values:
            result = result or self.sweep.result(entry)
            if result is None or result[result["counter"]] < rung:
                return None
            counter, metric = result["counter"], result["monitor"]["metric"]
            rows = Run(self.sweep.run_path(entry)).metrics()
            found = [row[metric] for row in rows if metric in row and row[metric] is not None]
            upto = [row[metric] for row in rows if row.get(metric) is not None and row[counter] <= rung] or found[:1]
            if not upto:
                return None
            self._values[entry.index, rung] = max(upto) if result["monitor"]["mode"] == "max" else min(upto)
        return self._values[entry.index, rung]


def entries_of(search: Search, index: int, target: str, values: dict[str, str], stage: int) -> list[Entry]:
    """The entries of one point, a seed each, numbered from `index` on."""
    return [
        Entry(
            index=index + seed,
            folder=search._folder(index + seed, values, target, seed),
            target=target,
            values=values,
            seed=seed,
            stage=stage,
            point=index,
        )
        for seed in range(search.sweep.settings.seeds)
    ]


def rungs(budget: int) -> list[int]:
    """Where runs are compared: budget / 64, / 16, / 4."""
    found, share = [], 1 / _REDUCTION
    while share >= _MIN_SHARE:
        found.append(int(budget * share))
        share /= _REDUCTION
    return [rung for rung in reversed(found) if rung]


def survives(value: float, others: Sequence[float], mode: str) -> bool:
    """Whether a run with `value` is among the best quarter of itself and `others`, of which there must be some."""
    better = sum(other > value if mode == "max" else other < value for other in others)
    return better < max(1.0, (len(others) + 1) / _REDUCTION)


def make_search(sweep: Sweep, space: Space) -> Search:
    """The search that a sweep's settings name."""
    if sweep.settings.search == "asha":
        return Asha(sweep, space)
    if sweep.settings.search == "pbt":
        from cluster.pbt import PopulationBased

        return PopulationBased(sweep, space)
    if sweep.settings.search == "optuna":
        from cluster.tpe import Optuna

        return Optuna(sweep, space)
    return Search(sweep, space)


def folder_name(index: int, target: str, values: dict[str, str], seed: int) -> str:
    """A run's folder: its number, recipe, values and seed, e.g. "003-dqn-cartpole-gamma0.97-s1"."""
    stem = target.removesuffix(".yaml").rpartition(":")[2] if ":" in target else target.removesuffix(".yaml")
    parts = [f"{field.rpartition('.')[2]}{value}" for field, value in values.items()]
    words = "-".join([stem, *parts])
    return f"{index:03}-{re.sub(r'[^A-Za-z0-9.+]+', '-', words).strip('-')[:60]}-s{seed}"
