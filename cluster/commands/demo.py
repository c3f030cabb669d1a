"""lab demo: train every family side by side and write a report.

`lab resume` goes on with a demo that was interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.cli import path_argument

EXAMPLE = "lab demo --out demo"
ORDER = 180


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=path_argument, default=Path("demo"), metavar="DIR", help="a new folder (default: demo)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress display")


def run(arguments: argparse.Namespace) -> int:
    from cluster.sweep.start import start_demo

    return start_demo(arguments.out, arguments.quiet)
