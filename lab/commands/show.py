"""lab show: print a recipe or a run's experiment as YAML, or the layers of a backbone.

The YAML is the resolved experiment, which `lab train` takes back. `lab show backbone NAME` prints a table of layers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from lab.cli import add_override_arguments
from lab.errors import UserError, shortened, unknown

if TYPE_CHECKING:
    from lab.backbones import BackboneConfig

EXAMPLE = "lab show dqn/cartpole > my.yaml"
ORDER = 200
BACKBONE = "backbone"
_EXPLAINED = """\
lab show backbone resnet channels=[16,32] --input 3,224,224
  A row is a call of a layer: its output without the batch, new parameters,
  multiply-adds (of convolutions, matrix products, recurrent layers, attention),
  memory of its output, receptive field in pixels of the input. The network runs
  as it is evaluated. Memory of outputs: all that a forward pass makes. Memory of
  a training step with Adam: parameters, their gradients and two moments, and
  what autograd keeps of a forward pass."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    target = "a recipe (lab list), package.module:recipe, an experiment.yaml, or a run directory; or `backbone NAME`"
    add_override_arguments(parser, target, completes=["recipes", "runs", "backbone"])
    group = parser.add_argument_group("for a backbone")
    shape = "its input without the batch, e.g. 3,224,224 (default: the example shape of its registration)"
    group.add_argument("--input", type=_shape, metavar="C,H,W", help=shape)
    group.add_argument("--batch", type=_positive, metavar="N", help="samples at a time (default: 1)")
    group.add_argument("--steps", type=_positive, metavar="T", help="steps that a recurrent one reads (default: 1)")
    group.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = "\n\n".join(filter(None, (parser.epilog, _EXPLAINED)))


def run(arguments: argparse.Namespace) -> int:
    from lab.config import serialization
    from lab.config.overrides import resolve

    target = arguments.target
    if target == BACKBONE:
        return _show_backbone(arguments)
    for option in ("input", "batch", "steps", "json"):
        if getattr(arguments, option):
            raise UserError(f"--{option} is an option of lab show {BACKBONE} NAME; {shortened(target)} is no backbone.")
    if (Path(target) / "experiment.yaml").is_file():
        target = str(Path(target) / "experiment.yaml")
    print(serialization.to_yaml(resolve(target, arguments.overrides)), end="")
    return 0


def _show_backbone(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from lab.backbones import BACKBONES, build_backbone
    from lab.backbones.summary import summarize
    from lab.backbones.summary.kinds import times
    from lab.backbones.summary.table import summary_table

    config = _config(arguments.overrides)
    entry = BACKBONES[config.name]
    if arguments.steps and not entry.recurrent:
        raise UserError(f"--steps is for recurrent backbones; {config.name} reads no sequences.")
    backbone = build_backbone(config, arguments.input or entry.example_shape)
    summary = summarize(backbone, arguments.batch or 1, arguments.steps or 1)
    if arguments.json:
        options = {**config.options_of(config.name), **{key: value for key, value in config if key != "name"}}
        print(json.dumps({"name": config.name, "options": options, **summary.to_dict()}, indent=2))
        return 0
    example = "" if arguments.input else ", its example shape (--input takes another)"
    title = f"{' '.join(arguments.overrides)}: input {times(summary.input_shape)}{example}"
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    console.print(summary_table(summary, title))
    return 0


def _config(words: list[str]) -> BackboneConfig:
    """The backbone of `NAME option=value ...`. Raises UserError."""
    from pydantic import ValidationError

    from lab.backbones import BACKBONES, BackboneConfig
    from lab.config.overrides import assignment

    if not words:
        raise UserError(f"say which backbone: {', '.join(BACKBONES.names())}.")
    name, *items = words
    valid = BackboneConfig.options_of(name)
    options = dict(assignment(item, "channels=[16,32]") for item in items)
    for key in options:
        if key not in valid:
            raise unknown(f"option of backbone {name!r}", key, valid)
    if options.get("from_run") is not None:
        raise UserError(f"lab show {BACKBONE} prints a new network; from_run is for lab train.")
    try:
        return BackboneConfig(name, **options)
    except ValidationError as error:
        raise UserError(str(error.errors()[0]["ctx"]["error"])) from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{shortened(text)} is no whole number from 1")
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(_positive(size) for size in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{shortened(text)} is no shape; write whole numbers, e.g. 3,224,224"
        ) from None
