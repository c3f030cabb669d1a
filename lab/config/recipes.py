"""Recipes: public functions annotated `-> Experiment`. "dqn/cartpole" is the function `cartpole` of the family `dqn`.

A recipe from outside the project is named by its module: `lab train mypkg.mymodule:my_recipe`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from lab import catalog, plugins
from lab.errors import UserError, unknown
from lab.experiment import Experiment


def find(name: str) -> Callable[[], Experiment]:
    """The recipe function of a name. Raises UserError with the nearest name and the valid choices."""
    if ":" in name:
        return _outside(name)
    entries = catalog.scan().recipes
    entry = entries.get(name) or entries.get(name.replace("_", "-"))
    if entry is None:
        raise unknown("recipe", name, entries)
    recipe: Callable[[], Experiment] = getattr(plugins.load(entry.module), entry.attribute)
    return recipe


def _outside(name: str) -> Callable[[], Experiment]:
    module_name, _, attribute = name.partition(":")
    catalog.allow_import(module_name)
    module = importlib.import_module(module_name)
    recipe = getattr(module, attribute, None)
    if not callable(recipe):
        choices = [key for key, value in vars(module).items() if _makes_an_experiment(value)]
        raise unknown(f"recipe in {module_name}", attribute, choices)
    if not _takes_nothing(recipe):
        raise UserError(f"{name} is no recipe: that is a function without arguments which returns an Experiment.")

    def checked() -> Experiment:
        try:
            experiment = recipe()
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(map(str, (error.title, *detail["loc"])))
            raise UserError(f"{name} makes no experiment: {where}={detail['input']!r}: {detail['msg']}.") from error
        if not isinstance(experiment, Experiment):
            raise UserError(f"{name} returned {type(experiment).__name__}, not an Experiment.")
        return experiment

    return checked


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):  # it needs arguments, or is built in and does not say
        return False
    return True


def _makes_an_experiment(value: Any) -> bool:
    return getattr(value, "__annotations__", {}).get("return") in (Experiment, Experiment.__name__)
