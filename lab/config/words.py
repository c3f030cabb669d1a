"""What the words of a command line could become: commands, options, recipes, runs, fields and values.

A command says what its arguments are by its parser, which is made without loading what the command runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab import catalog
from lab.config.completion import backbone_names, backbone_options, fields_of


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of the words after `lab` could become."""
    *before, last = words or [""]
    if not before:
        return _starting(last, [*catalog.commands(), "--help", "--version"])
    command = catalog.commands().get(before[0])
    if command is None:
        return []
    parser = argparse.ArgumentParser(add_help=True)
    importlib.import_module(command.module).add_arguments(parser)
    options = {name: action for action in parser._actions for name in action.option_strings}
    option = options.get(before[-1])
    if option is not None and option.nargs != 0:
        return _starting(last, map(str, option.choices or ()))
    if last.startswith("-"):
        return _starting(last, [*options, "--debug"])
    words_before = _positionals(before[1:], options)
    arguments = [action for action in parser._actions if not action.option_strings]
    target = next((action for action in arguments if hasattr(action, "completes")), None)
    if target is None:
        return _starting(last, [str(choice) for action in arguments for choice in action.choices or ()])
    if not words_before or target.nargs == "+":
        names = {"recipes": _recipes, "runs": lambda: _runs(last), "backbone": lambda: ["backbone"]}
        return _starting(last, [name for kind in target.completes for name in names[kind]()])
    if words_before[0] == "backbone" and "backbone" in target.completes:
        options_of = backbone_options(*words_before[1:2])
        return _starting(last, [f"{option}=" for option in options_of] if words_before[1:] else backbone_names())
    return _overrides(words_before[0], last) if any(action.dest == "overrides" for action in arguments) else []


def _starting(text: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(text)]


def _positionals(words: Sequence[str], options: dict[str, argparse.Action]) -> list[str]:
    positionals = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-"):
            action = options.get(word)
            skip = action is not None and action.nargs != 0
        else:
            positionals.append(word)
    return positionals


def _recipes() -> list[str]:
    return sorted(catalog.scan().recipes)


def _runs(text: str) -> list[str]:
    """Run directories (and folders of runs) in the folder that the text leads to, by default where runs go."""
    folder = text[: text.rfind("/") + 1] or f"{os.environ.get('LAB_RUNS') or 'runs'}/"
    try:
        children = sorted(child for child in Path(folder).expanduser().iterdir() if child.is_dir())
    except OSError:
        return []
    return [folder + child.name + ("" if (child / "experiment.yaml").is_file() else "/") for child in children]


def _overrides(target: str, last: str) -> list[str]:
    """Fields of a recipe, or of the recipe that a run was made of; after `=`, the field's values."""
    fields = fields_of(_recipe_of(target))
    name, equals, _ = last.partition("=")
    if equals:
        return _starting(last, [f"{name}={choice}" for choice in fields.get(name, ())])
    return _starting(last, [f"{field}=" for field in fields if field != "name" and not field.endswith(".kind")])


def _recipe_of(target: str) -> str:
    path = Path(target)
    if path.is_dir():
        path = path / "experiment.yaml"
    if path.suffix in (".yaml", ".yml") and path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("name:"):
                return line.partition(":")[2].strip().strip("'\"")
    return target
