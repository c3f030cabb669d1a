"""Checks of supervised models: the first loss, twenty samples learned by heart, one softmax and no more.

K classes, N samples.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from lab.backbones.features import Places
from lab.backbones.layers import DropConnect, DropPath
from lab.data.resident import Batch
from lab.diagnostics.finding import Finding, Verdict, not_applicable
from lab.diagnostics.warm_up import WarmUp
from lab.supervised.language_model import LanguageModel
from lab.supervised.supervised import Supervised, joined
from lab.supervised.tasks import Task
from lab.supervised.tasks.classification import Classification
from lab.supervised.tasks.multi_label import MultiLabels
from lab.supervised.tasks.regression import Regression
from lab.training.learner import Learner

FIRST_LOSS, BY_HEART, SOFTMAX = "initial loss", "twenty samples by heart", "one softmax"
NUM_BY_HEART = 20
_NEAR, _FAR = 1.5, 3.0
"""factors between the first loss and what is expected, up to which it is fine, and from which it is wrong"""
NUM_SAMPLES = 500
_MOST_UPDATES, _FEW_UPDATES = 3_000, 500
_SECONDS, _MOST_SECONDS = 6.0, 20.0
"""after the first, training ends once there were a few updates; after the second, however few there were"""
_ROUND = 20
"""updates between two looks at the score"""
_R2 = 0.99
_DROPOUTS = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(DropConnect, DropPath),
)
_WHY = "only supervised models that learn by updates have a loss whose first value is known"


def split_sample(data: Any, num: int, filling: int = 0) -> Batch:
    """Samples of the training split as they are, without random changes, drawn from its first thousands; shorter
    targets are filled."""
    x, y, count = [], [], 0
    for batch in data.batches("train"):
        x.append(batch.x)
        y.append(batch.y)
        count += len(batch.y)
        if count >= 10_000:
            break
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:num]
    return Batch(joined(x)[order], joined(y, filling)[order])


def expected_loss(task: Task, outputs: Tensor | Places, y: Tensor) -> float:
    """The loss where outputs are all alike: in closed form for classes and labels; else that of outputs of 0."""
    loss = getattr(getattr(task, "config", None), "loss", None)
    if isinstance(task, Classification) and task.weight is None:
        num = task.target.num
        known = {"hinge": num - 1.0, "squared_hinge": num - 1.0, "squared": 1 - 1 / num, "cross_entropy": math.log(num)}
        if loss in known:
            return known[loss]
    if isinstance(task, MultiLabels):
        return {"logistic": math.log(2), "hinge": 1.0, "squared_hinge": 1.0}[task.config.loss]
    if isinstance(outputs, Places):
        return float(task.loss(outputs._replace(values=torch.zeros_like(outputs.values)), y).value)
    return float(task.loss(torch.zeros_like(outputs), y).value)


@torch.no_grad()
def check_first_loss(learner: Learner[Any], batch: Batch | None) -> Finding:
    """The loss before training against what equal outputs have: ln K of cross-entropy, the variance of targets."""
    if not isinstance(learner, Supervised) or batch is None:
        return not_applicable(FIRST_LOSS, _WHY)
    learner.train()
    outputs = learner.net(batch.x)
    value = float(learner.task.loss(outputs, batch.y).value)
    return judge_first_loss(value, expected_loss(learner.task, outputs, batch.y))


def first_loss_of_text(warm_up: WarmUp) -> Finding:
    """The first cross-entropy of a language model against ln A, of A characters."""
    assert isinstance(warm_up.learner, LanguageModel)
    (record,) = warm_up.records.values()
    return judge_first_loss(record.losses[0], math.log(len(warm_up.learner.alphabet)))


def judge_first_loss(value: float, expected: float) -> Finding:
    """A warning where they are apart by a half, wrong where one is three times the other."""
    numbers = {"loss": value, "expected": expected}
    if expected <= 0:
        return not_applicable(FIRST_LOSS, "there is no loss above 0 to expect")
    ratio = max(value, 1e-30) / expected
    off = max(ratio, 1 / ratio) if math.isfinite(ratio) else math.inf
    told = f"the loss of the untrained network is {value:.4g}, {expected:.4g} is expected"
    if off <= _NEAR:
        return Finding(FIRST_LOSS, "ok", told, numbers)
    verdict: Verdict = "wrong" if off > _FAR else "warning"
    hint = "inputs or first weights are too large (module.backbone.init)" if ratio > 1 else "the target leaks into it"
    return Finding(FIRST_LOSS, verdict, f"{told}: {hint}, or the loss is scaled", numbers)


@torch.no_grad()
def check_softmax(learner: Learner[Any], batch: Batch | None) -> Finding:
    """Outputs that go into a softmax, or of several labels into a sigmoid, must not be probabilities already."""
    if not isinstance(learner, Supervised) or batch is None:
        return not_applicable(SOFTMAX, "no supervised model")
    learner.eval()
    outputs = learner.net(batch.x)
    outputs = outputs.values[outputs.mask] if isinstance(outputs, Places) else outputs
    learner.train()
    within = bool(((outputs >= 0) & (outputs <= 1)).all())
    if isinstance(learner.task, Classification):
        twice, name = within and bool(((outputs.sum(1) - 1).abs() < 1e-3).all()), "softmax"
    elif isinstance(learner.task, MultiLabels) and learner.task.config.loss == "logistic":
        twice, name = within, "sigmoid"
    else:
        return not_applicable(SOFTMAX, "the loss takes no probabilities")
    if twice:
        sentence = f"the network's outputs are probabilities already: leave its {name} out, the loss has one"
        return Finding(SOFTMAX, "wrong", sentence)
    return Finding(SOFTMAX, "ok", "outputs are scores, not probabilities")


def check_by_heart(learner: Learner[Any], batch: Batch | None) -> Finding:
    """Train a fresh network, without dropout, on twenty samples: it must learn them by heart."""
    if not isinstance(learner, Supervised) or batch is None:
        return not_applicable(BY_HEART, "only supervised models that learn by updates have targets to learn by heart")
    if math.isnan(_score(learner, batch)):
        return not_applicable(BY_HEART, "the task has no accuracy in its training metrics")
    _without_dropout(learner)
    learner.train()
    updater = learner.updater
    updater.set_progress(updater.config.schedule.warmup)
    start, score, loss, updates, seconds = time.perf_counter(), -math.inf, math.nan, 0, 0.0
    while updates < _MOST_UPDATES and score < 1 and seconds < (_SECONDS if updates >= _FEW_UPDATES else _MOST_SECONDS):
        metrics, _ = updater.step(batch)
        updates, seconds = updates + 1, time.perf_counter() - start
        if updates % _ROUND == 0:
            loss, score = float(next(iter(metrics.values()))), _score(learner, batch)
    name = "R2" if isinstance(learner.task, Regression) else "accuracy"
    numbers = {"loss": loss, name.lower(): score, "updates": float(updates), "samples": float(len(batch.y))}
    if score >= 1:
        told = f"{len(batch.y)} samples are learned after {updates} updates"
        return Finding(BY_HEART, "ok", told, numbers)
    if updates < _FEW_UPDATES:
        return not_applicable(BY_HEART, f"{updates} updates take {seconds:.0f} s here, too long to tell")
    return Finding(BY_HEART, "wrong", _unlearned(numbers, name), numbers)


def _unlearned(numbers: dict[str, float], name: str) -> str:
    return (
        f"{numbers['samples']:.0f} training samples are not learned in {numbers['updates']:.0f} updates ({name} "
        f"{numbers[name.lower()]:.3g}, loss {numbers['loss']:.3g}): look whether labels belong to their inputs, try "
        f"another rate, less regularisation, or a larger network"
    )


@torch.no_grad()
def _score(learner: Supervised, batch: Batch) -> float:
    """1 where all is learned: the accuracy, or R2 of numbers, of which .99 counts as all."""
    outputs = learner.net(batch.x)
    if isinstance(learner.task, Regression):
        predictions, y = learner.task.predictions(outputs), batch.y.double()
        error = (predictions - y).square().sum(0)
        r2 = float((1 - error / (y - y.mean(0)).square().sum(0).clamp(min=1e-12)).mean())
        return 1.0 if r2 > _R2 else r2
    return float(learner.task.loss(outputs, batch.y).metrics.get("accuracy", math.nan))


def _without_dropout(module: nn.Module) -> None:
    """Switch dropout off, whatever the mode."""
    for layer in module.modules():
        if isinstance(layer, _DROPOUTS):
            layer.p = 0.0
        elif isinstance(layer, nn.RNNBase):
            layer.dropout = 0.0
