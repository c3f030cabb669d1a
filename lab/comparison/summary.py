"""The numbers of a comparison: one section a task and metric, one row a group, the best row first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from lab.comparison import statistics
from lab.comparison.groups import Group, group, task_of
from lab.comparison.records import Curve, Record
from lab.comparison.statistics import Array, Estimate
from lab.errors import UserError, unknown

Mode = Literal["max", "min"]
At = Literal["last", "best"]
_MINIMIZED = (
    "loss",
    "nll",
    "error",
    "entropy",
    "fid",
    "kid",
    "perplexity",
    "bits",
    "seconds",
    "mse",
    "mae",
    "rmse",
    "kl",
    "l1",
    "l2",
    "binned",
    "logistic",
    "hinge",
    "perceptron",
    "exponential",
    "squared",
    "focal",
)
_PROFILE_POINTS = 101


class Row(NamedTuple):
    """One group in a section."""

    group: Group
    values: list[float]
    """one value a run"""
    iqm: Estimate
    mean: Estimate
    median: Estimate
    best: float
    """the best evaluation of any run"""
    against_first: Estimate | None
    """probability that a run of the section's first group does better than one of this group; None in the first"""
    reached: int | None
    """how many runs reached the threshold; None without a threshold"""
    steps_to: float | None
    """median steps to the threshold over the runs that reached it"""
    seconds_to: float | None
    steps: float
    seconds: float
    """median seconds of training"""
    steps_per_second: float | None
    unmeasured: int
    """runs that have no value of the metric (yet)"""


class Section(NamedTuple):
    """Groups that one metric of one task compares."""

    task: str
    metric: str
    mode: Mode
    counter: str
    at: At
    threshold: float | None
    rows: list[Row]
    thresholds: Array
    """(T,) where the performance profiles are taken"""
    profiles: list[Array]
    """(T,) a row: the share of runs that are better than each threshold"""
    waiting: list[Group]
    """groups of which no run has a value of the metric yet"""
    across: int = 0
    """the number of tasks, in a section over several of them"""

    @property
    def title(self) -> str:
        return f"{self.task}: {self.metric}"


def sections(
    records: Sequence[Record],
    *,
    metric: str | None = None,
    mode: Mode | None = None,
    at: At = "last",
    threshold: float | None = None,
) -> list[Section]:
    """Compare runs. Each is measured by `metric`, by default by the one that its module monitors.

    Args:
        mode: whether the metric is to be high or low; by default what the module says, or what the name suggests.
        at: take the last value of each run, or its best.
        threshold: also measure the steps and seconds to the first value at least this good.

    Raises:
        UserError: when no run has the metric.
    """
    known = sorted({name for record in records for name in record.curves})
    if metric is not None and metric not in known:
        raise unknown("metric", metric, known)
    found: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        name = metric or monitored(record)
        if name is not None:
            found.setdefault((task_of(record), name, record.counter), []).append(record)
    made = []
    for (task, name, counter), members in found.items():
        direction = mode or mode_of(name, members)
        groups = group(members)
        rows = _rows(groups, name, direction, at, threshold)
        waiting = [member for member in groups if not any(name in run.curves for run in member.runs)]
        thresholds, shares = profiles([[np.array(row.values)] for row in rows], direction)
        made.append(Section(task, name, direction, counter, at, threshold, rows, thresholds, shares, waiting))
    return made


def evaluated(sections: Sequence[Section]) -> list[Section]:
    """The sections in which some run was evaluated. Raises UserError when there is none."""
    found = [section for section in sections if section.rows]
    if not found:
        raise UserError("none of these runs has been evaluated yet; there is nothing to compare.")
    return found


def monitored(record: Record) -> str | None:
    """The metric that a run's module monitors."""
    monitor = record.result.get("monitor") or record.result.get("best") or {}
    name = monitor.get("metric")
    return str(name) if name else None


