"""What the lab holds, read from its source without importing it.

`lab list`, completion and error messages need names and a line each, and importing torch for that would take seconds.
So the source is parsed: a public function annotated `-> Experiment` is a recipe, `@register("name")` makes a backbone,
`@register_images("name")` or `@register_text("name")` a data set, and a class with `kind: Literal["x"] = "x"` a kind of
config. What other packages register joins when they are imported; only modules that the user named may be.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from lab.errors import UserError

PACKAGES = ("lab", "agents", "generative", "cluster")
_DECORATORS = {"register": "backbones", "register_images": "images", "register_text": "texts"}

_allowed: set[str] = set()


class Entry(NamedTuple):
    name: str
    module: str
    attribute: str
    summary: str


class Catalog(NamedTuple):
    recipes: dict[str, Entry]
    backbones: dict[str, Entry]
    images: dict[str, Entry]
    texts: dict[str, Entry]
    kinds: dict[str, list[Entry]]

    @property
    def datasets(self) -> dict[str, Entry]:
        """Every data set, of images or text."""
        return {**self.images, **self.texts}


@lru_cache(maxsize=1)
def scan() -> Catalog:
    """Parse the lab's own packages."""
    catalog = Catalog({}, {}, {}, {}, {})
    root = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            if "-> Experiment" in source or "@register" in source or "kind: Literal" in source:
                parts = path.relative_to(root).with_suffix("").parts
                _scan_module(".".join(parts), ast.parse(source), catalog)
    return catalog


def recipes_of(module: str, tree: ast.Module) -> Iterator[Entry]:
    """The recipes that one parsed module defines, named `family/function`."""
    family = module.rpartition(".")[2].replace("_", "-")
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "FAMILY" for t in node.targets):
            family = ast.literal_eval(node.value)
    for node in tree.body:
        if (
            isinstance(node, ast.FunctionDef)
            and not node.name.startswith("_")
            and node.returns is not None
            and ast.unparse(node.returns).strip("'\"").rpartition(".")[2] == "Experiment"
            and len(node.args.args) == len(node.args.defaults)
        ):
            yield Entry(f"{family}/{node.name.replace('_', '-')}", module, node.name, _summary(node))


def import_kind(kind: str) -> None:
    """Import the lab's own modules that declare a config of this kind, if any do."""
    for entry in scan().kinds.get(kind, ()):
        importlib.import_module(entry.module)


def import_every_kind() -> None:
    """Import every module of the lab that declares a config kind (for the list of valid choices)."""
    for entries in scan().kinds.values():
        for entry in entries:
            importlib.import_module(entry.module)


def allow_import(module: str) -> None:
    """Let names in files and options refer to `module` (what `--import` does), and import it now.

    Raises UserError when there is no such module.
    """
    if not re.fullmatch(r"\w+(\.\w+)*", module):
        raise UserError(
            f"{module!r} is not a module's name; write it as in an import statement, for example my_pkg.envs."
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise UserError(
                f"no module named {error.name!r} (looked in the current folder and the environment)."
            ) from None
        raise UserError(f"module {module!r} needs {error.name!r}, which is not installed.") from None
    _allowed.add(module)


def allowed_imports() -> tuple[str, ...]:
    """The modules that the user allowed; a worker process allows the same."""
    return tuple(sorted(_allowed))


def check_allowed(module: str, field: str, value: str) -> None:
    """Raise UserError unless the user allowed `module`, so that nobody's file decides what code runs."""
    if module.partition(".")[0] not in {name.partition(".")[0] for name in _allowed}:
        raise UserError(
            f"{field} {value!r} names the module {module!r}, which may not be imported unless you say so: "
            f"add --import {module}."
        )


def _scan_module(module: str, tree: ast.Module, catalog: Catalog) -> None:
    for entry in recipes_of(module, tree):
        catalog.recipes[entry.name] = entry
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in _DECORATORS:
                    name = ast.literal_eval(call.args[0])
                    table: dict[str, Entry] = getattr(catalog, _DECORATORS[call.func.id])
                    table[name] = Entry(name, module, node.name, _summary(node))
        elif isinstance(node, ast.ClassDef):
            for field in node.body:
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and field.target.id == "kind"
                    and isinstance(field.value, ast.Constant)
                ):
                    entry = Entry(str(field.value.value), module, node.name, _summary(node))
                    catalog.kinds.setdefault(entry.name, []).append(entry)


def _summary(node: ast.FunctionDef | ast.ClassDef) -> str:
    docstring = ast.get_docstring(node) or ""
    return docstring.partition("\n\n")[0].replace("\n", " ").strip()
