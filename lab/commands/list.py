"""lab list: recipes, backbones, data sets and runs, with a line each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lab import catalog
from lab.cli import add_import_argument

WHAT = ("recipes", "backbones", "datasets", "runs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", choices=WHAT, help="only these; by default recipes, backbones and data sets")
    parser.add_argument("--runs", action="store_const", const="runs", dest="what", help="the same as: lab list runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_import_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    sections = [arguments.what] if arguments.what else ["recipes", "backbones", "datasets"]
    content = {section: _runs() if section == "runs" else _entries(section) for section in sections}
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
    lines = {entry.name: entry.summary for entry in getattr(catalog.scan(), section).values()}
    if catalog.allowed_imports():
        lines |= _registered_outside(section)
    return dict(sorted(lines.items()))


def _registered_outside(section: str) -> dict[str, str]:
    if section == "backbones":
        from lab.backbones import registry

        return {name: registry.registered(name).summary for name in registry.names()}
    if section == "datasets":
        from lab.data.images import registered_images
        from lab.data.text import registered_texts

        return registered_images() | registered_texts()
    return {}


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
