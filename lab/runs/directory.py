"""The run directory: what is in it, how to make, find, read and lock it.

experiment.yaml        the resolved experiment
result.json            recipe, status, seed, metrics, best, counters, wall time, versions, git state
metrics.jsonl          one row a line; the truth about the run, cut back to the checkpoint on resume
system.jsonl           what the run used of its machine, by the clock
checkpoints/last.ckpt  everything that an exact resume needs
checkpoints/previous.ckpt  the last one before it, in case that one is damaged
checkpoints/best.ckpt  the weights of the best evaluation
checkpoints/snapshot-1.ckpt  the weights at the end of a cycle, of runs with trainer.snapshots
media/                 pictures and videos
wandb/                 the W&B run when it is offline
log.txt                what happened, tracebacks included
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from lab import __version__, catalog
from lab.errors import Failure, UserError, unknown
from lab.experiment import Experiment
from lab.foreign import leads_outside, may_be_written, parse_json, read_regular
from lab.runs.files import is_temporary, remove_temporary, write_atomic
from lab.runs.metrics_file import json_safe, rows_of
from lab.runs.result import check_result

FORMAT = 4  # 3: a classifier that was no task
SNAPSHOT = "snapshot-"
_LOCKS: weakref.WeakSet[Any] = weakref.WeakSet()
"""the lock files that this process holds"""
_FILES = ("experiment.yaml", "result.json")
_NEEDED = ("recipe", "status", "seed", "counter")


class Run:
    """A run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_file: Any = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        return self.checkpoints / "previous.ckpt"

    @property
    def media(self) -> Path:
        return self.path / "media"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def system_path(self) -> Path:
        return self.path / "system.jsonl"

    @classmethod
    def create(cls, experiment: Experiment, path: Path | None = None, root: Path | None = None) -> Run:
        """Make a run directory and write `experiment.yaml`.

        Raises UserError when `path` exists and is not empty: nothing is ever overwritten.
        """
        from lab.config import serialization

        run = cls(path if path is not None else _fresh_path(experiment, root or runs_root()))
        if run.path.exists() and not (run.path.is_dir() and _is_free(run.path)):
            raise UserError(
                f"run directory {str(run.path)!r} exists already; choose another, or lab resume {run.path}."
            )
        try:
            run.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run directory {str(run.path)!r} cannot be made: {error.strerror}.") from None
        write_atomic(run.path / "experiment.yaml", serialization.to_yaml(experiment))
        return run

    @classmethod
    def open(cls, path: Path | str, *, without_result: bool = False) -> Run:
        """An existing run directory; `without_result` also takes one that was killed before its first `result.json`.

        Raises UserError when it is none, or one of another format.
        """
        run = cls(Path(path).expanduser())
        if not run.path.exists():
            raise UserError(f"there is no run {str(path)!r}; lab list --runs shows those that there are.")
        missing = [name for name in _FILES if not (run.path / name).is_file()]
        if missing == ["result.json"] and without_result:
            run.check_links()
            return run
        if missing:
            raise UserError(f"{str(path)!r} is not a run directory: it has no {missing[0]}.")
        run.check_links()
        result = run.result()
        if result.get("format") != FORMAT:
            writer = result.get("versions", {}).get("lab")
            raise UserError(
                f"run {str(path)!r} was written in format {result.get('format')} by lab {writer}; "
                f"this lab {__version__} reads format {FORMAT}."
            )
        for name in _NEEDED:
            if name not in result:
                raise UserError(f"{str(run.path / 'result.json')!r} is damaged: it has no {name}.")
        return run

    def check_links(self) -> None:
        """Raise UserError where a link leads out of the run: a stranger's run could show any file of its reader's."""
        for folder in (self.path, self.checkpoints):
            links = [path for path in folder.iterdir() if path.is_symlink()] if folder.is_dir() else []
            for path in links:
                if leads_outside(path, self.path):
                    raise UserError(f"run {str(self.path)!r}: {path.name!r} is a link that leads out of it; not read.")

    def experiment(self) -> Experiment:
        """The experiment of the run."""
        from lab.config import serialization

        with self.explaining_imports():
            return serialization.load(self.path / "experiment.yaml")

    @contextmanager
    def explaining_imports(self) -> Iterator[None]:
        """Adds to a UserError which modules the run was trained with and the user has not allowed now."""
        try:
            yield
        except UserError as error:
            imports = self.result().get("imports", ()) if (self.path / "result.json").is_file() else ()
            missing = sorted(set(imports) - set(catalog.allowed_imports()))
            if not missing or "--import" in str(error):
                raise
            options = " ".join(f"--import {name}" for name in missing)
            raise UserError(f"{error} The run was trained with {options}; add that if you trust it.") from None

    def result(self) -> dict[str, Any]:
        """The content of `result.json`. Raises UserError when it is damaged, or its values are of other types."""
        path, result = self.path / "result.json", None
        with contextlib.suppress(ValueError, OSError):
            result = parse_json(read_regular(path))
        if not isinstance(result, dict):
            raise UserError(f"{str(path)!r} is absent or damaged.")
        check_result(str(path), result)
        return result

    def write_result(self, result: dict[str, Any]) -> None:
        """Replace `result.json` in one piece."""
        write_atomic(self.path / "result.json", json.dumps(json_safe(result), indent=2) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics, in order; lines that a crash cut short are left out."""
        return rows_of(self.metrics_path.read_bytes()) if self.metrics_path.is_file() else []

    def checkpoint(self, which: str = "best") -> Path:
        """The path of `best`, `last` or a snapshot, or best's stand-in where a run has not been evaluated.

        Raises UserError for another name, without any, and when a best one was there and is gone.
        """
        if which not in ("best", "last", *(snapshots := self.snapshots())):
            raise unknown("checkpoint", which, ("best", "last", *snapshots))
        path, last = (self.checkpoints / f"{name}.ckpt" for name in (which, "last"))
        if path.is_file():
            return path
        if not last.is_file():
            raise UserError(f"run {str(self.path)!r} has no checkpoint yet.")
        with contextlib.suppress(UserError):
            if self.result().get("best") is None:
                return last
        raise UserError(
            f"the best checkpoint of run {str(self.path)!r} is gone; there is its last one, {str(last)!r} "
            f"(--checkpoint last)."
        )

    def snapshots(self) -> list[str]:
        """The names of the run's snapshots, in the order in which they were taken."""
        names = [path.stem for path in self.checkpoints.glob(f"{SNAPSHOT}*.ckpt")]
        numbers = sorted(int(n) for n in (name.removeprefix(SNAPSHOT) for name in names) if n.isdecimal())
        return [f"{SNAPSHOT}{number}" for number in numbers]

    def is_alive(self) -> bool:
        """Whether a process is training this run now."""
        if not may_be_written(self.path / ".lock"):
            return False
        try:
            with (self.path / ".lock").open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def lock(self) -> None:
        """Keep other processes from training this run until `unlock` or the end of the process."""
        for path in (self.path / ".lock", self.metrics_path, self.system_path, self.path / "log.txt"):
            if not may_be_written(path):
                raise UserError(f"{str(path)!r} is no regular file; remove it, and the run goes on.")
        try:
            self._lock_file = (self.path / ".lock").open("a")
        except OSError as error:
            raise UserError(f"run directory {str(self.path)!r} cannot be written: {error.strerror}.") from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"run {str(self.path)!r} is being trained by another process.") from None
        _LOCKS.add(self._lock_file)
        for folder in (self.path, self.checkpoints):
            remove_temporary(folder)

    def unlock(self) -> None:
        """Let others train this run."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None


def _let_go() -> None:
    """In a process that was forked: a lock belongs to who trains, and ends with it."""
    for file in list(_LOCKS):
        file.close()


os.register_at_fork(after_in_child=_let_go)


def runs_root() -> Path:
    """Where runs go: LAB_RUNS, else ./runs."""
    return Path(os.environ.get("LAB_RUNS") or "runs").expanduser()


def run_folders(path: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """The run directories at or below a folder, in order; links that lead back to a folder above are not followed."""
    if (path / "experiment.yaml").is_file():
        yield path
        return
    folder = path.resolve()
    try:
        with os.scandir(path) as entries:
            below = sorted(entry.path for entry in entries if entry.is_dir())
    except OSError:
        return
    for child in below if folder not in above else ():
        yield from run_folders(Path(child), above | {folder})


def find(references: Sequence[str]) -> list[Run]:
    """The runs at or below paths and globs, in order, each once; those that cannot be read are left out with a warning.

    Raises:
        UserError: when a reference finds none, or none can be read.
    """
    found: dict[Path, Run] = {}
    unreadable: list[UserError] = []
    for reference in references:
        path = Path(reference).expanduser()
        matches = [path] if path.exists() else sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
        folders = [folder for match in matches for folder in run_folders(match)]
        if not folders:
            Run.open(reference)
            raise UserError(f"there is no run at {reference!r}.")
        for folder in folders:
            try:
                found.setdefault(folder.resolve(), Run.open(folder))
            except UserError as error:
                unreadable.append(error)
    if unreadable and not found:
        raise unreadable[0]
    if unreadable:
        others = f" ({len(unreadable)} runs in all)" if len(unreadable) > 1 else ""
        logging.getLogger("lab").warning("left out%s: %s", others, unreadable[0])
    return list(found.values())


def _is_free(path: Path) -> bool:
    """Whether a folder is empty, or holds only what a run leaves that was killed as it was made."""
    files = [file for file in path.rglob("*") if not file.is_dir()]
    return not any(path.iterdir()) or ((path / "checkpoints").is_dir() and all(map(is_temporary, files)))


def _fresh_path(experiment: Experiment, root: Path) -> Path:
    stem = experiment.name.replace("/", "-").replace(":", "-").replace(" ", "-")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        path = root / f"{stem}-s{experiment.seed}-{stamp}{f'-{attempt}' if attempt else ''}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"run directory {str(path)!r} cannot be made: {error.strerror}.") from None
        return path
    raise Failure(f"no free run directory below {root}")
