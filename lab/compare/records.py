"""A run as a comparison sees it: plain values, its curves as arrays, its pictures. Nothing is built or validated.

Runs of kinds that are not installed here compare as well as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from lab.compare.statistics import Array
from lab.config import flatten
from lab.errors import UserError
from lab.runs import Run

VIDEOS = (".gif", ".mp4", ".webm")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_MANY = 20
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
    return Record(
        name=run.path.name,
        path=run.path,
        url=None,
        result=result,
        config=read_config(run.path / "experiment.yaml"),
        curves=curves_of(run.metrics(), counter),
        media=media_of(run.media),
    )


def read_all(runs: Sequence[Run]) -> list[Record]:
    """Read run directories, with a bar on a terminal where there are many."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    many = len(runs) > _MANY and console.is_terminal
    return [read(run) for run in track(runs, "reading runs", console=console, disable=not many, transient=True)]


def read_config(path: Path) -> dict[str, Any]:
    """An experiment file as flat plain values. Raises UserError when it is none."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{str(path)!r} is absent or damaged.") from None
    if not isinstance(tree, dict):
        raise UserError(f"{str(path)!r} does not hold an experiment.")
    return flatten(tree)


def curves_of(rows: Iterable[dict[str, Any]], counter: str) -> dict[str, Curve]:
    """Rows of metrics as one curve a metric; metrics are the keys with a slash."""
    points: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        step, seconds = row.get(counter, 0), row.get("seconds", 0.0)
        for key, value in row.items():
            if "/" in key and isinstance(value, int | float):
                points.setdefault(key, []).append((step, seconds, value))
    return {key: Curve(*np.array(columns, dtype=np.float64).T) for key, columns in points.items()}


def media_of(folder: Path) -> Media:
    """The pictures `NAME/STEP.png` and all other pictures and videos below a media folder."""
    media = Media()
    if folder.is_dir():
        for path in sorted(folder.rglob("*")):
            if path.suffix in PICTURES and path.parent != folder and path.stem.isdigit():
                name = str(path.parent.relative_to(folder))
                media.pictures.setdefault(name, []).append((int(path.stem), path))
            elif path.suffix in PICTURES + VIDEOS and path.is_file():
                media.others.append(path)
    return media
