"""lab show: print a recipe or a run's experiment as YAML.

The YAML is the resolved experiment, which `lab train` takes back.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.cli import add_override_arguments

EXAMPLE = "lab show dqn/cartpole > my.yaml"
ORDER = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    target = "a recipe (lab list), package.module:recipe, an experiment.yaml, or a run directory"
    add_override_arguments(parser, target, completes=["recipes", "runs"])


def run(arguments: argparse.Namespace) -> int:
    from lab.config import serialization
    from lab.config.overrides import resolve

    target = arguments.target
    if (Path(target) / "experiment.yaml").is_file():
        target = str(Path(target) / "experiment.yaml")
    print(serialization.to_yaml(resolve(target, arguments.overrides)), end="")
    return 0
