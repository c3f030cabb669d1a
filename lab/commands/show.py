"""lab show: print the resolved experiment of a recipe, a file or a run as YAML that `lab train` takes back."""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.cli import add_override_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(parser, "a recipe (lab list), package.module:recipe, an experiment.yaml, or a run directory")


def run(arguments: argparse.Namespace) -> int:
    from lab.config import serialization
    from lab.config.overrides import resolve

    target = arguments.target
    if (Path(target) / "experiment.yaml").is_file():
        target = str(Path(target) / "experiment.yaml")
    print(serialization.to_yaml(resolve(target, arguments.overrides)), end="")
    return 0
