"""Asynchronous successive halving (Li et al. 2020): at each rung only the best quarter of the runs go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.sweep.search.base import Search
from cluster.sweep.space import Space
from cluster.sweep.sweep import Sweep, SweepEntry
from lab.runs.directory import Run

_REDUCTION = 4
_MIN_SHARE = 1 / 64


class Asha(Search):
    """Stops a run at a rung unless it is among the best there."""

    def __init__(self, sweep: Sweep, space: Space) -> None:
        super().__init__(sweep, space)
        self._values: dict[tuple[int, int], float | None] = {}
        self._judged: set[tuple[int, int]] = set()

    def judge(self, entry: SweepEntry, result: dict[str, Any]) -> bool:
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

    def _value(self, entry: SweepEntry, rung: int, result: dict[str, Any] | None = None) -> float | None:
        """The best value of the monitored metric that the entry's run had when it passed a rung."""
        if (entry.index, rung) not in self._values:
            result = result or self.sweep.result(entry)
            if result is None or result[result["counter"]] < rung:
                return None
            counter, metric = result["counter"], result["monitor"]["metric"]
            rows = Run(self.sweep.run_path(entry)).metrics()
            values = [row[metric] for row in rows if metric in row and row[metric] is not None]
            upto = [row[metric] for row in rows if row.get(metric) is not None and row[counter] <= rung] or values[:1]
            if not upto:
                return None
            self._values[entry.index, rung] = max(upto) if result["monitor"]["mode"] == "max" else min(upto)
        return self._values[entry.index, rung]


def rungs(budget: int) -> list[int]:
    """Where runs are compared: budget / 64, / 16, / 4."""
    counts, share = [], 1 / _REDUCTION
    while share >= _MIN_SHARE:
        counts.append(int(budget * share))
        share /= _REDUCTION
    return [rung for rung in reversed(counts) if rung]


def survives(value: float, others: Sequence[float], mode: str) -> bool:
    """Whether a run with `value` is among the best quarter of itself and `others`, of which there must be some."""
    better = sum(other > value if mode == "max" else other < value for other in others)
    return better < max(1.0, (len(others) + 1) / _REDUCTION)
