"""The run directory: what is in it, how to make, find, read and lock it.

experiment.yaml        the resolved experiment
result.json            recipe, status, seed, metrics, best, counters, wall time, versions, git state
metrics.jsonl          one row a line; the truth about the run, cut back to the checkpoint on resume
system.jsonl           what the run used of its machine, by the clock
checkpoints/last.ckpt  everything that an exact resume needs
checkpoints/best.ckpt  the weights of the best evaluation
media/                 pictures and videos
wandb/                 the W&B run when it is offline
log.txt                what happened, tracebacks included
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lab import __version__, catalog
from lab.errors import Failure, UserError
from lab.experiment import Experiment

FORMAT = 2  # 1: optimizers without their name, decoders of another shape
_FILES = ("experiment.yaml", "result.json")


class Run:
    """A run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_file: Any = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

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
        from lab import config

        run = cls(path if path is not None else _fresh_path(experiment, root or runs_root()))
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise UserError(
                f"run directory {str(run.path)!r} exists already; choose another, or lab resume {run.path}."
            )
        try:
            run.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run directory {str(run.path)!r} cannot be made: {error.strerror}.") from None
        write_atomic(run.path / "experiment.yaml", config.to_yaml(experiment))
        return run

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """An existing run directory. Raises UserError when it is none, or one of another format."""
        run = cls(Path(path).expanduser())
        if not run.path.exists():
            raise UserError(f"there is no run {str(path)!r}; lab list --runs shows those that there are.")
        missing = [name for name in _FILES if not (run.path / name).is_file()]
        if missing:
            raise UserError(f"{str(path)!r} is not a run directory: it has no {missing[0]}.")
        result = run.result()
        if result.get("format") != FORMAT:
            writer = result.get("versions", {}).get("lab")
            raise UserError(
                f"run {str(path)!r} was written in format {result.get('format')} by lab {writer}; "
                f"this lab {__version__} reads format {FORMAT}."
            )
        return run

    def experiment(self) -> Experiment:
        """The experiment of the run."""
        from lab import config

        with self.explaining_imports():
            return config.load(self.path / "experiment.yaml")

    @contextmanager
    def explaining_imports(self) -> Iterator[None]:
        """Adds to a UserError which modules the run was trained with and the user has not allowed now."""
        try:
            yield
        except UserError as error:
            missing = sorted(set(self.result().get("imports", ())) - set(catalog.allowed_imports()))
            if not missing or "--import" in str(error):
                raise
            options = " ".join(f"--import {name}" for name in missing)
            raise UserError(f"{error} The run was trained with {options}; add that if you trust it.") from None

    def result(self) -> dict[str, Any]:
        """The content of `result.json`. Raises UserError when it is damaged."""
        try:
            result = json.loads((self.path / "result.json").read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError, FileNotFoundError):
            result = None
        if not isinstance(result, dict):
            raise UserError(f"{str(self.path / 'result.json')!r} is absent or damaged.")
        return result

    def write_result(self, result: dict[str, Any]) -> None:
        """Replace `result.json` in one piece."""
        write_atomic(self.path / "result.json", json.dumps(_json_safe(result), indent=2) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics, in order; a last line cut short by a crash is left out."""
        rows = []
        if self.metrics_path.is_file():
            for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return rows

    def checkpoint(self, which: str = "best") -> Path:
        """The path of `best` or `last`, or best's stand-in when a run has only `last`. Raises UserError without any."""
        for name in (which, "last"):
            path = self.checkpoints / f"{name}.ckpt"
            if path.is_file():
                return path
        raise UserError(f"run {str(self.path)!r} has no checkpoint yet.")

    def is_alive(self) -> bool:
        """Whether a process is training this run now."""
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
        try:
            self._lock_file = (self.path / ".lock").open("a")
        except OSError as error:
            raise UserError(f"run directory {str(self.path)!r} cannot be written: {error.strerror}.") from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"run {str(self.path)!r} is being trained by another process.") from None

    def unlock(self) -> None:
        """Let others train this run."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None


class MetricsFile:
    """Rows of metrics appended to a file and flushed line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Write one row."""
        self._file.write(json.dumps(_json_safe(row)) + "\n")
        self._file.flush()

    def offset(self) -> int:
        """Bytes written so far, on disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def truncate(self, offset: int) -> None:
        """Cut the file back to a checkpoint's offset."""
        self._file.truncate(offset)
        self._file.seek(0, os.SEEK_END)

    def rows_between(self, start: int, end: int) -> list[dict[str, Any]]:
        """The rows in a byte range."""
        with self.path.open("rb") as file:
            file.seek(start)
            return [json.loads(line) for line in file.read(end - start).splitlines()]

    def close(self) -> None:
        self._file.close()


def runs_root() -> Path:
    """Where runs go: LAB_RUNS, else ./runs."""
    return Path(os.environ.get("LAB_RUNS") or "runs").expanduser()


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
        folders = [folder for match in matches for folder in _run_folders(match)]
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


def _run_folders(path: Path) -> Iterator[Path]:
    if (path / "experiment.yaml").is_file():
        yield path
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            if child.is_dir():
                yield from _run_folders(child)


def environment() -> dict[str, Any]:
    """Modules that the user allowed, versions, the machine, and the state of the code in git."""
    return {
        "imports": catalog.allowed_imports(),
        "versions": _versions(),
        "machine": _machine(),
        "git": _git_state(),
    }


def write_atomic(path: Path, content: str) -> None:
    """Replace a file in one piece. Raises Failure when the disk is full."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_failure(path, error) from error


def disk_failure(path: Path, error: OSError) -> Failure:
    """What to say when a file cannot be written."""
    return Failure(f"{path} could not be written: {error.strerror or error}; what was saved before is intact.")


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


def _versions() -> dict[str, str]:
    names = ("torch", "lightning", "gymnasium", "ray", "wandb", "numpy")
    found = {"lab": __version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else None
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count(), "gpu": gpu}


def _git_state() -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _json_safe(value: Any) -> Any:
    """Plain JSON values; NaN and infinities become null, which every reader understands."""
    if isinstance(value, dict):
        return {key: _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