def mode_of(metric: str, records: Sequence[Record]) -> Mode:
    """Whether a metric is to be high or low: from a run that monitors it, else from its name."""
    for record in records:
        monitor: dict[str, Any] = record.result.get("monitor") or {}
        if monitor.get("metric") == metric and monitor.get("mode") in ("max", "min"):
            return "max" if monitor["mode"] == "max" else "min"
    words = metric.rpartition("/")[2].split("_")
    return "min" if any(word in _MINIMIZED for word in words) or metric.startswith("losses/") else "max"


def value_of(curve: Curve, mode: Mode, at: At) -> float:
    """The last or the best value of a curve."""
    if at == "last":
        return float(curve.values[-1])
    return float(curve.values.max() if mode == "max" else curve.values.min())


def reach(curve: Curve, mode: Mode, threshold: float) -> tuple[float, float] | None:
    """Steps and seconds at the first value at least as good as the threshold."""
    good = curve.values >= threshold if mode == "max" else curve.values <= threshold
    if not good.any():
        return None
    first = int(good.argmax())
    return float(curve.steps[first]), float(curve.seconds[first])


def _rows(groups: Sequence[Group], metric: str, mode: Mode, at: At, threshold: float | None) -> list[Row]:
    measured = []
    for member in groups:
        curves = [run.curves[metric] for run in member.runs if metric in run.curves]
        if curves:
            measured.append((member, curves, np.array([value_of(curve, mode, at) for curve in curves])))
    sign = 1.0 if mode == "max" else -1.0
    measured.sort(key=lambda item: -sign * float(statistics.interquartile_mean(item[2])))
    rows: list[Row] = []
    for member, curves, values in measured:
        first = None if not rows else np.array(rows[0].values)
        reached = [] if threshold is None else [reach(curve, mode, threshold) for curve in curves]
        there = [at_step for at_step in reached if at_step is not None]
        rates = [run.steps_per_second for run in member.runs if run.steps_per_second is not None]
        best = [value_of(curve, mode, "best") for curve in curves]
        rows.append(
            Row(
                group=member,
                values=values.tolist(),
                iqm=_estimate(tuple(values), statistics.interquartile_mean),
                mean=_estimate(tuple(values), statistics.mean),
                median=_estimate(tuple(values), statistics.median),
                best=max(best) if mode == "max" else min(best),
                against_first=None if first is None else _improvement(tuple(sign * first), tuple(sign * values)),
                reached=None if threshold is None else len(there),
                steps_to=float(np.median([steps for steps, _ in there])) if there else None,
                seconds_to=float(np.median([seconds for _, seconds in there])) if there else None,
                steps=float(np.median([run.steps for run in member.runs])),
                seconds=float(np.median([run.seconds for run in member.runs])),
                steps_per_second=float(np.median(rates)) if rates else None,
                unmeasured=len(member.runs) - len(curves),
            )
        )
    return rows


@lru_cache(maxsize=20_000)
def _estimate(values: tuple[float, ...], statistic: statistics.Statistic) -> Estimate:
    return statistics.estimate([np.array(values)], statistic)


@lru_cache(maxsize=20_000)
def _improvement(ours: tuple[float, ...], theirs: tuple[float, ...]) -> Estimate:
    return statistics.probability_of_improvement([np.array(ours)], [np.array(theirs)])


def profiles(strata: Sequence[Sequence[Array]], mode: Mode) -> tuple[Array, list[Array]]:
    """Thresholds (T,) over the range of all scores, and a performance profile (T,) for each group of strata."""
    if not strata:
        return np.empty(0), []
    values: Array = np.concatenate([scores for tasks in strata for scores in tasks])
    margin = 0.05 * (float(np.ptp(values)) or abs(float(values[0])) or 1.0)
    thresholds = np.linspace(values.min() - margin, values.max() + margin, _PROFILE_POINTS)
    sign = 1.0 if mode == "max" else -1.0
    return thresholds, [
        statistics.performance_profile([sign * scores for scores in tasks], sign * thresholds) for tasks in strata
    ]
