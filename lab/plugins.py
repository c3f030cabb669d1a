"""What other installed packages add to the lab, read from their metadata and located without importing them.

    [project.entry-points."lab.commands"]      a module for each command
    maze = "maze_lab.commands.maze"

    [project.entry-points."lab.plugins"]       a package whose recipes, backbones, data sets and kinds are the lab's too
    maze = "maze_lab"

`importlib.metadata` reads the same files; importing it takes longer than all of `lab --help`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from lab.errors import UserError

COMMANDS, PACKAGES = "lab.commands", "lab.plugins"


class EntryPoint(NamedTuple):
    """A line of a distribution's entry points: a name, and the module that it stands for."""

    group: str
    name: str
    module: str
    distribution: str


def entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group, in the order of sys.path. Raises UserError for one that names no module."""
    return [entry for entry in _entry_points(tuple(sys.path)) if entry.group == group]


def packages() -> tuple[str, ...]:
    """The packages that are installed as plugins; one that lacks its module is left out with a warning."""
    return _packages(tuple(entry_points(PACKAGES)))


def owner(module: str) -> str | None:
    """The distribution that brought a module as a plugin or a command, or None for the lab's own."""
    top = module.partition(".")[0]
    entries = (*entry_points(PACKAGES), *entry_points(COMMANDS))
    return next((entry.distribution for entry in entries if entry.module.partition(".")[0] == top), None)


def load(module: str) -> ModuleType:
    """Import a module of the lab or of a plugin.

    Raises UserError, which names the package, where a plugin's module cannot be imported.
    """
    distribution = owner(module)
    if distribution is None:
        return importlib.import_module(module)
    try:
        return importlib.import_module(module)
    except UserError:
        raise
    except Exception as error:  # a plugin may do anything as it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"package {distribution!r}: {module} cannot be imported ({reason}).") from error


def sources(module: str) -> Iterator[tuple[str, Path]]:
    """The modules of a package, itself and all below it, each with its file; none of a package that is not there."""
    path = source(module)
    if path is None or path.name != "__init__.py":
        yield from ((module, path) for path in [path] if path is not None)
        return
    yield from modules_below(path.parent, module)


def modules_below(folder: Path, package: str) -> Iterator[tuple[str, Path]]:
    """The modules in the folder of a package, by name, each with its file."""
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        yield ".".join((package, *parts)).removesuffix(".__init__"), path


def source(module: str) -> Path | None:
    """The file of a module, found without importing it or the packages around it."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for folder in spec.submodule_search_locations or ():
        for path in (Path(folder, *rest, "__init__.py"), Path(folder, *rest).with_suffix(".py")):
            if path.is_file():
                return path
    return None


@lru_cache(maxsize=4)
def _packages(entries: tuple[EntryPoint, ...]) -> tuple[str, ...]:
    modules = []
    for entry in entries:
        if source(entry.module) is None:
            warn(f"package {entry.distribution!r} lacks {entry.module}, which its entry point {entry.name!r} names")
        else:
            modules.append(entry.module)
    return tuple(dict.fromkeys(modules))


def warn(text: str) -> None:
    """Say what is wrong with a plugin, of which the lab does without."""
    import logging  # costs more than all that `lab --help` needs

    logging.getLogger("lab").warning("%s", text)


@lru_cache(maxsize=4)
def _entry_points(folders: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of the lab's groups in these folders; of two distributions of one name the first counts."""
    distributions: dict[str, list[EntryPoint]] = {}
    for folder in folders:
        try:
            names = sorted(os.listdir(folder or "."))  # noqa: PTH208 a tenth of the time of Path.iterdir
        except OSError:  # a zip file, or a folder that is not there
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                distribution = re.sub(r"[-_.]+", "-", name.partition("-")[0]).lower()
                if distribution not in distributions:
                    distributions[distribution] = list(_read(Path(folder, name, "entry_points.txt"), distribution))
    return tuple(entry for entries in distributions.values() for entry in entries)


def _read(path: Path, distribution: str) -> Iterator[EntryPoint]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            group = line.strip("[] ")
        elif group in (COMMANDS, PACKAGES) and line and line[0] not in "#;":
            name, _, module = (part.strip() for part in line.partition("="))
            if not re.fullmatch(r"\w+(\.\w+)*", module):
                raise UserError(f"package {distribution!r}: entry point {line!r} of {group} must name a module.")
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise UserError(f"package {distribution!r}: entry point {line!r} of {group} has no name of one word.")
            yield EntryPoint(group, name, module, distribution)
