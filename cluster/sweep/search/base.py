"""The search over a grid or random draws, stage by stage; what all searches share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from cluster.sweep.space import Range, Space
from cluster.sweep.summary import SeedGroup, seed_groups
from cluster.sweep.sweep import Sweep, SweepEntry
from lab.errors import UserError
from lab.seeding import derive_seed

_STAGE_SHARE = 1 / 3
_DRAWS = 1000
"""after so many draws of what was drawn before, a range counts as used up"""


class Search:
    """Proposes a sweep's entries, stage by stage."""

    def __init__(self, sweep: Sweep, space: Space) -> None:
        self.sweep, self.space = sweep, space
        self.say: Callable[[str], None] = lambda text: None
        """tells the user something in a line"""
        settings = sweep.settings
        if space.seeds and settings.seeds > 1:
            named = ",".join(map(str, space.seeds))
            raise UserError(
                f"seed={named} and --seeds {settings.seeds} both say which seeds to train; leave one out: "
                f"--seeds {settings.seeds} are the seeds 0 to {settings.seeds - 1}."
            )
        self.seeds = space.seeds or tuple(range(settings.seeds))
        for target in settings.targets:
            if settings.targets.count(target) > 1:
                raise UserError(f"{target!r} is named twice; --seeds 2 trains it with two seeds.")
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

    def propose(self, free: int) -> list[SweepEntry]:
        """The next stage's entries once the last one has ended, else none."""
        entries, settings = self.sweep.entries, self.sweep.settings
        if not all(entry.ended for entry in entries):
            return []
        stage = max((entry.stage for entry in entries), default=-1) + 1
        return self.stage_entries(stage) if stage < settings.stages else []

    def judge(self, entry: SweepEntry, result: dict[str, Any]) -> bool:
        """Whether a running entry should be stopped: never."""
        return False

    def pause_at(self, entry: SweepEntry, budget: int) -> int | None:
        """The count of steps or samples at which an entry's run waits for the others; None for no wait."""
        return None

    def ranges(self, target: str, stage: int) -> dict[str, Range]:
        """The ranges of a stage: the whole ones first, then a third around the best run so far."""
        ranges = self.space.ranges
        for earlier in range(stage):
            best = self._best(target, earlier)
            if best is not None:
                ranges = {
                    field: whole.narrowed(float(best.values[field]), _STAGE_SHARE) for field, whole in ranges.items()
                }
        return ranges

    def _best(self, target: str, stage: int) -> SeedGroup | None:
        entries = [entry for entry in self.sweep.entries if entry.target == target and entry.stage == stage]
        ranked = seed_groups(self.sweep, entries)
        return ranked[0] if ranked and ranked[0].mean is not None else None

    def stage_entries(self, stage: int) -> list[SweepEntry]:
        """The entries of a stage: every grid point, with as many draws from the stage's ranges as were asked for."""
        settings, index = self.sweep.settings, len(self.sweep.entries)
        generator = np.random.default_rng(derive_seed(settings.search_seed, "search", stage))
        entries: list[SweepEntry] = []
        draws = settings.num_samples if self.space.ranges else 1
        for target in settings.targets:
            space = self.space._replace(ranges=self.ranges(target, stage))
            drawn = [entry.values for entry in self.sweep.entries if entry.target == target]
            for point in space.points():
                for draw in range(draws):
                    tries = (point | space.sample(generator) for _ in range(_DRAWS))
                    values = next((values for values in tries if values not in drawn), None)
                    if values is None:  # the same run twice would count as two seeds
                        self.say(f"{target}: its ranges hold no more than {draw} values that were not tried yet")
                        break
                    drawn.append(values)
                    entries += self.entries_of(index + len(entries), target, values, stage)
        return entries

    def entries_of(self, index: int, target: str, values: dict[str, str], stage: int) -> list[SweepEntry]:
        """The entries of one point, a seed each, numbered from `index` on."""
        return [
            SweepEntry(
                index=number,
                folder=self.folder(number, values, target, seed),
                target=target,
                values=values,
                seed=seed,
                stage=stage,
                point=index,
            )
            for number, seed in enumerate(self.seeds, index)
        ]

    def folder(self, index: int, values: dict[str, str], target: str, seed: int) -> str:
        """The name of a run's folder."""
        return folder_name(index, target, values, seed)


def folder_name(index: int, target: str, values: dict[str, str], seed: int) -> str:
    """A run's folder: its number, recipe, values and seed, e.g. "003-dqn-cartpole-gamma0.97-s1"."""
    stem = target.removesuffix(".yaml").rpartition(":")[2] if ":" in target else target.removesuffix(".yaml")
    parts = [f"{field.rpartition('.')[2]}{value}" for field, value in values.items()]
    words = "-".join([stem, *parts])
    return f"{index:03}-{re.sub(r'[^A-Za-z0-9.+]+', '-', words).strip('-')[:60]}-s{seed}"
