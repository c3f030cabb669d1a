"""Runs that differ only in their seed form a group; a group is called by what sets it apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lab.comparison.records import Record

_TASK_FIELDS = ("data.env", "data.name")
_NOT_COMPARED = (
    *("seed", "name", "trainer.checkpoint_seconds", "trainer.log_period"),
    *("trainer.num_threads", "trainer.film", "trainer.max_seconds"),
)
_MISSING = "—"


class Group(NamedTuple):
    """The runs of one configuration."""

    recipe: str
    label: str
    """the recipe and the fields that vary among its groups: `dqn/cartpole gamma=0.97`"""
    varied: dict[str, Any]
    """those fields with their values"""
    config: dict[str, Any]
    runs: list[Record]


def task_of(record: Record) -> str:
    """What a run is about: its environment or data set."""
    for name in _TASK_FIELDS:
        value = record.config.get(name)
        if isinstance(value, str):
            return value
    return str(record.config.get("data.kind", ""))


def group(records: Sequence[Record]) -> list[Group]:
    """The groups of runs, in order of appearance."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        config = compared(record.config)
        key = (record.recipe, *((name, repr(config[name])) for name in sorted(config)))
        found.setdefault(key, []).append(record)
    by_recipe: dict[str, list[dict[str, Any]]] = {}
    for runs in found.values():
        by_recipe.setdefault(runs[0].recipe, []).append(compared(runs[0].config))
    groups = []
    for runs in found.values():
        recipe, config = runs[0].recipe, compared(runs[0].config)
        names = differing(by_recipe[recipe])
        varied = {name: config.get(name, _MISSING) for name in names}
        short = short_names(names)
        words = [recipe, *(f"{short[name]}={show(value)}" for name, value in varied.items())]
        groups.append(Group(recipe, " ".join(words), varied, config, runs))
    return groups


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a flat config that tells groups apart: all but the seed, names and book-keeping."""
    return {
        name: value
        for name, value in config.items()
        if name not in _NOT_COMPARED and not name.startswith("tracking.") and value is not None
    }


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields whose values are not the same in all configs, in order of appearance."""
    names = dict.fromkeys(name for config in configs for name in config)
    return [name for name in names if len({repr(config.get(name, _MISSING)) for config in configs}) > 1]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each field by its shortest ending that no other of these fields shares."""
    short = {}
    for name in names:
        parts = name.split(".")
        for size in range(1, len(parts) + 1):
            ending = ".".join(parts[-size:])
            if size == len(parts) or sum(("." + other).endswith("." + ending) for other in names) == 1:
                short[name] = ending
                break
    return short


def show(value: Any) -> str:
    """A config value in few characters."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ",".join(show(item) for item in value) + "]"
    return str(value)
