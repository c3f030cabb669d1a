"""The fields that overrides of a recipe can reach, read from the source without importing it (for completion).

A recipe is followed through the helper functions of its module to the config classes that it names. Where a field takes
a family of configs and the recipe names none of them, all of the family count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from lab import catalog

_DEPTH = 4


class Field(NamedTuple):
    """A field: the classes that its annotation names, and the values that it may take (none: anything)."""

    classes: tuple[str, ...]
    choices: tuple[str, ...]


class Source(NamedTuple):
    """What the lab's packages define: config classes with bases and own fields, functions by module."""

    bases: dict[str, tuple[str, ...]]
    fields: dict[str, dict[str, Field]]
    functions: dict[tuple[str, str], ast.FunctionDef]


def fields_of(recipe: str) -> dict[str, tuple[str, ...]]:
    """Every field of a recipe's experiment by its dotted path, with its choices. Empty for an unknown recipe."""
    entry = catalog.scan().recipes.get(recipe)
    if entry is None:
        return {}
    found = source()
    named = _named(entry.module, entry.attribute, found)
    return {
        path: choices
        for name, field in _fields("Experiment", found).items()
        for path, choices in _paths(name, field, found, named)
    }


@lru_cache(maxsize=1)
def source() -> Source:
    """Parse the lab's own packages and the installed plugins."""
    found = Source({}, {}, {})
    for module, path in catalog.sources():
        text = path.read_text(encoding="utf-8")
        if any(mark in text for mark in ("Config", "kind: Literal[", "@register(")):
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef):
                    found.bases[node.name] = tuple(base.id for base in node.bases if isinstance(base, ast.Name))
                    found.fields[node.name] = dict(_own_fields(node))
                elif isinstance(node, ast.FunctionDef):
                    found.functions[module, node.name] = node
    return found


def _own_fields(node: ast.ClassDef) -> Iterator[tuple[str, Field]]:
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and not part.target.id.startswith("_"):
            names = [name.id for name in ast.walk(part.annotation) if isinstance(name, ast.Name)]
            if "ClassVar" not in names:
                choices = _literals(part.annotation) if "Literal" in names else ()
                yield part.target.id, Field(tuple(names), choices or (("true", "false") if "bool" in names else ()))


def _literals(annotation: ast.expr) -> tuple[str, ...]:
    return tuple(
        str(constant.value)
        for part in ast.walk(annotation)
        if isinstance(part, ast.Subscript) and isinstance(part.value, ast.Name) and part.value.id == "Literal"
        for constant in ast.walk(part.slice)
        if isinstance(constant, ast.Constant)
    )


def _named(module: str, function: str, found: Source) -> set[str]:
    """The names in a function and in the functions of its module that it calls."""
    names: set[str] = set()
    waiting = [function]
    while waiting:
        node = found.functions.get((module, waiting.pop()))
        if node is not None:
            new = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)} - names
            names |= new
            waiting += new
    return names


def _ancestors(name: str, found: Source) -> set[str]:
    above: set[str] = set()
    for base in found.bases.get(name, ()):
        above |= {base} | _ancestors(base, found)
    return above


def _fields(name: str, found: Source) -> dict[str, Field]:
    fields: dict[str, Field] = {}
    for base in found.bases.get(name, ()):
        fields |= _fields(base, found)
    return fields | found.fields.get(name, {})


def _paths(
    path: str, field: Field, found: Source, named: set[str], depth: int = 0
) -> Iterator[tuple[str, tuple[str, ...]]]:
    classes = [name for name in field.classes if name in found.fields and _is_config(name, found)]
    if not classes or depth > _DEPTH:
        yield path, _registered(path) or field.choices
        return
    for name in [member for base in classes for member in _members(base, found, named)]:
        for child, inner in _fields(name, found).items():
            yield from _paths(f"{path}.{child}", inner, found, named, depth + 1)
        if name == "BackboneConfig":
            yield from ((f"{path}.{option}", ()) for option in backbone_options())


def _members(name: str, found: Source, named: set[str]) -> list[str]:
    """The class itself; for the base of a family, the members that the recipe names, or all when it names none."""
    if "KindConfig" not in found.bases[name]:
        return [name]
    members = [member for member in found.fields if name in _ancestors(member, found)]
    return [member for member in members if member in named] or members or [name]


def _is_config(name: str, found: Source) -> bool:
    return name == "Config" or "Config" in _ancestors(name, found)


def backbone_names() -> list[str]:
    """The names of all registered backbones."""
    return sorted(catalog.scan().section("backbones"))


def backbone_options(*names: str) -> list[str]:
    """The keyword options of some registered backbones, by default of all."""
    options: dict[str, None] = {}
    for name, entry in catalog.scan().section("backbones").items():
        node = source().functions.get((entry.module, entry.attribute))
        if node is not None and (not names or name in names):
            options |= dict.fromkeys(argument.arg for argument in node.args.kwonlyargs)
    return list(options)


def _registered(path: str) -> tuple[str, ...]:
    """The names that a registry gives a field."""
    if path.endswith("backbone.name"):
        return tuple(backbone_names())
    return tuple(sorted(catalog.scan().section("datasets"))) if path == "data.name" else ()
