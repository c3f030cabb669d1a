"""What the lab holds, read from its source without importing it.

`lab list`, completion and error messages need names and a line each, and importing torch for that would take seconds.
So the source of the lab's packages and of installed plugins is parsed:

- a public function annotated `-> Experiment` is a recipe, named `family/function`;
- `NAME: Registry[...] = Registry("register_x", "noun", "section")` declares a registry, and `@register_x("name")` makes
  a function one of its entries;
- a class with `kind: Literal["x"] = "x"` is a kind of config;
- a module in a folder `commands` with a constant EXAMPLE is a command: its docstring begins `lab NAME: what it does.`,
  `EXAMPLE` is a command line, `ORDER` its place in `lab --help` (lowest first, those without one last).

What other packages register joins when they are imported; only modules that the user named may be.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from lab import plugins
from lab.errors import UserError

PACKAGES = ("lab", "agents", "generative", "cluster")
_ROOT = Path(__file__).resolve().parent.parent
_MARKS = ("-> Experiment", "-> lab.Experiment", "@register", "@lab.register", "Registry(", "kind: Literal")
_BODY = re.compile(r"^(?:@|(?:async )?def |class )", re.MULTILINE)
_LAST = 1_000
KIND = "kind"
"""where kinds of configs stand among what is registered"""

_allowed: set[str] = set()


class Entry(NamedTuple):
    """A name and what it stands for: a function or class of a module, and a line about it."""

    name: str
    module: str
    attribute: str
    summary: str


class RegistryEntry(NamedTuple):
    """A registry: the decorator that fills it, its heading in `lab list` ("" for none), and where it is declared."""

    decorator: str
    section: str
    module: str
    attribute: str


class Command(NamedTuple):
    """A subcommand: the module with its `add_arguments(parser)` and `run(arguments) -> exit code`, and its help."""

    module: str
    summary: str
    example: str
    order: int


class Catalog(NamedTuple):
    """What the source declares: recipes by name, registries by decorator, their entries by decorator and name.

    A name stands for one entry; a kind may be one of several families of configs, and so for several.
    """

    recipes: dict[str, Entry]
    registries: dict[str, RegistryEntry]
    registered: dict[str, dict[str, list[Entry]]]

    def sections(self) -> list[str]:
        """The headings of `lab list`."""
        return list(dict.fromkeys(["recipes", *(entry.section for entry in self.registries.values() if entry.section)]))

    def section(self, name: str) -> dict[str, Entry]:
        """What stands under a heading."""
        if name == "recipes":
            return self.recipes
        decorators = [entry.decorator for entry in self.registries.values() if entry.section == name]
        return {key: entries[0] for each in decorators for key, entries in self.registered.get(each, {}).items()}


def scan() -> Catalog:
    """Parse the lab's own packages and the installed plugins. Raises UserError when two declare the same name."""
    return _scan(plugins.packages())


def sources() -> Iterator[tuple[str, Path]]:
    """The modules of the lab's own packages and of the installed plugins, each with its file."""
    for package in PACKAGES:
        yield from plugins.modules_below(_ROOT / package, package)
    for package in plugins.packages():
        yield from plugins.sources(package)


def commands() -> dict[str, Command]:
    """Every command in the order of `lab --help`. Raises UserError when two have the same name."""
    return _commands(tuple(plugins.entry_points(plugins.COMMANDS)))


def recipes_of(module: str, tree: ast.Module) -> Iterator[Entry]:
    """The recipes that one parsed module defines, named `family/function`."""
    family = str(_constants(tree).get("FAMILY", module.rpartition(".")[2].replace("_", "-")))
    for node in tree.body:
        if (
            isinstance(node, ast.FunctionDef)
            and not node.name.startswith("_")
            and node.returns is not None
            and ast.unparse(node.returns).strip("'\"").rpartition(".")[2] == "Experiment"
            and len(node.args.args) == len(node.args.defaults)
        ):
            yield Entry(f"{family}/{node.name.replace('_', '-')}", module, node.name, _summary(node))


def import_registered(decorator: str, name: str | None = None) -> None:
    """Import the modules that register a name with a decorator, if the source has any; without a name, all names."""
    for key, entries in scan().registered.get(decorator, {}).items():
        for entry in entries if name in (key, None) else ():
            plugins.load(entry.module)


LIBRARIES = ("hub", "timm")
"""prefixes of names that other libraries give (`hub:mnist`, `timm:resnet18`), which are no modules to import"""


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


def import_options() -> str:
    """The `--import` options that a command needs which is to go on with what this process does, or nothing."""
    return "".join(f" --import {name}" for name in allowed_imports())


