"""The learning-rate range test: which rates a learner stands (Smith 2017, Cyclical Learning Rates, section 3.3).

From the first weights on, each update has a larger rate than the one before, by the same factor. The loss falls where
the rate begins to matter, and rises where it is too large. Agents learn again and again from the same minibatches of
experience, which an agent that learned at its own rate has collected: their loss is then a function of the rate alone.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lab.config.overrides import override
from lab.data.module import LabDataModule
from lab.engine.loss import Loss
from lab.engine.updater import Updater
from lab.errors import UserError
from lab.experiment import Experiment
from lab.lightning import Callback
from lab.long_work import tell
from lab.quiet import quiet
from lab.training.devices import build_trainer
from lab.training.learner import Learner
from lab.training.train import seed_everything

Array = np.ndarray[Any, np.dtype[np.float64]]
_ALONE = ("trainer.device=cpu", "trainer.num_workers=1", "trainer.min_workers=null")
_BETA = 0.9
"""of the mean that smooths losses, over about ten updates"""
_FIRST = 10
"""updates of which there is no mean yet: neither suggestions nor divergence follow from them"""
_NO_OFFSETS = np.zeros(1)
_REPLAYED = 10
"""minibatches of experience that an agent learns from in turn: the mean is over as many"""
_PATIENCE = 20
"""times as many updates of others as are wanted, after which an updater that makes none is given up"""


class Curve(NamedTuple):
    """The losses of an updater over its rates, each before the update at its rate. N updates.

    rates, losses, smoothed: (N,) each
    configured: the rate that the experiment has
    diverged: whether it ended since the loss rose above the least one by the size of the first ones
    """

    rates: Array
    losses: Array
    smoothed: Array
    configured: float
    diverged: bool

    @property
    def suggestion(self) -> Suggestion | None:
        """What the curve suggests; None where the loss never falls."""
        return suggest(self.rates, self.smoothed)


class Suggestion(NamedTuple):
    """Where the loss falls most steeply over the rate's logarithm, and a tenth of the rate of the least loss."""

    steepest: float
    tenth_of_least: float


def range_test(experiment: Experiment, low: float, high: float, num_updates: int) -> dict[str, Curve | None]:
    """The curve of each updater by name, the others at their own rates; None of one that makes no updates at first.

    On the CPU, and a function of the experiment's seed.

    Raises UserError for rates or numbers that make no sense, and where nothing is trained by rates.
    """
    if not (0 < low < high < math.inf and 30 <= num_updates <= 100_000):
        raise UserError(
            f"the rates go from {low:g} to {high:g} in {num_updates} updates; give 0 < --low < --high, and 30 to "
            f"100,000 updates."
        )
    experiment = override(experiment, _ALONE)
    rates = np.geomspace(low, high, num_updates)
    curves: dict[str, Curve | None] = {}
    names = [""]
    for name in names:
        learner, data = _fresh(experiment)
        try:
            if not name:
                names += _testable(learner, experiment)
                continue
            curves[name] = _curve(experiment, learner, data, name, rates)
        finally:
            data.close()
    return curves


def smooth(losses: Sequence[float], beta: float = _BETA) -> Array:
    """The exponential moving average of losses (N,), without the weight of what was before the first."""
    means, mean = [], 0.0
    for i, loss in enumerate(losses, 1):
        mean = beta * mean + (1 - beta) * loss
        means.append(mean / (1 - beta**i))
    return np.array(means)


def suggest(rates: Array, smoothed: Array) -> Suggestion | None:
    """Of losses (N,) over rates (N,), the first ten left out; None where they do not fall."""
    rates, smoothed = rates[_FIRST:], smoothed[_FIRST:]
    least = int(smoothed.argmin()) if len(smoothed) else 0
    if least < 2:
        return None
    slopes = np.gradient(smoothed[: least + 1], np.log(rates[: least + 1]))
    return Suggestion(float(rates[int(slopes.argmin())]), float(rates[least] / 10))


class _Over(Exception):
    """The last rate has been tried, or the loss has diverged."""


class _Course:
    """Sets the rate of an updater before each update, and keeps its losses less `offsets`, which repeat.

    Raises _Over in the last update.
    """

    def __init__(self, updater: Updater, rates: Array, offsets: Array = _NO_OFFSETS) -> None:
        self.updater, self.rates, self.offsets = updater, rates, offsets
        self.losses: list[float] = []
        self.diverged = False
        self._least = math.inf
        self._mean = 0.0

    def curve(self) -> Curve | None:
        """What came of it; None without an update."""
        losses = np.array([loss for loss in self.losses if math.isfinite(loss)])
        if not len(losses):
            return None
        rates = self.rates[: len(losses)]
        return Curve(rates, losses, smooth(losses.tolist()), self.updater.config.lr, self.diverged)

    @contextmanager
    def run(self) -> Iterator[None]:
        """Within, updates have these rates, whatever schedules say."""
        updater = self.updater
        loss, apply, values = updater.loss, updater.apply, list[float]()

        def recorded_loss(batch: Any) -> Loss:
            result = loss(batch)
            values[:] = [float(result.value.detach())]
            return result

        def recorded_apply(gradients: list[Tensor], metrics: Any) -> None:
            apply(gradients, metrics)
            self._end_update(values[0])

        updater.loss, updater.apply = recorded_loss, recorded_apply  # type: ignore[method-assign]
        updater.set_progress = lambda progress: updater.rate  # type: ignore[method-assign]
        self._set_rate()
        try:
            with suppress(_Over):
                yield
        finally:
            updater.loss = loss
            del updater.apply, updater.set_progress

    def _end_update(self, loss: float) -> None:
        loss -= float(self.offsets[len(self.losses) % len(self.offsets)])
        self.losses.append(loss)
        num = len(self.losses)
        tell("trying rates", num, len(self.rates))
        self._mean = _BETA * self._mean + (1 - _BETA) * loss
        mean = self._mean / (1 - _BETA**num)
        self._least = min(self._least, mean)
        size = max(map(abs, self.losses[:_FIRST]))
        self.diverged = not math.isfinite(loss) or (num > _FIRST and mean > self._least + size)
        if self.diverged or num == len(self.rates):
            raise _Over
        self._set_rate()

    def _set_rate(self) -> None:
        for group in self.updater.optimizer.param_groups:
            group["lr"] = float(self.rates[len(self.losses)]) * group["factor"]


