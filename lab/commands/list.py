"""lab list: show recipes, backbones, data sets, runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lab import catalog
from lab.cli import add_import_argument
from lab.errors import UserError

EXAMPLE = "lab list recipes"
ORDER = 190
RUNS = "runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    choices = [*catalog.scan().sections(), RUNS]
    parser.add_argument("what", nargs="?", choices=choices, help="only these; by default all but runs")
    parser.add_argument("--runs", action="store_true", help="the same as: lab list runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_import_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.runs and arguments.what not in (None, RUNS):
        raise UserError(f"lab list {arguments.what} --runs asks for two lists; leave one out.")
    what = RUNS if arguments.runs else arguments.what
    sections = [what] if what else catalog.scan().sections()
    content = {section: _runs() if section == RUNS else _entries(section) for section in sections}
    if arguments.json:
        print(json.dumps(content, indent=2))
        return 0
    for section, lines in content.items():
        print(f"{section}:" if lines else f"{section}: none")
        width = max(map(len, lines), default=0)
        for name, summary in lines.items():
            print(f"  {name:<{width}}  {summary}")
    return 0


def _entries(section: str) -> dict[str, str]:
    """What the source declares, and what modules that the user named have registered."""
    scanned = catalog.scan()
    lines = {entry.name: entry.summary for entry in scanned.section(section).values()}
    for entry in scanned.registries.values():
        if entry.section == section and entry.module in sys.modules:
            lines = getattr(sys.modules[entry.module], entry.attribute).summaries() | lines
    return dict(sorted(lines.items()))


def _runs() -> dict[str, str]:
    from lab.runs import directory

    root = directory.runs_root()
    if not root.is_dir():
        return {}
    return {str(Path(run.path)): _line(run.result()) for run in directory.find([str(root)])}


def _line(result: dict[str, object]) -> str:
    best = result.get("best")
    shown = f"best {best['metric']} {best['value']:.4g}" if isinstance(best, dict) else ""
    return f"{result['status']:<11} {result[str(result['counter'])]:>12,} {result['counter']}  {shown}"
