"""Offline W&B runs on their way to the service: each part of a run once, in the order in which they were written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.errors import Failure
from lab.runs.directory import Run


def upload(run: Run, options: Sequence[str] = ()) -> str:
    """Upload what was not yet uploaded of a run, with options of `wandb sync`, and say what was done.

    Raises Failure when the upload fails; what arrived stays, and the next call goes on.
    """
    if run.is_alive():
        return "being trained; left for later"
    parts = pending(run)
    if not parts:
        return "nothing to upload"
    command = [sys.executable, "-m", "wandb", "sync", "--yes", *options, *map(str, parts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or pending(run):
        reason = " ".join((done.stderr or done.stdout).split())[-300:]
        raise Failure(f"{run.path} could not be uploaded ({reason}); lab sync again goes on from there.")
    return f"uploaded ({len(parts)} part{'s' if len(parts) > 1 else ''})"


def pending(run: Run) -> list[Path]:
    """The offline parts of a run that were not uploaded, in the order in which they were written."""
    return [
        folder
        for folder in sorted((run.path / "wandb").glob("offline-run-*"))
        if any(folder.glob("*.wandb")) and not any(folder.glob("*.wandb.synced"))
    ]