def check_allowed(module: str, field: str, value: str) -> None:
    """Raise UserError unless the user allowed `module` or installed it as a plugin.

    So nobody's file decides what code runs.
    """
    known = {name.partition(".")[0] for name in (*_allowed, *plugins.packages())}
    if module.partition(".")[0] not in known:
        raise UserError(
            f"{field} {value!r} names the module {module!r}, which may not be imported unless you say so: "
            f"add --import {module}."
        )


@lru_cache(maxsize=4)
def _scan(installed: tuple[str, ...]) -> Catalog:
    catalog = Catalog({}, {}, {})
    for module, path in sources():
        source = path.read_text(encoding="utf-8")
        if any(mark in source for mark in _MARKS):
            try:
                tree = ast.parse(source)
            except SyntaxError as error:
                plugins.warn(f"{module} is left out: {error.msg} ({path}, line {error.lineno})")
                continue
            _scan_module(module, tree, catalog)
    for decorator in set(catalog.registered) - {*catalog.registries, KIND}:  # another library's decorator
        del catalog.registered[decorator]
    return catalog


def _scan_module(module: str, tree: ast.Module, catalog: Catalog) -> None:
    for entry in recipes_of(module, tree):
        _check_free("recipe", entry, catalog.recipes.get(entry.name))
        catalog.recipes[entry.name] = entry
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for decorator, name in _registrations(node):
                entry = Entry(name, module, node.name, _summary(node))
                entries = catalog.registered.setdefault(decorator, {})
                _check_free(f"@{decorator}", entry, *entries.get(name, ()))
                entries[name] = [entry]
        if isinstance(node, ast.ClassDef):
            for field in node.body:
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and field.target.id == "kind"
                    and isinstance(field.value, ast.Constant)
                ):
                    entry = Entry(str(field.value.value), module, node.name, _summary(node))
                    catalog.registered.setdefault(KIND, {}).setdefault(entry.name, []).append(entry)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Call):
            call = node.value
            if isinstance(call.func, ast.Name) and call.func.id == "Registry":
                decorator, _, section = [*(str(ast.literal_eval(part)) for part in call.args), ""][:3]
                catalog.registries[decorator] = RegistryEntry(decorator, section, module, node.target.id)


def _registrations(node: ast.FunctionDef | ast.ClassDef) -> Iterator[tuple[str, str]]:
    """The decorators `register...("name")` and `lab.register...("name")` of a function or class, with the names."""
    for call in node.decorator_list:
        if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant):
            decorator = ast.unparse(call.func).removeprefix("lab.")
            if decorator.startswith("register") and isinstance(call.args[0].value, str):
                yield decorator, call.args[0].value


def _check_free(what: str, entry: Entry, old: Entry | None = None) -> None:
    if old is not None and old.module != entry.module:
        raise UserError(f"{what} {entry.name!r} of {entry.module} is taken: {old.module} has it.")


@lru_cache(maxsize=4)
def _commands(installed: Sequence[plugins.EntryPoint]) -> dict[str, Command]:
    commands: dict[str, Command] = {}
    for package in PACKAGES:
        for module, path in plugins.modules_below(_ROOT / package / "commands", f"{package}.commands"):
            command = _command(path.stem, module, path)
            if command.example:
                commands[path.stem] = command
    for entry in installed:
        if entry.name in commands:
            owner = commands[entry.name].module
            raise UserError(f"command {entry.name!r} of package {entry.distribution!r} is taken: {owner} has it.")
        file = plugins.source(entry.module)
        problem = f"(package {entry.distribution} lacks {entry.module})"
        try:
            if file is not None:
                commands[entry.name] = _command(entry.name, entry.module, file)
                continue
        except SyntaxError as error:
            problem = f"(package {entry.distribution}: {error.msg}, {file}, line {error.lineno})"
        commands[entry.name] = Command(entry.module, problem, "", _LAST)
    return dict(sorted(commands.items(), key=lambda item: item[1].order))


def _command(name: str, module: str, path: Path) -> Command:
    """What the head of a module, before its functions, says about a command."""
    source = path.read_text(encoding="utf-8")
    body = _BODY.search(source)
    try:
        tree = ast.parse(source[: body.start()] if body else source)
    except SyntaxError:  # a line within the docstring looks like the start of a function
        tree = ast.parse(source)
    summary = _docstring(tree).partition("\n")[0].removeprefix(f"lab {name}: ").rstrip(".")
    constants = _constants(tree)
    return Command(module, summary, str(constants.get("EXAMPLE", "")), int(str(constants.get("ORDER", _LAST))))


def _constants(tree: ast.Module) -> dict[str, object]:
    """The constants that a module assigns at its top."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _summary(node: ast.FunctionDef | ast.ClassDef) -> str:
    """The first paragraph of a docstring, as one line."""
    return " ".join(re.split(r"\n\s*\n", _docstring(node))[0].split())


def _docstring(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    return ast.get_docstring(node, clean=False) or ""  # cleaning would import inspect
