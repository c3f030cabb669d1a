"""lab resume: go on with a run or a sweep.

It goes on exactly where the last checkpoint is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.cli import INTERRUPTED, add_override_arguments

EXAMPLE = "lab resume runs/dqn-cartpole-s3-20260102-030405"
ORDER = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(parser, "a run directory, or the directory of a sweep")
    parser.add_argument("--quiet", action="store_true", help="no progress display")
    parser.add_argument("--address", metavar="HOST:PORT", help="for a sweep: the Ray cluster to go on with")


def run(arguments: argparse.Namespace) -> int:
    from lab.errors import UserError
    from lab.launchers import launch

    if (Path(arguments.target) / "sweep.yaml").is_file():
        code: int = launch("sweep", Path(arguments.target), arguments.overrides, arguments.quiet, arguments.address)
        return code
    if arguments.address:
        raise UserError(f"--address goes with a sweep, and {arguments.target!r} is none.")

    from lab.commands.outcome import report  # this loads torch; a wrong name is answered before
    from lab.training.train import resume

    result = resume(arguments.target, *arguments.overrides, progress=not arguments.quiet)
    report(result)
    return 0 if result.status == "completed" else INTERRUPTED
