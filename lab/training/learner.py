"""Learner: the base of every LightningModule of the lab.

One `training_step` works through a chunk (many minibatches, or many collect-and-update rounds), counts what it did, and
returns its metrics once. Evaluation, checkpoints, logging and stopping are the loop's work and follow the counters.

Under a plain `lightning.pytorch.Trainer(max_steps=...)` a step is a chunk, and schedules follow the steps.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from lab.backbones.trunks import Trunk, trunks_of
from lab.data.module import LabDataModule
from lab.data.spec import DataSpec
from lab.engine.averages import Average, renew_statistics
from lab.engine.loss import LossFunction, Metrics
from lab.engine.optimizers import OptimizerConfig
from lab.engine.updater import Updater
from lab.errors import UserError
from lab.experiment import AverageConfig, ModuleConfig
from lab.export import Exportable
from lab.lightning import LightningModule
from lab.pictures import Image
from lab.ranks import ranks
from lab.training.answer import Answer

log = logging.getLogger("lab")

StepMetrics = dict[str, float | Tensor]
ConfigT = TypeVar("ConfigT", bound=ModuleConfig)


class Monitor(NamedTuple):
    """The evaluation metric that decides which checkpoint is best."""

    metric: str
    mode: Literal["max", "min"]

    def better(self, value: float, than: float | None) -> bool:
        """Whether `value` is at least as good as the best so far: of two alike, the later one has learned longer.

        What is not finite is never the best.
        """
        if not math.isfinite(value):
            return False
        return than is None or (value >= than if self.mode == "max" else value <= than)


class Learner(LightningModule, Generic[ConfigT]):
    """Subclasses build networks and updaters in `__init__`, and give `evaluate`; most have one updater, `self.updater`.

    What they do with a minibatch of several updaters they say in `update`; with chunks that are no minibatches, in
    `training_step`.
    """

    automatic_optimization = False

    counter: ClassVar[Literal["env_steps", "samples"]] = "samples"
    """what the budget and all periods count"""
    num_threads: int | None = None
    """torch threads that training is quickest with, where the experiment does not say; None: as many as torch takes"""
    monitor: ClassVar[Monitor]
    auto_engine: ClassVar[Literal["eager", "traced"]] = "eager"
    """the update engine that `trainer.engine=auto` takes"""
    engines: ClassVar[tuple[str, ...]] = ("eager", "traced")
    """those that can be used; a loss that branches, or whose inputs carry a gradient, cannot be recorded"""
    budget: int | None = None
    """what the counter counts up to, where a loop has said so"""
    rank_state: ClassVar[dict[str, int | None]] = {}
    """entries of `train_state` that each of several workers has of its own, with the dimension along which theirs lie
    side by side; None where another number of workers cannot go on with them"""

    on_progress: Callable[[float, float], None] | None = None
    """called before an update with the progress that its schedules have, and the exact count, of all ranks"""

    updater: Updater

    def __init__(self, config: ConfigT, spec: DataSpec) -> None:
        super().__init__()
        self.config: ConfigT = config
        self.data_spec = spec
        self.counters: dict[str, int] = {self.counter: 0, "updates": 0}
        self.updaters: dict[str, Updater] = {}
        self._counted_before = 0
        self._warned: set[str] = set()

    def training_step(self, chunk: Any, batch_idx: int = 0) -> StepMetrics:
        """Work through one chunk of minibatches, count samples and updates, and return the means of the metrics."""
        rows = []
        for batch in chunk:
            num = self.num_samples(batch)
            self.follow_schedules(num / 2)
            rows.append(self.update(batch))
            self.counters["samples"] += num
            self.counters["updates"] += 1
        return {**means(rows), **self.rates()}

    def update(self, batch: Any) -> Metrics:
        """Learn from one minibatch; returns metrics, detached scalars."""
        metrics, _ = self.updater.step(batch)
        return metrics

    def num_samples(self, batch: Any) -> int:
        """How many samples a minibatch counts: by default the rows of its first tensor."""
        return len(batch[0])

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        """Metrics named `eval/...` on a split, or over greedy episodes; called in eval mode without gradients."""
        raise NotImplementedError

    def training_score(self, sample: Any) -> tuple[Monitor, float] | None:
        """A metric that `evaluate` gives too, of training samples; None where there is none that is cheap.

        Called in eval mode without gradients, with what `LabDataModule.training_sample` gives.
        """
        return None

    def answers(self, x: Any) -> list[Answer]:
        """What is said of each of several inputs (B, ...) by `lab predict`; in eval mode without gradients.

        Raises UserError where a module answers nothing, or cannot answer this.
        """
        raise UserError(
            f"module.kind={self.config.kind!r} answers no inputs; lab predict is for supervised models, language "
            f"models, models of images with a likelihood, and agents."
        )

    def table(self, data: LabDataModule, split: Literal["val", "test"]) -> dict[str, dict[str, float]]:
        """What is told of each class (label, value) of a split beside the metrics: numbers by class and name."""
        return {}

    def pictures(self, data: LabDataModule) -> dict[str, Image]:
        """Images (H, W) or (H, W, 3) by name that show what the module does now; saved at each evaluation."""
        return {}

    def film(self, data: LabDataModule, folder: Path) -> Path | None:
        """A film (.mp4) written into `folder` when the run is complete, or None; tracked and shown in reports."""
        return None

    def exportable(self, data: LabDataModule) -> Exportable | None:
        """What `lab export` writes: a network of tensors in, tensors out; None where there is no such."""
        return None

    def add_updater(self, name: str, module: nn.Module, loss: LossFunction, config: OptimizerConfig) -> Updater:
        """An updater of `module`'s parameters that is saved, restored and scheduled with the run."""
        self.updaters[name] = Updater(module, loss, config)
        return self.updaters[name]

    def descended(self, name: str) -> LossFunction | None:
        """The function of a minibatch whose gradient the updater of this name follows; `lab check` compares them.

        None where it is no function's gradient, as with straight-through estimators.
        """
        return self.updaters[name].loss

    def set_engine(self, engine: Literal["auto", "eager", "traced"]) -> None:
        """Choose how updates run. Raises UserError when this module cannot run so."""
        chosen = self.auto_engine if engine == "auto" else engine
        if chosen not in self.engines:
            choices = ", ".join(("auto", *self.engines))
            raise UserError(f"trainer.engine={engine!r} does not fit this kind of module. Valid choices: {choices}.")
        for updater in self.updaters.values():
            updater.set_engine("eager" if engine == "auto" and updater.is_second_order else chosen)

    def set_average(self, config: AverageConfig | None) -> None:
        """Average the weights of every updater, or none. Raises UserError when that does not fit this module."""
        if config is None:
            return
        if not self.updaters:
            raise UserError(
                f"module.kind={self.config.kind!r} has no updates whose weights trainer.average could take."
            )
        for updater in self.updaters.values():
            updater.set_average(config)
        if config.name == "swa" and self._averaged_batch_norms() and type(self).pass_on is Learner.pass_on:
            raise UserError(
                f"trainer.average='swa' makes statistics of batch norms anew from training data, which "
                f"module.kind={self.config.kind!r} does not pass through them; take ema, or a network without them."
            )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, weights are their averages, where some are kept."""
        with ExitStack() as stack:
            for average in self.averages():
                stack.enter_context(average.applied())
            yield

    def averages(self) -> list[Average]:
        """Those that updaters keep."""
        return [updater.average for updater in self.updaters.values() if updater.average is not None]

    def renew_statistics(self, data: LabDataModule) -> None:
        """After swa, make the statistics of batch norms anew by the averaged weights; called in eval mode."""
        layers = self._averaged_batch_norms()
        if layers and any(average.config.name == "swa" and average.num_averaged for average in self.averages()):
            batches = data.batches("train")  # type: ignore[attr-defined]
            renew_statistics(layers, (self.pass_on(batch) for batch in batches))
            for average in self.averages():
                average.keep_statistics()

    def pass_on(self, batch: Any) -> Any:
        """Send a training minibatch through all networks that evaluation uses; their outputs are not looked at."""
        raise NotImplementedError

    def _averaged_batch_norms(self) -> list[Any]:
        return list(dict.fromkeys(layer for average in self.averages() for layer in average.batch_norms))

    def take_averages(self, train: dict[str, Any]) -> None:
        """Set the weights to the averages that a `train_state` holds, as far as this module averages."""
        for name, updater in self.updaters.items():
            if updater.average is not None and "average" in train["updaters"].get(name, {}):
                updater.average.load_state_dict(train["updaters"][name]["average"])
                updater.average.take()

    def set_progress(self, progress: float) -> None:
        """Called before each chunk with the share of the budget that is used; sets the learning rates."""
        for updater in self.updaters.values():
            updater.set_progress(progress)

    @property
    def follows_evaluations(self) -> bool:
        """Whether a schedule waits for `follow_evaluation`."""
        return any(updater.plateau is not None for updater in self.updaters.values())

    def follow_evaluation(self, value: float) -> None:
        """Called after each evaluation with the monitored metric, the same on all ranks; for plateau schedules."""
        for updater in self.updaters.values():
            updater.follow_evaluation(value, self.monitor.mode)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to learn, whatever the budget says; asked before training and after each chunk."""
        return False

    def fit_to(self, data: LabDataModule) -> None:
        """Called once, before a run that begins: take from the training split what is not learned by updates."""

    def on_started_from(self) -> None:
        """Called when weights of another run have been taken, before training: what follows them is set to them."""

    def trunks(self) -> list[Trunk]:
        """What backbones of other runs may begin with (module.backbone.from_run): by default every backbone."""
        return trunks_of(self)

    def follow_schedules(self, ahead: float) -> None:
        """Set the progress within a chunk, to where the counter is `ahead` further on; called before updates."""
        if self.budget is not None:
            own = self.counters[self.counter] - self._counted_before
            progress = min((self._counted_before + self.of_all_ranks(own + ahead)) / self.budget, 1.0)
            if self.on_progress is not None:
                self.on_progress(progress, self._counted_before + self.of_all_ranks(own))
            self.set_progress(progress)

    def of_all_ranks(self, own: float) -> float:
        """What all ranks have counted in this chunk, of what this one has; all have equal shares of the samples."""
        return own * ranks.num_ranks()

    def rates(self) -> StepMetrics:
        """The learning rates now: `charts/learning_rate`, of several updaters with their names."""
        if len(self.updaters) == 1:
            return {"charts/learning_rate": self.updater.rate}
        return {f"charts/learning_rate_{name}": updater.rate for name, updater in self.updaters.items()}

    def warn_once(self, state: str, sentence: str) -> None:
        """Tell the user, once a run, of a state in which nothing good is learned; `state` names it."""
        if state not in self._warned:
            self._warned.add(state)
            log.warning("%s", sentence)

    def configure_optimizers(self) -> None:
        """None: the updaters own the optimizers."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Where a plain Trainer counts steps, schedules follow them."""
        self._counted_before = self.counters[self.counter]
        if self.trainer.max_steps > 0:
            self.set_progress(self.trainer.global_step / self.trainer.max_steps)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count a step: the trainer counts those of its own optimizers only."""
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.increment_completed()

    def train_state(self) -> dict[str, Any]:
        """What a resumed run needs beside the parameters: counters, optimizers, and what subclasses add."""
        return {
            "counters": dict(self.counters),
            "updaters": {name: updater.state_dict() for name, updater in self.updaters.items()},
        }

    def load_train_state(self, state: dict[str, Any]) -> None:
        """Restore what `train_state` gave."""
        self.counters.update(state["counters"])
        for name, updater in self.updaters.items():
            updater.load_state_dict(state["updaters"][name])


def means(rows: list[dict[str, Tensor]], prefix: str = "losses/") -> StepMetrics:
    """The mean of each metric over the updates that have it, as scalar tensors, with one stack a metric."""
    keys = dict.fromkeys(key for row in rows for key in row)
    with torch.no_grad():
        return {prefix + key: torch.stack([row[key] for row in rows if key in row]).mean() for key in keys}


@torch.no_grad()
def split_means(batches: Iterable[Any], per_sample: Callable[[Any], dict[str, Tensor]]) -> dict[str, float]:
    """The means over all samples of a split.

    Args:
        per_sample: a minibatch -> numbers of each of its samples, by name, (B,) each; all have the same names.
    """
    sums: dict[str, float] = {}
    total = 0
    for batch in batches:
        values = per_sample(batch)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + float(value.double().sum())
        total += len(next(iter(values.values())))
    return {name: value / total for name, value in sums.items()}
