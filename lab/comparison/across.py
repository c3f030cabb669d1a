"""Methods over several tasks: scores scaled a task, resampled within each task (rliable's aggregate).

A method is a family with the fields that vary in a section; it takes part where every task of a metric has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lab.comparison import statistics
from lab.comparison.groups import Group
from lab.comparison.statistics import Array
from lab.comparison.summary import Mode, Row, Section, profiles

_MIN = 2


def across(sections: Sequence[Section]) -> list[Section]:
    """One section for each metric by which at least two tasks compare the same two methods or more."""
    by_metric: dict[tuple[str, Mode], list[Section]] = {}
    for section in sections:
        by_metric.setdefault((section.metric, section.mode), []).append(section)
    made = []
    for members in by_metric.values():
        tables = [_methods(section) for section in members]
        shared = [name for name in tables[0] if all(name in table for table in tables)]
        if len(members) >= _MIN and len(shared) >= _MIN:
            made.append(_section(members, [[table[name] for table in tables] for name in shared], shared))
    return made


def scaled(tasks: Sequence[Sequence[Array]], mode: Mode) -> list[list[Array]]:
    """Scores by task and method, from 0 (the worst run of the task) to 1 (the best)."""
    made = []
    for methods in tasks:
        values = np.concatenate(list(methods))
        low, high = float(values.min()), float(values.max())
        shares = [(scores - low) / (high - low) if high > low else np.full(len(scores), 0.5) for scores in methods]
        made.append(shares if mode == "max" else [1.0 - share for share in shares])
    return made


def _methods(section: Section) -> dict[str, Row]:
    """Rows by what the method is called without its task; by the whole label where two would share a name."""
    names = [_name(row.group) for row in section.rows]
    return {
        name if names.count(name) == 1 else row.group.label: row for name, row in zip(names, section.rows, strict=True)
    }


def _name(group: Group) -> str:
    return " ".join([group.recipe.partition("/")[0], *group.label.split(" ")[1:]])


def _section(members: Sequence[Section], rows: Sequence[Sequence[Row]], names: Sequence[str]) -> Section:
    first = members[0]
    tasks = [[np.array(row[k].values) for row in rows] for k in range(len(members))]
    by_task = scaled(tasks, first.mode)
    strata = [[by_task[k][m] for k in range(len(members))] for m in range(len(rows))]  # by method, then task
    order = sorted(range(len(rows)), key=lambda m: -float(statistics.interquartile_mean(np.concatenate(strata[m]))))
    made = [_row(rows[m], names[m], strata[m], strata[order[0]] if m != order[0] else None) for m in order]
    thresholds, shares = profiles([strata[m] for m in order], "max")
    title = f"across {', '.join(section.task for section in members)} (scaled 0 to 1)"
    return Section(
        title, first.metric, "max", first.counter, first.at, None, made, thresholds, shares, [], across=len(members)
    )


def _row(rows: Sequence[Row], name: str, strata: Sequence[Array], first: Sequence[Array] | None) -> Row:
    values: Array = np.concatenate(list(strata))
    runs = [run for row in rows for run in row.group.runs]
    rates = [row.steps_per_second for row in rows if row.steps_per_second is not None]
    varied: dict[str, Any] = rows[0].group.varied
    return Row(
        group=Group(name.split(" ")[0], name, varied, {}, runs),
        values=values.tolist(),
        iqm=statistics.estimate(strata, statistics.interquartile_mean),
        mean=statistics.estimate(strata, statistics.mean),
        median=statistics.estimate(strata, statistics.median),
        best=float(values.max()),
        against_first=None if first is None else statistics.probability_of_improvement(first, strata),
        reached=None,
        steps_to=None,
        seconds_to=None,
        steps=float(np.median([row.steps for row in rows])),
        seconds=float(np.median([row.seconds for row in rows])),
        steps_per_second=float(np.median(rates)) if rates else None,
        unmeasured=sum(row.unmeasured for row in rows),
    )
