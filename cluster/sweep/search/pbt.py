"""Population based training (Jaderberg et al. 2017): the runs of a sweep learn from one another while they train.

    lab sweep ppo/cartpole "module.optimizer.lr=log(1e-5,1e-2)" --search pbt --num-samples 8

The members of a population train to the end of a generation and wait there, saved. A member of the worst quarter takes
over weights and optimizer of one of the best quarter (exploit) and that one's values, moved a little (explore).
Environments, replay, random states, metrics and the run directory stay its own; `lineage.jsonl` there says what it took
from whom.

The members keep step, where the paper's do not: what each becomes depends on the files alone, so that a sweep whose
driver was killed ends as an undisturbed one does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cluster.sweep.search.base import Search, folder_name
from cluster.sweep.space import Range, Space, as_text
from cluster.sweep.sweep import Sweep, SweepEntry
from lab.errors import UserError
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.seeding import derive_seed

LINEAGE = "lineage.jsonl"
_QUARTER = 4


class PopulationBased(Search):
    """Each recipe, grid point and seed has a population of `num_samples` members."""

    def __init__(self, sweep: Sweep, space: Space) -> None:
        super().__init__(sweep, space)
        if sweep.settings.num_samples < 2:
            raise UserError("--search pbt needs a population: --num-samples 2 or more.")

    def prepare(self) -> None:
        self._take_over()

    def propose(self, free: int) -> list[SweepEntry]:
        """The members at the start; later none, but populations that are complete at a generation's end go on."""
        if not self.sweep.entries:
            return self.stage_entries(0)
        for population in self.populations():
            going = [entry for entry in population if not entry.ended]
            if going and all(entry.status == "paused" for entry in going):
                self._evolve(going)
        self._take_over()
        return []

    def pause_at(self, entry: SweepEntry, budget: int) -> int | None:
        done = entry.generation + 1
        return budget * done // self.sweep.settings.generations if done < self.sweep.settings.generations else None

    def folder(self, index: int, values: dict[str, str], target: str, seed: int) -> str:
        fixed = {field: value for field, value in values.items() if field in self.space.grid}
        return folder_name(index, target, fixed, seed)  # the others change

    def populations(self) -> list[list[SweepEntry]]:
        populations: dict[tuple[Any, ...], list[SweepEntry]] = {}
        for entry in self.sweep.entries:
            key = (entry.target, entry.seed, *(entry.values[field] for field in self.space.grid))
            populations.setdefault(key, []).append(entry)
        return list(populations.values())

    def _evolve(self, members: list[SweepEntry]) -> None:
        """Decide who takes over from whom, and write that down before anything is done."""
        scores = {entry.index: score(self.sweep, entry) for entry in members}
        ranked = sorted((e for e in members if scores[e.index] is not None), key=lambda e: scores[e.index] or 0.0)
        if _mode(self.sweep, members) == "max":
            ranked.reverse()
        few = max(1, len(ranked) // _QUARTER) if len(ranked) > 1 else 0
        for entry in ranked[len(ranked) - few :]:
            generator = np.random.default_rng(
                derive_seed(self.sweep.settings.search_seed, "pbt", entry.generation, entry.index)
            )
            parent = ranked[int(generator.integers(few))]
            entry.inherits = parent.index
            entry.values = parent.values | {
                field: as_text(explored(whole, float(parent.values[field]), generator))
                for field, whole in self.space.ranges.items()
            }
        for entry in members:
            entry.generation, entry.attempts, entry.status = entry.generation + 1, 0, "waiting"
        self.sweep.save()

    def _take_over(self) -> None:
        """Do what was decided. A second time changes nothing, since no parent trains on before all of it is done."""
        heirs = [entry for entry in self.sweep.entries if entry.inherits is not None]
        for entry in heirs:
            parent = self.sweep.entries[entry.inherits or 0]
            inherit(self.sweep.run_path(entry), self.sweep.run_path(parent))
            if record(self.sweep.run_path(entry), entry, parent, score(self.sweep, entry), score(self.sweep, parent)):
                values = ", ".join(f"{field}={entry.values[field]}" for field in self.space.ranges)
                self.say(f"{entry.folder}: goes on from {parent.folder} (generation {entry.generation}) with {values}")
        for entry in heirs:
            entry.inherits = None
        if heirs:
            self.sweep.save()


def explored(whole: Range, value: float, generator: np.random.Generator) -> float:
    """A value near a good one: a tenth of the range up or down, or once in four times a fresh draw."""
    if generator.uniform() < 0.25:
        return whole.sample(generator)
    return whole.moved(value, 0.1 if generator.uniform() < 0.5 else -0.1)


def inherit(child: Path, parent: Path) -> None:
    """Put the parent's weights and optimizers into the child's last checkpoint; all else stays the child's own."""
    own, other = (checkpoint.load(path / "checkpoints" / "last.ckpt") for path in (child, parent))
    train = {**other["train"], "counters": own["train"]["counters"]}
    checkpoint.save(child / "checkpoints" / "last.ckpt", own | {"state_dict": other["state_dict"], "train": train})


def record(child: Path, entry: SweepEntry, parent: SweepEntry, own: float | None, better: float | None) -> bool:
    """Add a line to the child's lineage, unless this generation has one already."""
    if any(row["generation"] == entry.generation for row in lineage(child)):
        return False
    result = Run(child).result()
    row = {
        "generation": entry.generation,
        result["counter"]: result[result["counter"]],
        "score": own,
        "parent": parent.folder,
        "parent_score": better,
        "parent_values": parent.values,
        "values": entry.values,
    }
    with (child / LINEAGE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return True


def lineage(run: Path) -> list[dict[str, Any]]:
    """From whom a run took over what, generation by generation; empty for a run that never did."""
    path = run / LINEAGE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def score(sweep: Sweep, entry: SweepEntry) -> float | None:
    """The last value of the metric that the entry's run is judged by."""
    result = sweep.result(entry)
    if result is None:
        return None
    rows = Run(sweep.run_path(entry)).metrics()
    values = [row[result["monitor"]["metric"]] for row in rows if row.get(result["monitor"]["metric"]) is not None]
    return float(values[-1]) if values else None


def _mode(sweep: Sweep, members: list[SweepEntry]) -> str:
    results = [sweep.result(entry) for entry in members]
    return next((str(result["monitor"]["mode"]) for result in results if result), "max")
