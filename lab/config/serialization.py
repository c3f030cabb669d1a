"""Experiments as plain trees and as YAML, read back without running code."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lab.config import plain_yaml
from lab.errors import UserError, reason, shortened, unknown
from lab.experiment import Experiment, KindConfig

_LABEL = re.compile(r"[a-z]+\[.*\]|constrained-[a-z]+|(function|lax|json)-.*")
"""what pydantic puts between the names of fields"""


def validate(tree: dict[str, Any]) -> Experiment:
    """The experiment in a plain tree. Raises UserError that names the field, the value, and what would be valid."""
    for field in _fields_without_a_name(tree):
        raise UserError(f"{field} is no field: names of fields are words.")
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise UserError(
            " ".join(_sentence(detail, tree) for detail in _one_a_field(error.errors(), tree)[:3])
        ) from None


def dump(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain values."""
    return experiment.model_dump(mode="json")


def to_yaml(experiment: Experiment) -> str:
    """The experiment as YAML that `load` reads back as an equal one."""
    return yaml.dump(dump(experiment), Dumper=plain_yaml.Dumper, sort_keys=False, allow_unicode=True, width=120)


def load(path: Path) -> Experiment:
    """Read an experiment from a YAML file. Raises UserError for a file that is absent or not an experiment."""
    try:
        tree = plain_yaml.read(path)
    except FileNotFoundError:
        raise UserError(f"there is no file {str(path)!r}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).replace("\n", " ")
        raise UserError(f"{path} is not YAML: {reason}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} does not hold an experiment (a mapping with name, data, module and trainer).")
    return validate(tree)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"module": {"gamma": 0.9}} -> {"module.gamma": 0.9}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _fields_without_a_name(tree: Any, prefix: str = "") -> Iterator[str]:
    """Keys that are numbers, dates or nothing, each behind the path to it."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if not isinstance(key, str):
                yield f"{prefix}{shortened(key)}"
            yield from _fields_without_a_name(value, f"{prefix}{key}.")
    elif isinstance(tree, list):
        for value in tree:
            yield from _fields_without_a_name(value, prefix)


def elsewhere(tree: dict[str, Any], path: str) -> list[str]:
    """Other paths in the tree that end with the same name, the shortest first."""
    name = path.rpartition(".")[2]
    nodes, found = [("", tree)], list[str]()
    for prefix, node in nodes:  # grows on the way
        found += [f"{prefix}{key}" for key in node if key == name]
        nodes += [(f"{prefix}{key}.", value) for key, value in node.items() if isinstance(value, dict)]
    return [other for other in found if other != path]


def model_at(tree: Any, path: Sequence[str | int]) -> type[BaseModel] | None:
    """The config class that holds the fields at `path` of a tree."""
    model: type[BaseModel] | None = Experiment
    node: Any = tree
    for key in path:
        if model is None or not isinstance(node, dict):
            return None
        field = model.model_fields.get(str(key))
        node = node.get(key)
        model = _config_class(field.annotation) if field is not None else None
        if model is not None and issubclass(model, KindConfig) and isinstance(node, dict):
            with contextlib.suppress(UserError):
                model = model.member(str(node.get("kind")))
    return model


def _config_class(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _config_class(part)
        if found is not None:
            return found
    return None


def _one_a_field(details: Sequence[ErrorDetails], tree: dict[str, Any]) -> list[ErrorDetails]:
    """Where a field may be one of several things, what is wrong with the one that the value is most like.

    Each of them has an error of its own, behind a label that is no field; labels are left out of the paths.
    """
    best: dict[tuple[int | str, ...], ErrorDetails] = {}
    for detail in details:
        path = _path(detail["loc"], tree)
        field = tuple(key for key in path if isinstance(key, str)) if len(path) < len(detail["loc"]) else path
        other = best.get(field)
        given = {**detail, "loc": path}
        if other is None or (len(path), _is_like(given)) > (len(other["loc"]), _is_like(other)):
            best[field] = given  # type: ignore[assignment]
    return list(best.values())


def _path(loc: tuple[int | str, ...], tree: dict[str, Any]) -> tuple[int | str, ...]:
    """Without the labels that pydantic gives to what a field may be, such as literal['auto'] or constrained-int."""
    return tuple(key for key in loc if isinstance(key, int) or not _LABEL.fullmatch(key))


def _is_like(detail: Any) -> bool:
    """Whether a choice of words is refused for a word, or anything else for what is none."""
    return (detail["type"] == "literal_error") == isinstance(detail["input"], str)


def _sentence(detail: ErrorDetails, tree: dict[str, Any]) -> str:
    where = ".".join(str(key) for key in detail["loc"])
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        parent = list(detail["loc"][:-1])
        model = model_at(tree, parent)
        prefix = "".join(f"{key}." for key in parent)
        choices = [f"{prefix}{name}" for name in model.model_fields] if model else []
        return str(unknown("field", where, choices, elsewhere(tree, where)))
    if detail["type"] == "missing":
        return f"field {where!r} is missing{' from the list' if isinstance(detail['loc'][-1], int) else ''}."
    if detail["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", str(detail["ctx"]["expected"]))
        return str(unknown(f"value for {where}:", value, choices))
    message = detail["msg"]
    if detail["type"] == "value_error":
        message = str(detail["ctx"]["error"])
        return f"{where}: {message}" if where else message
    model = model_at(tree, list(detail["loc"])) if detail["type"] == "model_type" else None
    if model is not None:
        fields = list(model.model_fields)
        message = f"it holds fields, set one by one ({where}.{fields[0]}=...). Valid choices: {', '.join(fields)}"
    return f"{where}={shortened(value)} is not valid: {reason(detail['type'], value, message)}."
