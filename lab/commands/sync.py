"""lab sync: upload offline W&B runs, once each.

The parts of a resumed run arrive as one run.
"""

from __future__ import annotations

import argparse

from lab.cli import completed

EXAMPLE = "lab sync runs/sweep-*"
ORDER = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    runs = parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run directories, folders of runs (a sweep), or globs"
    )
    completed(runs, "runs")
    parser.add_argument("--entity", help="the W&B entity; by default the run's own, or yours")
    parser.add_argument("--project", help="the W&B project; by default the run's own")


def run(arguments: argparse.Namespace) -> int:
    from lab.errors import UserError
    from lab.runs.directory import find
    from lab.runs.tracking import has_key
    from lab.runs.uploads import upload

    runs = find(arguments.runs)
    if not has_key():
        raise UserError("there is no W&B key: set WANDB_API_KEY or run wandb login, then lab sync again.")
    options = [f"--{name}={value}" for name in ("entity", "project") if (value := getattr(arguments, name))]
    for each in runs:
        print(f"{each.path}: {upload(each, options)}", flush=True)
    return 0
