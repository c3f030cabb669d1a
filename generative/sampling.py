"""Samples of a trained run as a file: a picture or an array of images, or texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image as PILImage
from rich.console import Console
from rich.progress import Progress

from generative.learner import GenerativeLearner
from lab.data.image_batches import ImageBatches
from lab.data.targets import Classes
from lab.errors import Failure, UserError, shortened, unknown
from lab.pictures import image_grid
from lab.runs.directory import Run
from lab.supervised.language_model import LanguageModel
from lab.training.evaluation import evaluating
from lab.training.restore import restore

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".npz")
_TEXT_SUFFIX = ".txt"
_INTERPOLATION_STEPS = 10
_NUM_IMAGES = 64
_TEXT_LENGTH = 500


class SampleOptions(NamedTuple):
    """What to sample and where to write it, as the options of `lab sample` say; None: the default of the sort.

    n: images, rows of an interpolation, or texts
    classes: numbers or names of classes, separated by commas
    out: a picture, an .npz of the images themselves, or a .txt
    """

    n: int | None = None
    classes: str | None = None
    temperature: float = 1.0
    interpolate: bool = False
    columns: int | None = None
    prompt: str | None = None
    length: int | None = None
    top_k: int | None = None
    beams: int | None = None
    seed: int = 0
    out: Path | None = None

    def check(self) -> None:
        """Raise UserError for a value that no model can take."""
        if self.n is not None and self.n < 1:
            raise UserError(f"--n {self.n} is not a number of samples; give 1 or more.")
        if self.columns is not None and self.columns < 1:
            raise UserError(f"--columns {self.columns} is not a number of columns; give 1 or more.")
        if self.length is not None and self.length < 1:
            raise UserError(f"--length {self.length} is not a number of characters; give 1 or more.")
        for name in ("top_k", "beams"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} is not valid; give 1 or more.")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"--temperature {self.temperature} is not a number of 0 or more.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed {self.seed} is not in [0, 2^32).")
        if self.interpolate and self.classes:
            raise UserError("--interpolate and --class do not go together.")
        if self.out is None:
            return
        if self.out.suffix.lower() not in (*_IMAGE_SUFFIXES, _TEXT_SUFFIX):
            choices = ", ".join((*_IMAGE_SUFFIXES, _TEXT_SUFFIX))
            raise UserError(f"--out {str(self.out)!r} has no known ending. Valid choices: {choices}.")
        if self.out.is_dir() or not self.out.parent.is_dir():
            raise UserError(f"--out {str(self.out)!r} cannot be written: no such folder, or a folder itself.")

    def refuse(self, names: tuple[str, ...], model: str) -> None:
        """Raise UserError where one of the options of `names` is set, which do not apply to `model`."""
        for name in names:
            if getattr(self, name) not in (None, False):
                option = "class" if name == "classes" else name.replace("_", "-")
                raise UserError(f"--{option} is not for {model}.")


def sample_run(reference: str, checkpoint: str, overrides: Sequence[str], options: SampleOptions) -> str:
    """Sample from a trained run, write the samples, and return what to print: the texts, or a line about the file.

    Args:
        reference: the run directory.
        checkpoint: "best" or "last".
        overrides: of the run's experiment, `path=value`.

    Raises:
        UserError: for options that the run's model cannot take, and for a model without samples.
        Failure: when the file cannot be written.
    """
    options.check()
    run = Run.open(reference)
    experiment, data, module, content = restore(run, checkpoint, overrides)
    source = f"{experiment.name} ({module.counter}={content['counters'][module.counter]:,})"
    try:
        with evaluating(module, options.seed):
            if isinstance(module, LanguageModel):
                return _sample_texts(module, options, source)
            if isinstance(module, GenerativeLearner) and isinstance(data, ImageBatches):
                return _sample_images(module, data, options, source)
    finally:
        data.close()
    raise UserError(f"{experiment.name} trains module.kind={experiment.module.kind!r}, which has nothing to sample.")


# ------------------------------------------------------------------ texts


def _sample_texts(module: LanguageModel, options: SampleOptions, source: str) -> str:
    options.refuse(("classes", "interpolate", "columns"), "a language model")
    if options.out is not None and options.out.suffix.lower() != _TEXT_SUFFIX:
        raise UserError(f"--out {str(options.out)!r}: a language model writes a {_TEXT_SUFFIX}.")
    prompt, length = options.prompt or "", options.length or _TEXT_LENGTH
    if options.beams is None:
        texts = module.sample_text(
            options.n or 1,
            length,
            prompt=prompt or "\n",
            temperature=options.temperature,
            top_k=options.top_k,
            generator=torch.Generator(module.device).manual_seed(options.seed),
        )
    else:
        options.refuse(("n", "top_k"), "--beams, which gives the likeliest text")
        texts = [module.likeliest_text(length, prompt=prompt or "\n", beams=options.beams)]
    space = " " if prompt and module.unit == "words" else ""
    whole = "\n\n".join(prompt + space + text for text in texts)
    if options.out is None:
        return whole
    try:
        options.out.write_text(whole + "\n", encoding="utf-8")
    except OSError as error:
        raise _write_failure(options.out, error) from error
    return f"{options.out}: {len(texts)} texts of {source}"


# ------------------------------------------------------------------ images


def _sample_images(module: GenerativeLearner, data: ImageBatches, options: SampleOptions, source: str) -> str:
    options.refuse(("prompt", "length", "top_k", "beams"), "a model of images")
    out = options.out or Path("samples.png")
    if out.suffix.lower() not in _IMAGE_SUFFIXES:
        raise UserError(f"--out {str(out)!r}: a model of images writes {', '.join(_IMAGE_SUFFIXES)}.")
    images, columns = _draw(module, data, options)
    try:
        if out.suffix.lower() == ".npz":
            np.savez_compressed(out, images=(images.clamp(0, 1) * 255).round().byte().cpu().numpy())
        else:
            PILImage.fromarray(image_grid(images, columns)).save(out)
    except OSError as error:
        raise _write_failure(out, error) from error
    return f"{out}: {len(images)} images of {source}"


def _draw(module: GenerativeLearner, data: ImageBatches, options: SampleOptions) -> tuple[torch.Tensor, int | None]:
    """Images (N, C, H, W) and the columns of their grid."""
    generator = torch.Generator(module.device).manual_seed(options.seed)
    num = options.n or _NUM_IMAGES
    if options.interpolate:
        rows = module.interpolate(num, _INTERPOLATION_STEPS, generator=generator)
        return rows.flatten(0, 1), options.columns or _INTERPOLATION_STEPS
    labels = _labels(module, options.classes, num)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sampling", total=None)
        images = module.sample(
            num,
            labels=labels,
            temperature=options.temperature,
            generator=generator,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    return data.to_images(images), options.columns


def _labels(module: GenerativeLearner, classes: str | None, num: int) -> torch.Tensor | None:
    """Classes by number or name, separated by commas, repeated in turn to labels (num,)."""
    if not classes:
        return None
    target = module.data_spec.target
    names = target.names if isinstance(target, Classes) else ()
    numbers = {name: i for i, name in enumerate(names)} | {str(i): i for i in range(module.num_classes)}
    chosen = []
    for word in classes.split(","):
        if word.strip() not in numbers:
            raise unknown("class", word.strip(), numbers)
        chosen.append(numbers[word.strip()])
    return torch.tensor(chosen).repeat(-(-num // len(chosen)))[:num]


def _write_failure(path: Path, error: OSError) -> Failure:
    return Failure(f"{shortened(str(path))} could not be written: {error.strerror or error}.")
