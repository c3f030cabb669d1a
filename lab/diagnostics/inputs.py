"""What goes into a network: numbers of about 1, and whether the same input gives the same answer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lab.data.module import LabDataModule
from lab.data.resident import Batch
from lab.data.spec import TensorSpec, TreeSpec
from lab.diagnostics.finding import Finding, not_applicable
from lab.errors import UserError
from lab.supervised.language_model import LanguageModel
from lab.supervised.supervised import Supervised, TaskLearner
from lab.training.evaluation import evaluating
from lab.training.learner import Learner

INPUTS, MODE = "inputs", "evaluation mode"
_MOST = 10_000
"""samples that are looked at"""
_FAR = 3.0
"""standard deviations of a mean from 0"""
_LARGE, _SMALL = 10.0, 1e-2
_PROBES = 16


def check_inputs(x: Tensor | None) -> Finding:
    """Mean and spread of training inputs (N, ...), of a table column by column; images within [-1, 1] are fine."""
    if x is None:
        return not_applicable(INPUTS, "inputs come from an environment, or are symbols")
    x = x.double()
    columns = x if x.dim() == 2 else x.flatten()[:, None]  # (M, F)
    mean, spread, low, high = columns.mean(0), columns.std(0), columns.amin(0), columns.amax(0)
    numbers = {"mean": float(x.mean()), "spread": float(x.std()), "low": float(low.min()), "high": float(high.max())}
    if not bool(torch.isfinite(x).all()):
        return Finding(INPUTS, "wrong", "some inputs are not finite; look at the data", numbers)
    bounded = (low >= -1) & (high <= 1) & (spread > _SMALL)
    constant = spread == 0
    strange = (mean.abs() > _FAR * spread.clamp(min=1)) | (spread > _LARGE) | (~constant & (spread < _SMALL))
    strange &= ~bounded
    if not bool(strange.any()):
        return Finding(INPUTS, "ok", f"inputs have mean {numbers['mean']:.3g}, spread {numbers['spread']:.3g}", numbers)
    at = int(strange.nonzero()[0])
    which = f"input {at}" if x.dim() == 2 else "inputs"
    sentence = (
        f"{which} {'has' if x.dim() == 2 else 'have'} mean {float(mean[at]):.3g} and spread {float(spread[at]):.3g} "
        f"(from {float(low[at]):.3g} to {float(high[at]):.3g}): subtract the training mean and divide by the spread"
    )
    return Finding(INPUTS, "warning", sentence, numbers)


def training_inputs(data: LabDataModule) -> Tensor | None:
    """Inputs of the training split as numbers, at most some thousands; None where there are no such."""
    batches = getattr(data, "batches", None)
    if batches is None or not isinstance(data.spec.inputs, TensorSpec):
        return None
    parts: list[Tensor] = []
    for batch in batches("train"):
        x = batch.x if isinstance(batch, Batch) else None
        if x is None or not x.is_floating_point():
            return None
        parts.append(x)
        if sum(map(len, parts)) >= _MOST:
            break
    return torch.cat(parts)[:_MOST]


def network_inputs(learner: Learner[Any], data: LabDataModule) -> Tensor | None:
    """What a network sees of the training split, behind its preprocessing; None where there are no numbers."""
    x = training_inputs(data)
    if x is None or not isinstance(learner, Supervised):
        return x
    with torch.no_grad():
        seen: Tensor = learner.net.preprocessing(x)
    return seen


def check_mode(learner: Learner[Any], x: Tensor | dict[str, Tensor]) -> Finding:
    """The same inputs twice, in evaluation mode with other random numbers each time: the answers must be the same."""
    if not isinstance(learner, TaskLearner | LanguageModel) and learner.data_spec.actions is None:
        return not_applicable(MODE, "a generative model draws noise whenever it is asked")
    answers = []
    for seed in range(2):
        with evaluating(learner, seed):
            try:
                answers.append(learner.answers(x))
            except UserError:
                return not_applicable(MODE, "this kind of module answers no inputs")
    if not all(_is_finite(answer.details) for answer in answers[0]):
        sentence = (
            "the answers are not finite: weights are not, or a layer takes a root or a logarithm of what has none"
        )
        return Finding(MODE, "wrong", sentence)
    if answers[0] == answers[1]:
        return Finding(MODE, "ok", "the same inputs get the same answers")
    return Finding(
        MODE,
        "wrong",
        "in evaluation mode the same inputs get different answers: dropout or other noise is on; make it depend on "
        "module.training",
    )


def probes(learner: Learner[Any], data: LabDataModule) -> Tensor | dict[str, Tensor]:
    """A few inputs: of the training split, or drawn within the bounds of what the module takes."""
    if isinstance(learner, LanguageModel):
        return torch.randint(len(learner.alphabet), (2, _PROBES), generator=torch.Generator().manual_seed(0))
    x = training_inputs(data)
    if x is not None:
        return x[:_PROBES]
    inputs = data.spec.inputs
    if isinstance(inputs, TreeSpec):  # of which random numbers are none
        return next(iter(data.batches("train"))).x[:_PROBES]  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    if isinstance(inputs, dict):
        return {name: _drawn(each, generator) for name, each in inputs.items()}
    return _drawn(inputs, generator)


def _is_finite(details: dict[str, Any]) -> bool:
    return all(_is_finite(each) if isinstance(each, dict) else math.isfinite(each) for each in details.values())


def _drawn(spec: TensorSpec, generator: torch.Generator) -> Tensor:
    """Inputs (B, ...): uniform within finite bounds, else normal."""
    shape = (_PROBES, *spec.shape)
    if not spec.dtype.is_floating_point:
        low, high = max(spec.low, 0.0), min(spec.high, 255.0)
        return torch.randint(int(low), int(high) + 1, shape, generator=generator).to(spec.dtype)
    if spec.high - spec.low < 1e6:
        return spec.low + (spec.high - spec.low) * torch.rand(shape, generator=generator, dtype=spec.dtype)
    return torch.randn(shape, generator=generator, dtype=spec.dtype)
