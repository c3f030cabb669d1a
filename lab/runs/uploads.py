"""Offline W&B runs on their way to the service: each part of a run once, in the order in which they were written.

Rows that a checkpoint covers and no part holds, since the run was killed, are put into one more part first.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.errors import Failure, UserError
from lab.foreign import leads_outside
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.runs.metrics_file import MetricsFile, offset_of
from lab.runs.tracking import Tracker
from lab.runs.wandb_files import num_rows_held, parts_of, set_aside_cut


def upload(run: Run, options: Sequence[str] = ()) -> str:
    """Upload what was not yet uploaded of a run, with options of `wandb sync`, and say what was done.

    Raises Failure when the upload fails; what arrived stays, and the next call goes on.
    """
    if run.is_alive():
        return "being trained; left for later"
    parts = pending(run)
    uploaded = (path for part in parts for path in (*part.glob("*.wandb"), *(part / "files").rglob("*")))
    for path in uploaded:
        if path.is_symlink() and leads_outside(path, run.path):
            raise UserError(f"{path} is a link that leads out of the run; it is not uploaded: remove it, or its run.")
    complete(run)
    parts = pending(run)
    if not parts:
        return "nothing to upload"
    command = [sys.executable, "-m", "wandb", "sync", "--yes", *options, *map(str, parts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or pending(run):
        reason = " ".join((done.stderr or done.stdout).split())[-300:]
        raise Failure(f"{run.path} could not be uploaded ({reason}); lab sync again goes on from there.")
    return f"uploaded ({len(parts)} part{'s' if len(parts) > 1 else ''})"


def complete(run: Run) -> None:
    """Write a part of the rows up to the last checkpoint that the offline parts lack, if they lack any."""
    set_aside_cut(run.path)
    held = num_rows_held(run.path)
    if held is None or not run.last.is_file():
        return
    offset = checkpoint.load(run.last)["loop"]["metrics_offset"]
    if offset_of(run.metrics_path, held) >= offset:
        return
    experiment, result = run.experiment(), run.result()
    tracking = experiment.tracking.model_copy(update={"mode": "offline"})
    tracker = Tracker(
        experiment.model_copy(update={"tracking": tracking}), run, result["counter"], experiment.module.kind
    )
    metrics = MetricsFile(run.metrics_path)
    tracker.flush(metrics, offset)
    metrics.close()
    tracker.finish(result["status"], {**result["metrics"], "monitor": result["monitor"]})


def pending(run: Run) -> list[Path]:
    """The offline parts of a run that were not uploaded, in the order in which they were written."""
    return [folder for folder in parts_of(run.path) if not any(folder.glob("*.wandb.synced"))]
