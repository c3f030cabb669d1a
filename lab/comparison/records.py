"""A run as a comparison sees it: plain values, its curves as arrays, its pictures. Nothing is built or validated.

Runs of kinds that are not installed here compare as well as any other.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from lab.comparison.statistics import Array
from lab.config import plain_yaml
from lab.config.serialization import flatten
from lab.errors import UserError
from lab.runs.directory import Run
from lab.runs.metrics_file import rows_of

log = logging.getLogger("lab")

VIDEOS = (".gif", ".mp4", ".webm")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_MANY = 20
_NUMBERS = {int, float, bool}


class Curve(NamedTuple):
    """One metric of one run, in order: (n,) each."""

    steps: Array
    seconds: Array
    values: Array


@dataclass(frozen=True)
class Media:
    """What a run shows: pictures by name and step, and everything else (videos, interpolations)."""

    pictures: dict[str, list[tuple[int, Path]]] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Record:
    """One run."""

    name: str
    path: Path | None
    """its directory; None for a run that was read from a tracking service"""
    url: str | None
    result: dict[str, Any]
    config: dict[str, Any]
    """the experiment, flattened: {"module.gamma": 0.99}"""
    curves: dict[str, Curve]
    media: Media = Media()
    histograms: list[dict[str, Any]] = field(default_factory=list)
    """the rows of metrics that hold `histograms` of weights, activations and gradients"""
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    """numbers of each class of the validation split at the last evaluation"""

    @property
    def recipe(self) -> str:
        return str(self.result["recipe"])

    @property
    def seed(self) -> int:
        return int(self.result["seed"])

    @property
    def status(self) -> str:
        return str(self.result["status"])

    @property
    def counter(self) -> str:
        """What steps count: env_steps or samples."""
        return str(self.result["counter"])

    @property
    def steps(self) -> int:
        return int(self.result.get(self.counter, 0))

    @property
    def seconds(self) -> float:
        return float(self.result.get("seconds", 0.0))

    @property
    def steps_per_second(self) -> float | None:
        return self.steps / self.seconds if self.seconds > 0 else None


def read(run: Run) -> Record:
    """Read a run directory. Raises UserError when its experiment is damaged."""
    result = run.result()
    counter = str(result.get("counter", "samples"))
    if result.get("status") == "running" and not run.is_alive():
        result["status"] = "stopped"
    rows = run.metrics()
    return Record(
        name=run.path.name,
        path=run.path,
        url=None,
        result=result,
        config=read_config(run.path / "experiment.yaml"),
        curves=curves_of([*rows, *system_rows(run)], counter),
        media=media_of(run.media),
        histograms=histogram_rows(rows),
        classes=classes_of(rows),
    )


def read_all(runs: Sequence[Run]) -> list[Record]:
    """Read run directories, with a bar on a terminal where there are many; damaged ones are left out with a warning.

    Raises UserError when all of them are damaged.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    many = len(runs) > _MANY and console.is_terminal
    read_ones, unreadable = [], []
    for run in track(runs, "reading runs", console=console, disable=not many, transient=True):
        try:
            read_ones.append(read(run))
        except UserError as error:
            unreadable.append(error)
    if unreadable and not read_ones:
        raise unreadable[0]
    for reason in unreadable:
        log.warning("left out: %s", reason)
    return read_ones


def read_config(path: Path) -> dict[str, Any]:
    """An experiment file as flat plain values. Raises UserError when it is none."""
    try:
        tree = plain_yaml.read(path)
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{str(path)!r} is absent or damaged.") from None
    if not isinstance(tree, dict):
        raise UserError(f"{str(path)!r} does not hold an experiment.")
    return flatten(tree)


def system_rows(run: Run) -> list[dict[str, Any]]:
    """What a run used of its machine, row by row, the whole lines of its file."""
    return rows_of(run.system_path.read_bytes()) if run.system_path.is_file() else []


def curves_of(rows: Iterable[dict[str, Any]], counter: str) -> dict[str, Curve]:
    """Rows of metrics as one curve a metric; metrics are the keys with a slash.

    Rows with the same keys are taken together, column by column: a run has millions of numbers but few sorts of rows.
    """
    alike: dict[tuple[str, ...], list[tuple[int, dict[str, Any]]]] = {}
    for index, row in enumerate(rows):
        alike.setdefault(tuple(row), []).append((index, row))
    parts: dict[str, list[tuple[Array, Array, Array, Array]]] = {}
    for keys, members in alike.items():
        columns = dict(zip(keys, zip(*(row.values() for _, row in members), strict=True), strict=True))
        order = np.array([index for index, _ in members])
        nothing = (0.0,) * len(members)
        steps, seconds = (_numbers(columns.get(key, nothing)) for key in (counter, "seconds"))
        placed = np.isfinite(steps) & np.isfinite(seconds)
        for key, column in columns.items():
            if "/" not in key:
                continue
            values = _numbers(column)
            finite = placed & np.isfinite(values)
            if finite.all():
                parts.setdefault(key, []).append((order, steps, seconds, values))
            elif finite.any():
                parts.setdefault(key, []).append((order[finite], steps[finite], seconds[finite], values[finite]))
    return {key: _in_order(found) for key, found in parts.items()}


def _numbers(column: Sequence[Any]) -> Array:
    """A column of a metrics file as numbers, NaN for what is none."""
    if set(map(type, column)) <= _NUMBERS:
        try:
            return np.array(column, dtype=np.float64)
        except OverflowError:  # an integer of hundreds of digits
            pass
    return np.array([value if type(value) is float else _number(value) for value in column], dtype=np.float64)


def _number(value: Any) -> float:
    try:
        return float(value) if type(value) in _NUMBERS else math.nan
    except OverflowError:
        return math.nan


def _in_order(parts: list[tuple[Array, Array, Array, Array]]) -> Curve:
    """One curve of the pieces (row numbers, steps, seconds, values) that different sorts of rows gave."""
    if len(parts) == 1:
        return Curve(*parts[0][1:])
    order, *columns = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    rank = np.argsort(order, kind="stable")
    return Curve(*(column[rank] for column in columns))


def classes_of(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The last table of classes in rows of metrics: numbers by class and name; what is none is left out."""
    table: dict[Any, Any] = next((row["classes"] for row in reversed(rows) if isinstance(row.get("classes"), dict)), {})
    numbers = {
        str(name): {str(key): number for key, value in row.items() if math.isfinite(number := _number(value))}
        for name, row in table.items()
        if isinstance(row, dict)
    }
    return {name: row for name, row in numbers.items() if row}


def histogram_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the rows of metrics that hold histograms of layers."""
    return [row for row in rows if "histograms" in row]


def media_of(folder: Path) -> Media:
    """The pictures `NAME/STEP.png` and all other pictures and videos below a media folder, links left out."""
    media = Media()
    if folder.is_dir():
        for path in sorted(folder.rglob("*")):
            if path.suffix not in PICTURES + VIDEOS or path.is_symlink() or not path.is_file():
                continue
            if path.suffix in PICTURES and path.parent != folder and path.stem.isdigit():
                name = str(path.parent.relative_to(folder))
                media.pictures.setdefault(name, []).append((int(path.stem), path))
            else:
                media.others.append(path)
    return media
