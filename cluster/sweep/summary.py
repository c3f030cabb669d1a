"""What a sweep came to: groups (the seeds of one recipe and point) by their mean, and values at the edge of a range."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.table import Table

from cluster.sweep.space import Range
from cluster.sweep.sweep import Sweep, SweepEntry
from lab.runs.files import write_atomic

_EDGE = 0.05


class SeedGroup(NamedTuple):
    """The runs of one recipe and point that differ in their seed; `scores` are the best evaluations of those that have
    any."""

    target: str
    values: dict[str, str]
    metric: str
    mode: str
    scores: list[float]
    folders: list[str]

    @property
    def num_runs(self) -> str:
        """How many runs the mean is over, and of how many."""
        scores, runs = len(self.scores), len(self.folders)
        return str(runs) if scores == runs else f"{scores} of {runs}"

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds, when there are several."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


def seed_groups(sweep: Sweep, entries: Sequence[SweepEntry]) -> list[SeedGroup]:
    """The groups of some entries, the best of each recipe first.

    Points that have come to the same values are groups of their own: their runs are no seeds of one another.
    """
    by_point: dict[tuple[str, int, str], SeedGroup] = {}
    for entry in entries:
        key = (entry.target, entry.point, json.dumps(entry.values, sort_keys=True))
        result = sweep.result(entry) or {}
        monitor, best = result.get("monitor") or {"metric": "", "mode": "max"}, result.get("best")
        group = by_point.setdefault(
            key, SeedGroup(entry.target, entry.values, monitor["metric"], monitor["mode"], [], [])
        )
        if monitor["metric"] and not group.metric:
            by_point[key] = group = group._replace(metric=monitor["metric"], mode=monitor["mode"])
        group.folders.append(entry.folder)
        if best is not None:
            group.scores.append(best["value"])
    targets = list(dict.fromkeys(group.target for group in by_point.values()))

    def rank(group: SeedGroup) -> tuple[int, bool, float]:
        sign = -1 if group.mode == "max" else 1
        return targets.index(group.target), group.mean is None, sign * (group.mean or 0.0)

    return sorted(by_point.values(), key=rank)


def edge_warnings(ranked: Sequence[SeedGroup], ranges: dict[str, Range]) -> list[str]:
    """A sentence for each range at whose edge the best value of a recipe lies."""
    warnings = []
    for target in dict.fromkeys(group.target for group in ranked):
        best = next((group for group in ranked if group.target == target and group.mean is not None), None)
        if best is None:
            continue
        for field, whole in ranges.items():
            position = whole.position(float(best.values[field]))
            if min(position, 1 - position) < _EDGE:
                side = "lower" if position < 0.5 else "upper"
                warnings.append(
                    f"{target}: the best {field}={best.values[field]} lies at the {side} edge of its range "
                    f"{whole.kind}({whole.low:g},{whole.high:g}); a range beyond it may hold better ones."
                )
    return warnings


def table(ranked: Sequence[SeedGroup]) -> Table:
    """The groups as a table."""
    fields = list(dict.fromkeys(field for group in ranked for field in group.values))
    result = Table(box=None, padding=(0, 2))
    for title in ("recipe", *fields):
        result.add_column(title)
    for title in ("runs", "metric", "mean", "spread", "worst", "best"):
        result.add_column(title, justify="left" if title == "metric" else "right")
    for group in ranked:
        ordered = sorted(group.scores, reverse=group.mode == "min")
        numbers = [group.mean, group.spread, ordered[0] if ordered else None, ordered[-1] if ordered else None]
        result.add_row(
            group.target,
            *(group.values.get(field, "") for field in fields),
            group.num_runs,
            group.metric,
            *("" if number is None else f"{number:.4g}" for number in numbers),
        )
    return result


def write(sweep: Sweep, ranked: Sequence[SeedGroup], warnings: Sequence[str]) -> None:
    """Write summary.json."""
    content: dict[str, Any] = {
        "name": sweep.settings.name,
        "groups": [{**group._asdict(), "mean": group.mean, "spread": group.spread} for group in ranked],
        "failed": {entry.folder: entry.error for entry in sweep.entries if entry.status == "failed"},
        "warnings": list(warnings),
    }
    write_atomic(sweep.path / "summary.json", json.dumps(content, indent=2) + "\n")
