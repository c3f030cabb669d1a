"""Recipes of a package outside the project, importable in the workers of the tests' cluster."""

from __future__ import annotations

import time
from typing import Any, Literal

from lab.backbones import BackboneConfig
from lab.data.images import ImageData
from lab.data.spec import DataSpec
from lab.experiment import Experiment, TrackingConfig, TrainerConfig
from lab.supervised.supervised import Supervised, SupervisedConfig


def small() -> Experiment:
    """LeNet on digits for a few hundred updates."""
    return Experiment(
        name="small",
        data=ImageData(name="digits", batch_size=64, batches_per_step=10),
        module=SupervisedConfig(backbone=BackboneConfig("lenet")),
        trainer=TrainerConfig(budget=12_800, num_threads=1, checkpoint_seconds=0.5),
        tracking=TrackingConfig(mode="disabled"),
    )


class SleepyConfig(SupervisedConfig):
    """A classifier that sleeps in each chunk from `sleeps_from` samples on."""

    kind: Literal["sleepy"] = "sleepy"
    sleeps_from: int = 6000
    seconds: float = 600.0

    def build(self, spec: DataSpec) -> Sleepy:
        return Sleepy(self, spec)


class Sleepy(Supervised):
    def training_step(self, batch: Any, batch_idx: int = 0) -> Any:
        outputs = super().training_step(batch, batch_idx)
        if self.counters["samples"] > self.config.sleeps_from:  # type: ignore[attr-defined]
            time.sleep(self.config.seconds)  # type: ignore[attr-defined]
        return outputs


def sleepy() -> Experiment:
    """`small`, saved after each chunk, with chunks that take long."""
    return small().model_copy(
        update={
            "name": "sleepy",
            "module": SleepyConfig(backbone=BackboneConfig("lenet")),
            "trainer": TrainerConfig(budget=12_800, num_threads=1, checkpoint_seconds=0.001),
        }
    )
