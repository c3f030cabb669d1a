"""Learner: the base of every LightningModule of the lab.

One `training_step` works through a chunk (many minibatches, or many collect-and-update rounds), counts what it did, and
returns its metrics once. Evaluation, checkpoints, logging and stopping are callbacks' work and follow the counters.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lab.data.module import LabDataModule
from lab.data.spec import DataSpec
from lab.engine.optimizers import OptimizerConfig
from lab.engine.updater import LossFunction, Updater
from lab.experiment import ModuleConfig

if TYPE_CHECKING:
    from lab.export import Exportable

Image = np.ndarray[Any, np.dtype[np.uint8]]
StepMetrics = dict[str, float | Tensor]


class Monitor(NamedTuple):
    """The evaluation metric that decides which checkpoint is best."""

    metric: str
    mode: Literal["max", "min"]

    def better(self, value: float, than: float | None) -> bool:
        """Whether `value` is at least as good as the best so far: of two alike, the later one has learned longer."""
        return than is None or (value >= than if self.mode == "max" else value <= than)


class Learner(LightningModule):
    """Subclasses build networks and updaters in `__init__`, and give `training_step` and `evaluate`."""

    automatic_optimization = False

    counter: ClassVar[Literal["env_steps", "samples"]] = "samples"
    """what the budget and all periods count"""
    num_threads: int | None = None
    """torch threads that training is quickest with, where the experiment does not say; None: as many as torch takes"""
    monitor: ClassVar[Monitor]
    auto_engine: ClassVar[Literal["eager", "traced"]] = "eager"
    """the update engine that `trainer.engine=auto` takes"""
    rank_state: ClassVar[dict[str, int | None]] = {}
    """entries of `train_state` that each of several workers has of its own, with the dimension along which theirs lie
    side by side; None where another number of workers cannot go on with them"""

    def __init__(self, config: ModuleConfig, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.data_spec = config, spec
        self.counters: dict[str, int] = {self.counter: 0, "updates": 0}
        self.updaters: dict[str, Updater] = {}

    def training_step(self, chunk: Any, batch_idx: int = 0) -> StepMetrics:
        """Work through one chunk, advance `self.counters`, and return metrics (floats or scalar tensors)."""
        raise NotImplementedError

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        """Metrics named `eval/...` on a split, or over greedy episodes; called in eval mode without gradients."""
        raise NotImplementedError

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

    def set_engine(self, engine: Literal["auto", "eager", "traced"]) -> None:
        """Choose how updates run."""
        for updater in self.updaters.values():
            updater.engine = self.auto_engine if engine == "auto" else engine

    def set_progress(self, progress: float) -> None:
        """Called before each chunk with the share of the budget that is used; sets the learning rates."""
        for updater in self.updaters.values():
            updater.set_progress(progress)

    def configure_optimizers(self) -> None:
        """None: the updaters own the optimizers."""

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
