"""lab compare: groups by what differs, seeds aggregated, as a table, JSON or a page."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run directories, folders of runs (a sweep), globs, or wandb:entity/project/group",
    )
    parser.add_argument("--metric", metavar="NAME", help="compare by this metric; by default each run's monitored one")
    parser.add_argument("--mode", choices=("max", "min"), help="whether the metric is to be high or low")
    parser.add_argument("--at", choices=("last", "best"), default="last", help="each run's value (default: last)")
    parser.add_argument("--threshold", type=float, metavar="X", help="also steps and seconds to reach this value")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that opens offline")


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from lab.compare import records, summary
    from lab.compare.across import across
    from lab.compare.online import PREFIX, read_online
    from lab.runs import directory

    here = [name for name in arguments.runs if not name.startswith(PREFIX)]
    found = records.read_all(directory.find(here))
    for name in arguments.runs:
        if name.startswith(PREFIX):
            found += read_online(name)
    sections = summary.evaluated(
        summary.sections(
            found, metric=arguments.metric, mode=arguments.mode, at=arguments.at, threshold=arguments.threshold
        )
    )
    sections += across(sections)
    if arguments.html is not None:
        from lab.compare.page.html import write_page

        write_page(sections, arguments.html, f"Comparison of {len(found)} runs")
    if arguments.json:
        import json

        from lab.compare.plain import plain

        print(json.dumps(plain(sections), indent=2))
    else:
        from lab.compare.table import tables

        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 140
        console.print(tables(sections))
    return 0
