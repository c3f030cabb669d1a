"""lab compare: compare runs in a table and a report.

Runs are grouped by what differs between them, seeds together; the result is a table, JSON or a page.
"""

from __future__ import annotations

import argparse
import json
import sys

from lab.cli import completed, finite, path_argument

EXAMPLE = "lab compare runs/sweep-*"
ORDER = 140


def add_arguments(parser: argparse.ArgumentParser) -> None:
    runs = parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run directories, folders of runs (a sweep), globs, or wandb:entity/project/group",
    )
    completed(runs, "runs")
    parser.add_argument("--metric", metavar="NAME", help="compare by this metric; by default each run's monitored one")
    parser.add_argument("--mode", choices=("max", "min"), help="whether the metric is to be high or low")
    parser.add_argument("--at", choices=("last", "best"), default="last", help="each run's value (default: last)")
    parser.add_argument("--threshold", type=finite, metavar="X", help="also steps and seconds to reach this value")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", type=path_argument, metavar="FILE", help="write a page that opens offline")


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from lab.comparison.comparison import compare

    comparison = compare(
        *arguments.runs,
        metric=arguments.metric,
        mode=arguments.mode,
        at=arguments.at,
        threshold=arguments.threshold,
    )
    if arguments.html is not None:
        comparison.write_page(arguments.html)
        print(f"written: {arguments.html}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(comparison.to_dict(), indent=2))
        return 0
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 140
    console.print(comparison)
    return 0
