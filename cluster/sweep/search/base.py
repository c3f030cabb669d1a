"""The search over a grid or random draws, stage by stage; what all searches share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from cluster.sweep.space import Range, Space
from cluster.sweep.summary import Group, groups
from cluster.sweep.sweep import Entry, Sweep
from lab.errors import UserError

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


def folder_name(index: int, target: str, values: dict[str, str], seed: int) -> str:
    """A run's folder: its number, recipe, values and seed, e.g. "003-dqn-cartpole-gamma0.97-s1"."""
    stem = target.removesuffix(".yaml").rpartition(":")[2] if ":" in target else target.removesuffix(".yaml")
    parts = [f"{field.rpartition('.')[2]}{value}" for field, value in values.items()]
    words = "-".join([stem, *parts])
    return f"{index:03}-{re.sub(r'[^A-Za-z0-9.+]+', '-', words).strip('-')[:60]}-s{seed}"
