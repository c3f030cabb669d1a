"""lab sample: a grid of images from a trained generative model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lab.cli import add_override_arguments
from lab.errors import Failure, UserError

if TYPE_CHECKING:
    import torch

    from generative.generator import GenerativeLearner
    from generative.grids import Image

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".npz")
_INTERPOLATION_STEPS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(parser, "a run directory")
    parser.add_argument("--n", type=int, default=64, help="how many images, or rows with --interpolate (default: 64)")
    parser.add_argument("--class", dest="classes", metavar="C,...", help="only these classes, by number or name")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="below 1: more typical, less varied (default: 1)"
    )
    parser.add_argument("--interpolate", action="store_true", help="rows that go from one sample to another")
    parser.add_argument("--columns", type=int, help="images in a row (default: a square)")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which weights (default: best)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("samples.png"),
        help="a picture, or an .npz of the images themselves (default: samples.png)",
    )


def run(arguments: argparse.Namespace) -> int:
    from lab.runs import Run

    _check(arguments)
    found = Run.open(arguments.target)

    from generative.generator import GenerativeLearner
    from lab.train import restore
    from lab.trainer import evaluating

    experiment, data, module, content = restore(found, arguments.checkpoint, arguments.overrides)
    try:
        if not isinstance(module, GenerativeLearner):
            raise UserError(
                f"{experiment.name} trains module.kind={experiment.module.kind!r}, which has nothing to sample."
            )
        with evaluating(module, arguments.seed):
            images, columns = _draw(module, arguments)
    finally:
        data.close()
    _save(images, columns, arguments.out)
    count = content["counters"][module.counter]
    print(f"{arguments.out}: {len(images)} images of {experiment.name} ({module.counter}={count:,})")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.n < 1:
        raise UserError(f"--n {arguments.n} is not a number of images; give 1 or more.")
    if arguments.columns is not None and arguments.columns < 1:
        raise UserError(f"--columns {arguments.columns} is not a number of columns; give 1 or more.")
    if arguments.temperature < 0:
        raise UserError(f"--temperature {arguments.temperature} is negative; give 0 or more.")
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed {arguments.seed} is not in [0, 2^32).")
    if arguments.out.suffix.lower() not in _SUFFIXES:
        raise UserError(f"--out {str(arguments.out)!r} has no known ending. Valid choices: {', '.join(_SUFFIXES)}.")
    if arguments.out.is_dir() or not arguments.out.parent.is_dir():
        raise UserError(f"--out {str(arguments.out)!r} cannot be written: no such folder, or a folder itself.")
    if arguments.interpolate and arguments.classes:
        raise UserError("--interpolate and --class do not go together.")


def _draw(module: GenerativeLearner, arguments: argparse.Namespace) -> tuple[torch.Tensor, int | None]:
    """Images (N, C, H, W) and the columns of their grid."""
    import torch
    from rich.console import Console
    from rich.progress import Progress

    generator = torch.Generator(module.device).manual_seed(arguments.seed)
    if arguments.interpolate:
        rows = module.interpolate(arguments.n, _INTERPOLATION_STEPS, generator=generator)
        return rows.flatten(0, 1), arguments.columns or _INTERPOLATION_STEPS
    labels = _labels(module, arguments)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sampling", total=None)
        images = module.sample(
            arguments.n,
            labels=labels,
            temperature=arguments.temperature,
            generator=generator,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    return images, arguments.columns


def _labels(module: GenerativeLearner, arguments: argparse.Namespace) -> torch.Tensor | None:
    """The classes asked for, repeated in turn to `n` labels (n,)."""
    import torch

    from lab.data.spec import Classes
    from lab.errors import unknown

    if not arguments.classes:
        return None
    outputs = module.data_spec.outputs
    names = outputs.names if isinstance(outputs, Classes) else ()
    numbers = {name: i for i, name in enumerate(names)} | {str(i): i for i in range(module.num_classes)}
    asked = []
    for word in str(arguments.classes).split(","):
        if word.strip() not in numbers:
            raise unknown("class", word.strip(), numbers)
        asked.append(numbers[word.strip()])
    return torch.tensor(asked).repeat(-(-arguments.n // len(asked)))[: arguments.n]


def _save(images: torch.Tensor, columns: int | None, path: Path) -> None:
    import numpy as np
    from PIL import Image as PILImage

    from generative.grids import image_grid

    try:
        if path.suffix.lower() == ".npz":
            np.savez_compressed(path, images=(images.clamp(0, 1) * 255).round().byte().cpu().numpy())
        else:
            grid: Image = image_grid(images, columns)
            PILImage.fromarray(grid).save(path)
    except OSError as error:
        raise Failure(f"{str(path)!r} could not be written: {error.strerror or error}.") from error
