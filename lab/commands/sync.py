"""lab sync: upload the offline W&B runs of run directories, once each, the fragments of a resumed run as one."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from lab.errors import Failure, UserError
from lab.runs.directory import Run, find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, folders of runs (a sweep), or globs")
    parser.add_argument("--entity", help="the W&B entity; by default the run's own, or yours")
    parser.add_argument("--project", help="the W&B project; by default the run's own")


def run(arguments: argparse.Namespace) -> int:
    from lab.runs.tracking import has_key

    found = find(arguments.runs)
    if not has_key():
        raise UserError("there is no W&B key: set WANDB_API_KEY or run wandb login, then lab sync again.")
    options = [f"--{name}={value}" for name in ("entity", "project") if (value := getattr(arguments, name))]
    for each in found:
        print(f"{each.path}: {sync(each, options)}", flush=True)
    return 0


def sync(run: Run, options: list[str] | None = None) -> str:
    """Upload what was not yet uploaded of a run, in order, and say what was done.

    Raises Failure when the upload fails; what arrived stays, and the next call goes on.
    """
    if run.is_alive():
        return "being trained; left for later"
    fragments = pending(run)
    if not fragments:
        return "nothing to upload"
    command = [sys.executable, "-m", "wandb", "sync", "--yes", *(options or []), *map(str, fragments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or pending(run):
        reason = " ".join((done.stderr or done.stdout).split())[-300:]
        raise Failure(f"{run.path} could not be uploaded ({reason}); lab sync again goes on from there.")
    return f"uploaded ({len(fragments)} part{'s' if len(fragments) > 1 else ''})"


def pending(run: Run) -> list[Path]:
    """The offline fragments of a run that were not uploaded, in the order in which they were written."""
    return [
        folder
        for folder in sorted((run.path / "wandb").glob("offline-run-*"))
        if any(folder.glob("*.wandb")) and not any(folder.glob("*.wandb.synced"))
    ]
