"""lab sample: a grid of images from a trained generative model, or texts from a language model."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab.cli import add_override_arguments
from lab.errors import Failure, UserError

if TYPE_CHECKING:
    import torch

    from generative.learner import GenerativeLearner
    from lab.data.images import ImageModule
    from lab.pictures import Image
    from lab.supervised.language_model import LanguageModel

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".npz")
_TEXT_SUFFIX = ".txt"
_INTERPOLATION_STEPS = 10
_NUM_IMAGES = 64
_TEXT_LENGTH = 500
_OPTIONS = {"classes": "class"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_override_arguments(parser, "a run directory")
    parser.add_argument(
        "--n", type=int, help="how many images, rows with --interpolate, or texts (default: 64 images, 1 text)"
    )
    parser.add_argument("--class", dest="classes", metavar="C,...", help="only these classes, by number or name")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="below 1: more typical, less varied (default: 1)"
    )
    parser.add_argument("--interpolate", action="store_true", help="rows that go from one sample to another")
    parser.add_argument("--columns", type=int, help="images in a row (default: a square)")
    parser.add_argument("--prompt", help="what texts go on from (default: a new line)")
    parser.add_argument("--length", type=int, help="characters of a text (default: 500)")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which weights (default: best)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument(
        "--out",
        type=Path,
        help="a picture, an .npz of the images themselves, or a .txt (default: samples.png; texts are printed)",
    )


def run(arguments: argparse.Namespace) -> int:
    from lab.runs.directory import Run

    _check(arguments)
    found = Run.open(arguments.target)

    from generative.learner import GenerativeLearner
    from lab.data.images import ImageModule
    from lab.supervised.language_model import LanguageModel
    from lab.training.evaluation import evaluating
    from lab.training.train import restore

    experiment, data, module, content = restore(found, arguments.checkpoint, arguments.overrides)
    source = f"{experiment.name} ({module.counter}={content['counters'][module.counter]:,})"
    try:
        with evaluating(module, arguments.seed):
            if isinstance(module, LanguageModel):
                _sample_texts(module, arguments, source)
            elif isinstance(module, GenerativeLearner) and isinstance(data, ImageModule):
                _sample_images(module, data, arguments, source)
            else:
                raise UserError(
                    f"{experiment.name} trains module.kind={experiment.module.kind!r}, which has nothing to sample."
                )
    finally:
        data.close()
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.n is not None and arguments.n < 1:
        raise UserError(f"--n {arguments.n} is not a number of samples; give 1 or more.")
    if arguments.columns is not None and arguments.columns < 1:
        raise UserError(f"--columns {arguments.columns} is not a number of columns; give 1 or more.")
    if arguments.length is not None and arguments.length < 1:
        raise UserError(f"--length {arguments.length} is not a number of characters; give 1 or more.")
    if not 0 <= arguments.temperature < math.inf:
        raise UserError(f"--temperature {arguments.temperature} is not a number of 0 or more.")
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed {arguments.seed} is not in [0, 2^32).")
    if arguments.interpolate and arguments.classes:
        raise UserError("--interpolate and --class do not go together.")
    if arguments.out is None:
        return
    if arguments.out.suffix.lower() not in (*_SUFFIXES, _TEXT_SUFFIX):
        choices = ", ".join((*_SUFFIXES, _TEXT_SUFFIX))
        raise UserError(f"--out {str(arguments.out)!r} has no known ending. Valid choices: {choices}.")
    if arguments.out.is_dir() or not arguments.out.parent.is_dir():
        raise UserError(f"--out {str(arguments.out)!r} cannot be written: no such folder, or a folder itself.")


def _refuse(arguments: argparse.Namespace, names: tuple[str, ...], what: str) -> None:
    """Raise UserError for an option that says nothing about what this run gives."""
    for name in names:
        if getattr(arguments, name) not in (None, False):
            raise UserError(f"--{_OPTIONS.get(name, name)} is not for {what}.")


# ------------------------------------------------------------------ texts


def _sample_texts(module: LanguageModel, arguments: argparse.Namespace, source: str) -> None:
    import torch

    _refuse(arguments, ("classes", "interpolate", "columns"), "a language model")
    if arguments.out is not None and arguments.out.suffix.lower() != _TEXT_SUFFIX:
        raise UserError(f"--out {str(arguments.out)!r}: a language model writes a {_TEXT_SUFFIX}.")
    prompt = arguments.prompt or ""
    texts = module.sample_text(
        arguments.n or 1,
        arguments.length or _TEXT_LENGTH,
        prompt=prompt or "\n",
        temperature=arguments.temperature,
        generator=torch.Generator(module.device).manual_seed(arguments.seed),
    )
    whole = "\n\n".join(prompt + text for text in texts) + "\n"
    if arguments.out is None:
        sys.stdout.write(whole)
        return
    try:
        arguments.out.write_text(whole, encoding="utf-8")
    except OSError as error:
        raise _not_written(arguments.out, error) from error
    print(f"{arguments.out}: {len(texts)} texts of {source}")


# ------------------------------------------------------------------ images


def _sample_images(module: GenerativeLearner, data: ImageModule, arguments: argparse.Namespace, source: str) -> None:
    _refuse(arguments, ("prompt", "length"), "a model of images")
    out = arguments.out or Path("samples.png")
    if out.suffix.lower() not in _SUFFIXES:
        raise UserError(f"--out {str(out)!r}: a model of images writes {', '.join(_SUFFIXES)}.")
    images, columns = _draw(module, data, arguments)
    _save(images, columns, out)
    print(f"{out}: {len(images)} images of {source}")


def _draw(
    module: GenerativeLearner, data: ImageModule, arguments: argparse.Namespace
) -> tuple[torch.Tensor, int | None]:
    """Images (N, C, H, W) and the columns of their grid."""
    import torch
    from rich.console import Console
    from rich.progress import Progress

    generator = torch.Generator(module.device).manual_seed(arguments.seed)
    num = arguments.n or _NUM_IMAGES
    if arguments.interpolate:
        rows = module.interpolate(num, _INTERPOLATION_STEPS, generator=generator)
        return rows.flatten(0, 1), arguments.columns or _INTERPOLATION_STEPS
    labels = _labels(module, arguments.classes, num)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sampling", total=None)
        images = module.sample(
            num,
            labels=labels,
            temperature=arguments.temperature,
            generator=generator,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    return data.shown(images), arguments.columns


def _labels(module: GenerativeLearner, classes: str | None, num: int) -> torch.Tensor | None:
    """The classes asked for, by number or name, repeated in turn to labels (num,)."""
    import torch

    from lab.data.spec import Classes
    from lab.errors import unknown

    if not classes:
        return None
    outputs = module.data_spec.outputs
    names = outputs.names if isinstance(outputs, Classes) else ()
    numbers = {name: i for i, name in enumerate(names)} | {str(i): i for i in range(module.num_classes)}
    asked = []
    for word in classes.split(","):
        if word.strip() not in numbers:
            raise unknown("class", word.strip(), numbers)
        asked.append(numbers[word.strip()])
    return torch.tensor(asked).repeat(-(-num // len(asked)))[:num]


def _save(images: torch.Tensor, columns: int | None, path: Path) -> None:
    import numpy as np
    from PIL import Image as PILImage

    from lab.pictures import image_grid

    try:
        if path.suffix.lower() == ".npz":
            np.savez_compressed(path, images=(images.clamp(0, 1) * 255).round().byte().cpu().numpy())
        else:
            grid: Image = image_grid(images, columns)
            PILImage.fromarray(grid).save(path)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> Failure:
    return Failure(f"{str(path)!r} could not be written: {error.strerror or error}.")
