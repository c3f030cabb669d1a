"""Runs that go on: run directories read again and again, each time only what is new in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.comparison.records import (
    Curve,
    Record,
    classes_of,
    curves_of,
    histogram_rows,
    media_of,
    read_config,
    system_rows,
)
from lab.errors import UserError
from lab.runs.directory import FORMAT, Run, run_folders
from lab.runs.metrics_file import rows_of

_TAIL = 256
"""bytes before the offset that must still be there for the file to be the one that was read"""


class Follower:
    """All runs below some folders, as they are now."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = list(folders)
        self._runs: dict[Path, _Followed] = {}

    def update(self) -> bool:
        """Look again; True when anything has changed."""
        paths = {path: None for folder in self._folders for path in run_folders(folder)}
        changed = False
        for path in [path for path in self._runs if path not in paths]:
            del self._runs[path]
            changed = True
        for path in paths:
            followed = self._runs.setdefault(path, _Followed(path))
            changed |= followed.update()
        return changed

    def records(self) -> list[Record]:
        """The runs that can be read; those that have only just been made, or are damaged, are left out."""
        return [followed.record for followed in self._runs.values() if followed.record is not None]


class _Followed:
    """One run directory, its metrics read up to an offset."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record: Record | None = None
        self._stamp: Any = None
        self._offset, self._tail = 0, b""
        self._rows: list[dict[str, Any]] = []

    def update(self) -> bool:
        run = Run(self.path)
        stamp = (_stat(self.path / "result.json"), _stat(run.metrics_path))
        alive = self.record is not None and self.record.status == "running" and run.is_alive()
        if stamp == self._stamp and (self.record is None or (self.record.status == "running") == alive):
            return False
        self._stamp = stamp
        try:
            run.check_links()
            result = run.result()
            config = self.record.config if self.record is not None else read_config(self.path / "experiment.yaml")
        except UserError:
            return False
        if result.get("format") != FORMAT:
            return False
        if result.get("status") == "running" and not run.is_alive():
            result["status"] = "stopped"
        counter = str(result.get("counter", "samples"))
        curves = self._curves(run, counter)
        self.record = Record(
            name=self.path.name,
            path=self.path,
            url=None,
            result=result,
            config=config,
            curves=curves,
            media=media_of(run.media),
            histograms=histogram_rows(self._rows),
            classes=classes_of(self._rows),
        )
        return True

    def _curves(self, run: Run, counter: str) -> dict[str, Curve]:
        """Read the complete lines that are new; a file that was cut (a resumed run) is read from its start."""
        try:
            if not run.metrics_path.is_file():
                return curves_of(system_rows(run), counter)
            with run.metrics_path.open("rb") as file:
                file.seek(self._offset - len(self._tail))
                if file.read(len(self._tail)) != self._tail:
                    self._offset, self._tail, self._rows = 0, b"", []
                file.seek(self._offset)
                new = file.read()
        except OSError:
            new = b""
        complete = new[: new.rfind(b"\n") + 1]
        self._rows += rows_of(complete)
        self._offset += len(complete)
        self._tail = (self._tail + complete)[-_TAIL:]
        return curves_of([*self._rows, *system_rows(run)], counter)


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