def descend(updater: Updater, batches: Sequence[Any], rates: Array) -> Curve | None:
    """The curve of an updater that takes these minibatches in turn.

    From each loss is taken by how much that of its minibatch differs from the mean at the first weights: what is left
    follows the rate.
    """
    first = np.array([float(updater.loss(batch).value.detach()) for batch in batches])
    course = _Course(updater, rates, first - first.mean())
    with course.run():
        for batch in cycle(batches):
            updater.step(batch)
    return course.curve()


def _curve(experiment: Experiment, learner: Learner[Any], data: LabDataModule, name: str, rates: Array) -> Curve | None:
    num = len(rates)
    if learner.data_spec.actions is None:
        course = _Course(learner.updaters[name], rates)
        with course.run():
            _train(experiment, learner, data, name, num)
        return course.curve()
    batches = _experience(experiment, learner, data, name, min(num, _REPLAYED))
    again, other = _fresh(experiment)
    other.close()
    return descend(again.updaters[name], batches, rates) if batches else None


def _experience(experiment: Experiment, learner: Learner[Any], data: LabDataModule, name: str, num: int) -> list[Any]:
    """The first minibatches of an updater in training at its own rate."""
    updater, batches = learner.updaters[name], list[Any]()
    step = updater.gradients

    def recorded(batch: Any) -> Any:
        batches.append(_copied(batch))
        if len(batches) == num:
            raise _Over
        return step(batch)

    updater.gradients = recorded  # type: ignore[method-assign]
    with suppress(_Over):
        _train(experiment, learner, data, name, num)
    del updater.gradients
    return batches


def _train(experiment: Experiment, learner: Learner[Any], data: LabDataModule, name: str, num: int) -> None:
    """Train until somebody raises, or an updater has made no update while it should."""
    settings = experiment.trainer.model_copy(update={"device": "cpu", "precision": "32"})
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet("lightning.pytorch", "lightning.fabric", "lightning", module="lightning"),
    ):
        data.folder = Path(folder)
        callbacks = [_GiveUp(learner.updaters[name], _PATIENCE * num)]
        build_trainer(settings, folder=Path(folder), logger=None, callbacks=callbacks).fit(learner, datamodule=data)


class _GiveUp(Callback):
    """Ends training after the budget, or so many updates, in which one updater has made none."""

    def __init__(self, updater: Updater, most: int) -> None:
        self._updater, self._most = updater, most

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        counters = pl_module.counters
        late = counters["updates"] >= self._most and not self._updater.num_updates
        trainer.should_stop = trainer.should_stop or late or counters[pl_module.counter] >= pl_module.budget


def _fresh(experiment: Experiment) -> tuple[Learner[Any], LabDataModule]:
    """A learner before its first update, the same each time, and its data."""
    seed_everything(experiment.seed)
    data = experiment.data.build(experiment.seed)
    torch.manual_seed(experiment.seed)
    learner: Learner[Any] = experiment.module.build(data.spec)
    learner.fit_to(data)
    learner.set_engine("eager")
    learner.budget = experiment.trainer.budget
    return learner, data


def _testable(learner: Learner[Any], experiment: Experiment) -> list[str]:
    """Updaters that take one step a minibatch. Raises UserError where there are none."""
    names = [name for name, updater in learner.updaters.items() if not updater.is_second_order]
    if not names:
        raise UserError(
            f"module.kind={experiment.module.kind!r} has no updates whose rate could be tried here: there are none by "
            f"a gradient, or module.optimizer.name chooses its steps by a line search."
        )
    return names


def _copied(value: Any) -> Any:
    """A minibatch with tensors of its own."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, tuple):
        parts = [_copied(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def plot(curves: dict[str, Curve], path: Path) -> None:
    """A panel for each updater: losses, smoothed losses, and the suggestions, over the rate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(curves), 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, curve) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        axes.plot(curve.rates, curve.losses, color="#3b7ddd", alpha=0.3, linewidth=1)
        axes.plot(curve.rates, curve.smoothed, color="#3b7ddd", linewidth=2, label="loss, smoothed")
        lines: list[tuple[str, float, str]] = [("configured", curve.configured, "#7f8c9b")]
        if curve.suggestion is not None:
            lines += [
                ("steepest descent", curve.suggestion.steepest, "#2ba36b"),
                ("a tenth of the least loss's rate", curve.suggestion.tenth_of_least, "#e8862e"),
            ]
        for label, rate, colour in lines:
            axes.axvline(rate, color=colour, linestyle="--", label=f"{label}: {rate:.2g}")
        low, high = float(curve.smoothed.min()), float(np.nanquantile(curve.smoothed, 0.97))
        margin = 0.1 * ((high - low) or 1.0)
        axes.set_ylim(low - margin, high + margin)
        axes.set_xscale("log")
        axes.set_xlabel(f"learning rate of {name}")
        axes.set_ylabel("loss")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, format="png")
