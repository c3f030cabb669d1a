"""What mkdocs fills in while it builds, so that no page can be out of date.

<!-- recipes: dqn q-learning -->      a table of the recipes of these families, from their docstrings
<!-- results: report_page -->         the figures of benchmarks/results/report_page-*.json, and its pictures
<!-- commands -->                     every command with its options, from the parsers
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

from lab import catalog
from lab.cli import Parser

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_MARK = re.compile(r"<!-- (recipes|results|commands)(?:: ([\w\- ]+))? -->")


def on_files(files: Files, config: Any) -> Files:
    """mkdocs' hook: what benchmarks drew belongs to the site."""
    for path in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs' hook: the page with every mark filled in."""

    def filled(found: re.Match[str]) -> str:
        if found[1] == "results":
            return results(found[2], get_relative_url("results", str(Path(page.file.src_uri).parent)))
        return {"recipes": recipes, "commands": commands}[found[1]](found[2])

    return _MARK.sub(filled, markdown)


def recipes(families: str) -> str:
    """A table of the recipes of some families."""
    wanted = families.split()
    found = {name: entry for name, entry in catalog.scan().recipes.items() if name.partition("/")[0] in wanted}
    missing = set(wanted) - {name.partition("/")[0] for name in found}
    if missing:
        raise ValueError(f"there are no recipes of {', '.join(sorted(missing))}")
    rows = [f"| `{name}` | {_cell(entry.summary)} |" for name, entry in sorted(found.items())]
    return "\n".join(["| recipe | what it trains |", "|---|---|", *rows])


def results(names: str, folder: str) -> str:
    """What benchmarks drew, which the site has in `folder`, and tables of what they measured, machine by machine."""
    parts = []
    for name in names.split():
        if not (ROOT / "benchmarks" / f"{name}.py").is_file():
            raise ValueError(f"there is no benchmark {name}")
        kept = sorted(RESULTS.glob(f"{name}-*.json"))
        drawn = [path.with_suffix(".png").name for path in kept if path.with_suffix(".png").is_file()]
        parts += [f"![{name.replace('_', ' ')}]({folder}/{picture})" for picture in drawn]
        parts += [_table(json.loads(path.read_text(encoding="utf-8"))) for path in kept]
        if not kept:
            parts.append(f"`python benchmarks/{name}.py` measures this; no result is kept here yet.")
    return "\n\n".join(parts)


def commands(_: str | None = None) -> str:
    """Every command: what it does, an example, its arguments and options."""
    parts = []
    for name, entry in catalog.commands().items():
        parser = Parser(prog=f"lab {name}", add_help=False)
        importlib.import_module(entry.module).add_arguments(parser)
        rows = [f"| {_called(action)} | {_cell(_explained(action))} |" for action in parser._actions]
        parts += [f"## lab {name}", f"{entry.summary[0].upper()}{entry.summary[1:]}.", f"    {entry.example}"]
        if rows:
            parts.append("\n".join(["| argument | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def _called(action: Any) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return f"`{_cell(action.metavar or action.dest)}`" + (" …" if action.nargs in ("*", "+") else "")
    shown = f"{', '.join(action.option_strings)}{'' if action.nargs == 0 else f' {value}'}"
    return f"`{_cell(shown)}`"


def _explained(action: Any) -> str:
    return (action.help or "") % {**vars(action), "prog": "lab"}


def _table(result: dict[str, Any]) -> str:
    machine, targets = result["machine"], result["targets"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}"
    head = f"`{result['command']}` on {where}, {result['date'][:10]}:"
    rows = [
        f"| {name.replace('_', ' ')} | {'—' if value is None else f'{value:.4g}'} | {targets.get(name, '')} |"
        for name, value in result["figures"].items()
    ]
    return "\n".join([head, "", "| figure | measured | target |", "|---|---|---|", *rows])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
