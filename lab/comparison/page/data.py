"""What the page is made of, as plain values: sections, groups, runs, curves and media."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from lab.comparison.curves import Axis, band, downsample
from lab.comparison.groups import Group, differing, show
from lab.comparison.layers import layers_of
from lab.comparison.plain import plain_row
from lab.comparison.records import Record
from lab.comparison.statistics import Array
from lab.comparison.summary import Section, value_of

AXES: tuple[Axis, Axis] = ("steps", "seconds")


def page_data(sections: Sequence[Section], title: str, link: Callable[[Path], str]) -> dict[str, Any]:
    """Everything but curves and media; `link` makes a URL of a run directory."""
    runs: dict[str, dict[str, Any]] = {}
    shown = [_section(index, section, link, runs) for index, section in enumerate(sections)]
    return {
        "title": title,
        "created": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "sections": shown,
        "runs": runs,
    }


def curve_data(section: Section, metric: str, max_points: int, only: Collection[int] | None = None) -> dict[str, Any]:
    """One metric's curves in a section: a band for each group of several runs, and each run's points.

    `only` are the groups that are wanted, by their place in `groups_of`; by default all.
    """
    bands, runs = {}, {}
    for index, group in enumerate(groups_of(section)):
        if only is not None and index not in only:
            continue
        curves = [run.curves[metric] for run in group.runs if metric in run.curves]
        if len(curves) > 1:
            bands[str(index)] = {axis: [encode(column) for column in band(curves, axis)] for axis in AXES}
        for run in group.runs:
            if metric in run.curves:
                runs[run_id(run)] = [encode(column) for column in downsample(run.curves[metric], max_points)]
    return {"bands": bands, "runs": runs}


def groups_of(section: Section) -> list[Group]:
    """All groups of a section, the measured ones first, in the order that the page counts them."""
    return [*(row.group for row in section.rows), *section.waiting]


def run_id(run: Record) -> str:
    """What a run is called in the page's data."""
    return str(run.path or run.url or run.name)


def metrics_of(section: Section) -> list[str]:
    """The metrics that any run of a section has, the section's own first, evaluation before the rest; no constants.

    None across tasks: their curves have no common scale.
    """
    if section.across:
        return []
    names = {name for group in groups_of(section) for run in group.runs for name in run.curves}
    names -= {section.metric, *constants_of(section)}
    return [section.metric, *sorted(names, key=lambda name: (not name.startswith("eval/"), name))]


def constants_of(section: Section) -> dict[str, float]:
    """The metrics that have one value all the time, in all runs of a section that have them; not its own."""
    ends: dict[str, set[float]] = {}
    for group in groups_of(section):
        for run in group.runs:
            for name, curve in run.curves.items():
                ends.setdefault(name, set()).update((float(curve.values.min()), float(curve.values.max())))
    return {name: next(iter(ends[name])) for name in sorted(ends) if len(ends[name]) == 1 and name != section.metric}


def layer_data(run: Record) -> dict[str, Any]:
    """A run's histograms by name: steps, ends, bins, and the shares (T, B), each as a byte."""
    return {
        name: {**layer._asdict(), "shares": _bytes(layer.shares), "bins": layer.shares.shape[1]}
        for name, layer in layers_of(run.histograms, run.counter).items()
    }


def all_layers(runs: Mapping[str, Record], budget: int) -> dict[str, Any]:
    """Those of as many runs as fit `budget` characters, in their order."""
    chosen: dict[str, Any] = {}
    for name, run in runs.items():
        if run.histograms:
            data = layer_data(run)
            budget -= len(json.dumps(data))
            if budget < 0:
                break
            chosen[name] = data
    return chosen


def _bytes(shares: Array) -> str:
    scaled = np.round(255 * np.sqrt(shares / max(float(shares.max()), 1e-12)))  # small shares are seen, too
    return base64.b64encode(scaled.astype(np.uint8).tobytes()).decode("ascii")


def encode(values: Array) -> str:
    """Numbers as base64 of little-endian float32."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode("ascii")


def _section(
    index: int, section: Section, link: Callable[[Path], str], runs: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    groups = groups_of(section)
    rows: list[dict[str, Any] | None] = [plain_row(row) for row in section.rows]
    rows += [None] * len(section.waiting)
    for group in groups:
        for run in group.runs:
            runs[run_id(run)] = _run(run, section, link)
    fields = list(dict.fromkeys(name for group in groups for name in group.config))
    differs = set(differing([group.config for group in groups]))
    return {
        "id": f"section-{index}",
        "title": section.task,
        "metric": section.metric,
        "across": section.across,
        "mode": section.mode,
        "at": section.at,
        "counter": section.counter,
        "threshold": section.threshold,
        "metrics": metrics_of(section),
        "constants": {} if section.across else constants_of(section),
        "groups": [
            {
                "label": group.label,
                "recipe": group.recipe,
                "varied": {name: show(value) for name, value in group.varied.items()},
                "runs": [run_id(run) for run in group.runs],
                "row": row,
            }
            for group, row in zip(groups, rows, strict=True)
        ],
        "fields": [
            {
                "name": name,
                "differs": name in differs,
                "values": [show(group.config[name]) if name in group.config else None for group in groups],
            }
            for name in fields
        ],
        "profile": {
            "x": encode(section.thresholds),
            "shares": [encode(profile) for profile in section.profiles],
        },
    }


def _run(run: Record, section: Section, link: Callable[[Path], str]) -> dict[str, Any]:
    curve = run.curves.get(section.metric)
    machine = run.result.get("machine") or {}
    return {
        "name": run.name,
        "link": run.url if run.path is None else link(run.path),
        "seed": run.seed,
        "status": run.status,
        "steps": run.steps,
        "seconds": run.seconds,
        "rate": run.steps_per_second,
        "last": None if curve is None else value_of(curve, section.mode, "last"),
        "best": None if curve is None else value_of(curve, section.mode, "best"),
        "classes": [[label, row] for label, row in run.classes.items()],
        "layers": bool(run.histograms),
        "machine": machine.get("gpu") or (f"{machine['cores']} cores" if machine.get("cores") else None),
    }
