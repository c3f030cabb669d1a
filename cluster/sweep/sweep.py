"""What a sweep is on disk, so that it survives its driver.

sweep.yaml     what was asked for
state.json     one entry a run: what it varies, where it is, how far it came
summary.json   best and spread over seeds, when the sweep has ended
runs/          a run directory for each run
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from lab.config import plain_yaml
from lab.config.overrides import resolve
from lab.errors import UserError
from lab.experiment import Config, Experiment
from lab.foreign import parse_json, read_regular
from lab.runs.directory import Run
from lab.runs.files import write_atomic

Status = Literal["waiting", "running", "paused", "completed", "stopped", "failed"]


class SweepConfig(Config):
    """What was asked for; saved as `sweep.yaml`."""

    name: str
    targets: tuple[str, ...]
    """recipes, package.module:recipe, or YAML files"""
    overrides: tuple[str, ...] = ()
    """as typed, with grids and ranges"""
    seeds: PositiveInt = 1
    search: Literal["grid", "random", "asha", "pbt", "optuna"] = "grid"
    num_samples: PositiveInt = 1
    """draws from the ranges for each recipe and grid point"""
    stages: PositiveInt = 1
    """coarse to fine: each further stage searches a third of the last one's ranges, around its best run"""
    generations: PositiveInt = 10
    """pbt: how often a population meets, the end included"""
    search_seed: NonNegativeInt = 0
    cpus_per_run: PositiveFloat = 1.0
    gpus_per_run: NonNegativeFloat = 0.0
    retries: NonNegativeInt = 2
    hang_seconds: PositiveFloat = 600.0
    """a run that writes nothing for so long is ended and retried"""
    imports: tuple[str, ...] = ()
    ending: Literal["summary", "demo"] = "summary"
    """what follows when every run has ended"""
    format: Literal[1] = 1


class SweepEntry(BaseModel):
    """One run of a sweep."""

    index: int
    folder: str
    target: str
    values: dict[str, str] = Field(default_factory=dict)
    """the overrides that tell it from its siblings, without the seed"""
    seed: int = 0
    stage: int = 0
    point: int = 0
    """the number of the first of the entries that differ from it only in their seed"""
    generation: int = 0
    """pbt: how often it has met its population"""
    inherits: int | None = None
    """pbt: the entry whose weights it is about to take over"""
    status: Status = "waiting"
    attempts: int = 0
    error: str = ""

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "stopped", "failed")

    def overrides(self) -> list[str]:
        """The entry's own overrides, on top of the sweep's fixed ones."""
        return [f"{field}={value}" for field, value in self.values.items()]


class Sweep:
    """A sweep directory, locked while a driver works on it."""

    def __init__(self, path: Path, settings: SweepConfig, entries: list[SweepEntry]) -> None:
        self.path, self.settings, self.entries = path, settings, entries
        self._lock_file: Any = None
        self._experiments: dict[tuple[object, ...], Experiment] = {}

    @classmethod
    def create(cls, path: Path, settings: SweepConfig) -> Sweep:
        """A new sweep directory. Raises UserError when `path` exists and is not empty."""
        cls.check_free(path)
        try:
            (path / "runs").mkdir(parents=True)
        except OSError as error:
            raise UserError(f"sweep directory {str(path)!r} cannot be made: {error.strerror}.") from None
        sweep = cls(path, settings, [])
        text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
        write_atomic(path / "sweep.yaml", text)
        return sweep

    @staticmethod
    def check_free(path: Path) -> None:
        """Raise UserError when `path` exists and is not empty."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            advice = f"lab resume {path} goes on with it" if (path / "sweep.yaml").is_file() else "choose another --out"
            raise UserError(f"{str(path)!r} exists already; {advice}.")

    @classmethod
    def open(cls, path: Path) -> Sweep:
        """A sweep that was started before. Raises UserError when its files are damaged."""
        try:
            settings = SweepConfig.model_validate(plain_yaml.read(path / "sweep.yaml"))
            state = path / "state.json"
            entries = parse_json(read_regular(state)) if state.exists() else []
            return cls(path, settings, [SweepEntry.model_validate(entry) for entry in entries])
        except (OSError, ValueError, yaml.YAMLError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{str(path)!r} is not a sweep that this lab can read: {reason}") from None

    def save(self) -> None:
        """Write the state in one piece."""
        write_atomic(self.path / "state.json", json.dumps([entry.model_dump() for entry in self.entries], indent=1))

    def lock(self) -> None:
        """Keep other drivers away. Raises UserError when one is at work."""
        self._lock_file = (self.path / ".lock").open("a")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"sweep {str(self.path)!r} is being worked on by another process.") from None

    def run_path(self, entry: SweepEntry) -> Path:
        """The run directory of an entry, whether it exists yet or not."""
        return self.path / "runs" / entry.folder

    def result(self, entry: SweepEntry) -> dict[str, Any] | None:
        """The entry's `result.json`, or None as long as there is none."""
        try:
            return Run(self.run_path(entry)).result()
        except UserError:
            return None

    def experiment(self, entry: SweepEntry, fixed: tuple[str, ...]) -> Experiment:
        """The experiment of an entry. Raises UserError for a wrong recipe, field or value."""
        key = (entry.index, *entry.values.values())
        if key not in self._experiments:
            overrides = [*fixed, *entry.overrides(), f"seed={entry.seed}"]
            self._experiments[key] = self._placed(resolve(entry.target, overrides))
        return self._experiments[key]

    def forget_experiments(self) -> None:
        """Resolve each experiment afresh when it is next asked for."""
        self._experiments.clear()

    def _placed(self, experiment: Experiment) -> Experiment:
        """An experiment with the sweep's W&B group, tag and threads."""
        tracking = experiment.tracking
        threads = experiment.trainer.num_threads or max(1, int(self.settings.cpus_per_run))
        return experiment.model_copy(
            update={
                "tracking": tracking.model_copy(
                    update={"group": tracking.group or self.settings.name, "tags": (*tracking.tags, "sweep")}
                ),
                "trainer": experiment.trainer.model_copy(update={"num_threads": threads}),
            }
        )
