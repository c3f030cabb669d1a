"""A few updates of a learner as in training, and what each of its updaters did in them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.data.module import LabDataModule
from lab.engine.loss import Loss
from lab.engine.updater import Updater
from lab.experiment import Experiment
from lab.lightning import Callback
from lab.quiet import quiet
from lab.training.devices import build_trainer
from lab.training.health.updates import relative_changes
from lab.training.learner import Learner

NUM_UPDATES = 20
_SECONDS = 6.0
"""after which a warm-up ends with as many updates as there were"""


@dataclass
class Record:
    """What one updater did.

    batch: the last minibatch of its loss
    given, counts: what `Learner.update` was given then, and how many updates each updater had made before
    next_given: the same of the update that is under way
    unused: names of parameters that the first loss does not depend on
    largest: the largest absolute gradient of each parameter tensor over all updates
    ratios: of each update, |change| / |weights| of each parameter tensor at the full learning rate; nan for zeros
    """

    names: list[str]
    shapes: list[torch.Size]
    rate: float
    batch: Any = None
    given: Any = None
    counts: dict[str, int] = field(default_factory=dict)
    next_given: tuple[Any, dict[str, int]] = (None, {})
    losses: list[float] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    largest: Tensor = field(default_factory=lambda: torch.zeros(0))
    ratios: list[Tensor] = field(default_factory=list)


@dataclass
class WarmUp:
    """A learner after its first updates, and the records of its updaters that made some, by name."""

    learner: Learner[Any]
    records: dict[str, Record]


class _Enough(Exception):
    """The updates that were wanted have been made."""


def warm_up(
    experiment: Experiment, data: LabDataModule, learner: Learner[Any], num_updates: int = NUM_UPDATES
) -> WarmUp:
    """Train `learner` on the CPU until each updater has made `num_updates` updates, or for some seconds."""
    if not learner.updaters:
        return WarmUp(learner, {})
    learner.set_engine("eager")
    learner.budget = experiment.trainer.budget
    settings = experiment.trainer.model_copy(update={"device": "cpu", "precision": "32"})
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet("lightning.pytorch", "lightning.fabric", "lightning", module="lightning"),
        _recording(learner, num_updates) as records,
    ):
        data.folder = Path(folder)
        trainer = build_trainer(settings, folder=Path(folder), logger=None, callbacks=[_Clock()])
        with suppress(_Enough):
            trainer.fit(learner, datamodule=data)
    return WarmUp(learner, {name: record for name, record in records.items() if record.losses})


class _Clock(Callback):
    """Ends training between two chunks when the time is over."""

    def __init__(self) -> None:
        self._end = time.perf_counter() + _SECONDS

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or time.perf_counter() > self._end


@contextmanager
def _recording(learner: Learner[Any], num_updates: int) -> Iterator[dict[str, Record]]:
    """Record what the updaters do within. Raises _Enough within an update, once it is done."""
    records = {
        name: Record(updater.names, [p.shape for p in updater.parameters], updater.config.lr)
        for name, updater in learner.updaters.items()
    }
    end, update, originals = time.perf_counter() + _SECONDS, learner.update, {}

    def recorded_update(batch: Any) -> Any:
        counts = {name: updater.num_updates for name, updater in learner.updaters.items()}
        for record in records.values():
            record.next_given = batch, counts
        return update(batch)

    def end_if_enough() -> None:
        made = [len(record.losses) for record in records.values()]
        late = time.perf_counter() > end or max(made) >= 10 * num_updates
        if min(made) >= (1 if late else num_updates):
            raise _Enough

    for name, updater in learner.updaters.items():
        originals[name] = updater.loss
        _watch(updater, records[name], end_if_enough)
    learner.update = recorded_update  # type: ignore[method-assign]
    try:
        yield records
    finally:
        learner.__dict__.pop("update", None)
        for name, updater in learner.updaters.items():
            updater.loss = originals[name]
            del updater.apply


def _watch(updater: Updater, record: Record, after_update: Callable[[], None]) -> None:
    """Record each loss and each change of the parameters."""
    loss, apply = updater.loss, updater.apply

    def recorded_loss(batch: Any) -> Loss:
        result = loss(batch)
        record.batch, (record.given, record.counts) = batch, record.next_given
        if not record.losses:
            gradients = torch.autograd.grad(result.value, updater.parameters, allow_unused=True, retain_graph=True)
            record.unused = [name for name, g in zip(updater.names, gradients, strict=True) if g is None]
        record.losses.append(float(result.value.detach()))
        return result

    def recorded_apply(gradients: list[Tensor], metrics: Any) -> None:
        largest = torch.stack([g.detach().abs().max() for g in gradients]).double()
        record.largest = torch.maximum(record.largest, largest) if len(record.largest) else largest
        before = [p.detach().clone() for p in updater.parameters]
        apply(gradients, metrics)
        if updater.rate:
            factor = record.rate / updater.rate
            record.ratios.append(factor * relative_changes(before, updater.parameters).double())
        after_update()

    updater.loss, updater.apply = recorded_loss, recorded_apply  # type: ignore[method-assign]
