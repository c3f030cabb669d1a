"""From what a user types to one frozen Experiment, and back to YAML.

    resolve("dqn/cartpole", ["module.gamma=0.97", "seed=3"])

Values are read as YAML, in which 1e5 is a number too, as in YAML 1.2. An override that changes a `kind` or a backbone's
`name` keeps the fields that the new sort has too, and their values where they are valid there.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lab import catalog, recipes
from lab.errors import UserError, reason, unknown
from lab.experiment import Experiment, KindConfig

_EXPONENT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_MODULE_NAME = re.compile(r"^[A-Za-z_][\w.]*(?=:[A-Za-z_])")


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    pass


for _class in (_Loader, _Dumper):  # the dumper quotes words that would be read as numbers
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


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
        path, value = _parse(item)
        _assign(tree, path, value, item)
    return validate(tree)


def validate(tree: dict[str, Any]) -> Experiment:
    """The experiment in a plain tree. Raises UserError that names the field, the value, and what would be valid."""
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise UserError(" ".join(_sentence(detail, tree) for detail in error.errors()[:3])) from None


def dump(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain values."""
    return experiment.model_dump(mode="json")


def to_yaml(experiment: Experiment) -> str:
    """The experiment as YAML that `load` reads back as an equal one."""
    return yaml.dump(dump(experiment), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def load(path: Path) -> Experiment:
    """Read an experiment from a YAML file. Raises UserError for a file that is absent or not an experiment."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
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


def _parse(item: str) -> tuple[list[str], Any]:
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise UserError(f"{item!r} is not an override; write field=value, for example module.gamma=0.97.")
    module = _MODULE_NAME.match(text)
    if module:
        catalog.allow_import(module.group())
    try:
        return key.split("."), yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise UserError(f"the value of {key}={text!r} cannot be read as YAML.") from None


def _assign(tree: dict[str, Any], path: list[str], value: Any, item: str) -> None:
    node: Any = tree
    for i, key in enumerate(path[:-1]):
        if not isinstance(node, dict) or key not in node:
            where = ".".join(path[: i + 1])
            raise unknown("field", where, _children(tree, path[:i]), _elsewhere(tree, where))
        if node[key] is None:
            node[key] = {}
        node = node[key]
    if not isinstance(node, dict):
        raise UserError(f"{'.'.join(path[:-1])} holds a value, not fields; {item!r} cannot reach into it.")
    if path[-1] in ("kind", "name") and len(path) > 1 and node.get(path[-1]) != value:
        _keep_common(tree, path, value)
    node[path[-1]] = value


def _children(tree: dict[str, Any], path: list[str]) -> list[str]:
    node: Any = tree
    for key in path:
        node = node[key]
    prefix = "".join(f"{key}." for key in path)
    return [f"{prefix}{key}" for key in node] if isinstance(node, dict) else []


def _elsewhere(tree: dict[str, Any], path: str) -> list[str]:
    """Other paths in the tree that end with the same name, the shortest first."""
    name = path.rpartition(".")[2]
    nodes, found = [("", tree)], list[str]()
    for prefix, node in nodes:  # grows on the way
        found += [f"{prefix}{key}" for key in node if key == name]
        nodes += [(f"{prefix}{key}.", value) for key, value in node.items() if isinstance(value, dict)]
    return [other for other in found if other != path]


def _keep_common(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Before a node becomes another sort of thing, drop the fields that the new sort does not have."""
    owner = _model_at(tree, path[:-1])
    node: Any = tree
    for key in path[:-1]:
        node = node[key]
    fields: set[str] | None = None
    if path[-1] == "kind" and owner is not None and issubclass(owner, KindConfig):
        with contextlib.suppress(UserError):
            fields = set(owner._family.member(str(value)).model_fields)
    elif owner is not None and hasattr(owner, "options_of"):
        with contextlib.suppress(UserError):
            fields = {"name", *(key for key in owner.options_of(str(value)) if _fits(owner, str(value), key, node))}
    if fields is not None:
        for key in [key for key in node if key not in fields]:
            del node[key]


def _fits(owner: type[BaseModel], name: str, key: str, node: dict[str, Any]) -> bool:
    """Whether an option that is set now is a valid one of the backbone `name` too."""
    try:
        owner.model_validate({"name": name, key: node[key]} if key in node else {"name": name})
    except ValidationError:
        return False
    return True


def _model_at(tree: Any, path: Sequence[str | int]) -> type[BaseModel] | None:
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


def _sentence(detail: ErrorDetails, tree: dict[str, Any]) -> str:
    where = ".".join(str(key) for key in detail["loc"])
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        parent = list(detail["loc"][:-1])
        model = _model_at(tree, parent)
        prefix = "".join(f"{key}." for key in parent)
        choices = [f"{prefix}{name}" for name in model.model_fields] if model else []
        return str(unknown("field", where, choices, _elsewhere(tree, where)))
    if detail["type"] == "missing":
        return f"field {where!r} is missing."
    if detail["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", str(detail["ctx"]["expected"]))
        return str(unknown(f"value for {where}:", value, choices))
    message = detail["msg"]
    if detail["type"] == "value_error":
        message = str(detail["ctx"]["error"])
        return f"{where}: {message}" if where else message
    model = _model_at(tree, list(detail["loc"])) if detail["type"] == "model_type" else None
    if model is not None:
        fields = list(model.model_fields)
        message = f"it holds fields, set one by one ({where}.{fields[0]}=...). Valid choices: {', '.join(fields)}"
    shown = repr(value) if len(repr(value)) < 80 else repr(value)[:77] + "..."
    return f"{where}={shown} is not valid: {reason(detail['type'], value, message)}."
