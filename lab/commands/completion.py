"""lab completion: a script for bash, zsh or fish that completes commands, options, recipes, fields, values and runs."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab import catalog
from lab.cli import COMMANDS

_BASH = """\
_lab() {
    local line
    COMPREPLY=()
    local current="${COMP_LINE:0:COMP_POINT}"
    local words; read -ra words <<< "$current"
    [[ "$current" == *[[:space:]] ]] && words+=("")
    local last="${words[${#words[@]}-1]}"
    while IFS= read -r line; do
        COMPREPLY+=("${line#"${last%"${last##*[:=]}"}"}")
    done < <(lab completion --words "${words[@]:1}" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *[=/] ]] && compopt -o nospace
    [[ ${#COMPREPLY[@]} -eq 0 ]] && compopt -o default
    return 0
}
complete -F _lab lab
"""
_ZSH = """\
#compdef lab
_lab() {
    local -a found open closed
    found=("${(@f)$(lab completion --words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    open=(${(M)found:#*[=/]}) closed=(${found:#*[=/]})
    (( $#open )) && compadd -S '' -- $open
    (( $#closed )) && compadd -- $closed
    (( $#open + $#closed )) || _files
}
compdef _lab lab
"""
_FISH = """\
complete -c lab -a '(lab completion --words (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
_TARGETS = {
    "train": ("recipes",),
    "sweep": ("recipes",),
    "show": ("recipes", "runs"),
    "resume": ("runs",),
    "evaluate": ("runs",),
    "play": ("runs",),
    "sample": ("runs",),
    "export": ("runs",),
    "compare": ("runs",),
    "sync": ("runs",),
}
_MANY_TARGETS = ("compare", "sync")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", nargs="?", choices=tuple(SCRIPTS), help="print the script of this shell")
    parser.add_argument("--words", nargs=argparse.REMAINDER, help="print what the last of these words could become")
    parser.epilog = (
        "bash: echo 'source <(lab completion bash)' >> ~/.bashrc\n"
        "zsh:  echo 'source <(lab completion zsh)' >> ~/.zshrc   (after compinit)\n"
        "fish: lab completion fish > ~/.config/fish/completions/lab.fish"
    )


def run(arguments: argparse.Namespace) -> int:
    from lab.errors import UserError

    if arguments.words is not None:
        print("\n".join(candidates(arguments.words)))
        return 0
    if arguments.shell is None:
        raise UserError(f"say which shell: {', '.join(SCRIPTS)}.")
    print(SCRIPTS[arguments.shell], end="")
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of the words after `lab` could become."""
    *before, last = words or [""]
    if not before:
        return _starting(last, [*COMMANDS, "--help", "--version"])
    command = before[0]
    if command not in COMMANDS:
        return []
    parser = argparse.ArgumentParser(add_help=True)
    importlib.import_module(COMMANDS[command].module).add_arguments(parser)
    options = {name: action for action in parser._actions for name in action.option_strings}
    asked = options.get(before[-1])
    if asked is not None and asked.nargs != 0:
        return _starting(last, map(str, asked.choices or ()))
    if last.startswith("-"):
        return _starting(last, [*options, "--debug"])
    given = _positionals(before[1:], options)
    choices = [
        str(choice) for action in parser._actions if not action.option_strings for choice in action.choices or ()
    ]
    kinds = _TARGETS.get(command, ())
    if kinds and (not given or command in _MANY_TARGETS):
        return _starting(last, [name for kind in kinds for name in (_runs(last) if kind == "runs" else _recipes())])
    if kinds and any(action.dest == "overrides" for action in parser._actions):
        return _overrides(given[0], last)
    return _starting(last, choices)


def _starting(text: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(text)]


def _positionals(words: Sequence[str], options: dict[str, argparse.Action]) -> list[str]:
    given = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-"):
            action = options.get(word)
            skip = action is not None and action.nargs != 0
        else:
            given.append(word)
    return given


def _recipes() -> list[str]:
    return sorted(catalog.scan().recipes)


def _runs(text: str) -> list[str]:
    """Run directories (and folders of runs) in the folder that the text leads to, by default where runs go."""
    root = Path(text).parent if "/" in text else Path(os.environ.get("LAB_RUNS") or "runs")
    try:
        children = sorted(child for child in root.expanduser().iterdir() if child.is_dir())
    except OSError:
        return []
    return [str(child) + ("" if (child / "experiment.yaml").is_file() else "/") for child in children]


def _overrides(target: str, last: str) -> list[str]:
    """Fields of a recipe, or of the recipe that a run was made of; after `=`, the field's values."""
    from lab.config.completion import fields_of

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
