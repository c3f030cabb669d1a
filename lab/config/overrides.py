"""From what a user types to one frozen Experiment, and back to YAML.

    resolve("dqn/cartpole", ["module.gamma=0.97", "seed=3"])

Values are read as YAML, in which 1e5 is a number too, as in YAML 1.2. An override that changes a `kind`, or the `name`
of a backbone, an optimizer or a schedule, keeps the fields that the new sort has too, and their values where they are
valid there.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from lab import catalog
from lab.config import plain_yaml, recipes
from lab.config.serialization import dump, elsewhere, load, model_at, validate
from lab.errors import UserError, unknown
from lab.experiment import Experiment, KindConfig

_MODULE_NAME = re.compile(r"^[A-Za-z_][\w.]*(?=:[A-Za-z_])")


def recipe(target: str, *overrides: str) -> Experiment:
    """The experiment of a recipe: `recipe("dqn/cartpole", "module.gamma=0.97", "seed=3")`; see `resolve`."""
    return resolve(target, overrides)


def resolve(target: str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment that a recipe name, `package.module:recipe` or a YAML file stands for, with overrides applied.

    Raises UserError for a wrong name, file, field or value.
    """
    if target.endswith((".yaml", ".yml")) or (Path(target).is_file() and "/" in target):
        experiment = load(Path(target))
    else:
        experiment = recipes.find(target)()
    return override(experiment, overrides)


def override(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """`experiment` with `key=value` overrides applied; a typed `package.module:name` allows that module."""
    if not overrides:
        return experiment
    tree = dump(experiment)
    for item in overrides:
        key, value = assignment(item)
        _assign(tree, key.split("."), value, item)
    return validate(tree)


def assignment(item: str, example: str = "module.gamma=0.97") -> tuple[str, Any]:
    """The key of `key=value`, and its value read as YAML; a typed `package.module:name` allows that module.

    Raises UserError for anything else, and then gives the example.
    """
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise UserError(f"{item!r} is not an override; write field=value, for example {example}.")
    module = _MODULE_NAME.match(text)
    if module and module.group() not in catalog.LIBRARIES:
        catalog.allow_import(module.group())
    try:
        return key, plain_yaml.parse(text)
    except yaml.YAMLError:
        raise UserError(f"the value of {key}={text!r} cannot be read as YAML.") from None


def _assign(tree: dict[str, Any], path: list[str], value: Any, item: str) -> None:
    node: Any = tree
    for i, key in enumerate(path[:-1]):
        if isinstance(node, dict) and key not in node and key in _options(tree, path[:i], node):
            node[key] = {}
        if not isinstance(node, dict) or key not in node:
            where = ".".join(path[: i + 1])
            raise unknown("field", where, _children(tree, path[:i]), elsewhere(tree, where))
        if node[key] is None:
            node[key] = {}
        node = node[key]
    if not isinstance(node, dict):
        raise UserError(f"{'.'.join(path[:-1])} holds a value, not fields; {item!r} cannot reach into it.")
    if path[-1] in ("kind", "name") and len(path) > 1 and node.get(path[-1]) != value:
        _keep_common(tree, path, value)
    node[path[-1]] = value


def _options(tree: dict[str, Any], path: list[str], node: dict[str, Any]) -> Collection[str]:
    """The options that a backbone at `path` has, set or not; none of another node."""
    owner = model_at(tree, path)
    if owner is None or not hasattr(owner, "options_of"):
        return ()
    options: Collection[str] = owner.options_of(str(node.get("name")))
    return options


def _children(tree: dict[str, Any], path: list[str]) -> list[str]:
    node: Any = tree
    for key in path:
        node = node[key]
    prefix = "".join(f"{key}." for key in path)
    return [f"{prefix}{key}" for key in node] if isinstance(node, dict) else []


def _keep_common(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Before a node becomes another sort of thing, drop the fields that the new sort does not have."""
    owner = model_at(tree, path[:-1])
    node: Any = tree
    for key in path[:-1]:
        node = node[key]
    fields: set[str] | None = None
    if path[-1] == "kind" and owner is not None and issubclass(owner, KindConfig):
        with contextlib.suppress(UserError):
            member = owner.family.member(str(value))
            fields = {"kind", *(key for key in member.model_fields if _fits(member, {"kind": value}, key, node))}
    elif owner is not None and hasattr(owner, "options_of"):
        with contextlib.suppress(UserError):
            options = owner.options_of(str(value))
            fields = {"name", *(key for key in options if _fits(owner, {"name": str(value)}, key, node))}
    if fields is not None:
        for key in [key for key in node if key not in fields]:
            del node[key]


def _fits(owner: type[BaseModel], base: dict[str, Any], key: str, node: dict[str, Any]) -> bool:
    """Whether what is set now at `key` is valid beside `base`, too."""
    return _num_errors(owner, base | {key: node[key]} if key in node else base) <= _num_errors(owner, base)


def _num_errors(owner: type[BaseModel], fields: dict[str, Any]) -> int:
    try:
        owner.model_validate(fields)
    except ValidationError as error:
        return error.error_count()
    return 0
