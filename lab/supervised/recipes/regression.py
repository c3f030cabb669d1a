"""Recipes of regression."""

from __future__ import annotations

from lab.backbones import BackboneConfig
from lab.data.tables import TableData
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.experiment import Experiment, TrainerConfig
from lab.supervised.supervised import SupervisedConfig
from lab.supervised.tasks.regression import RegressionConfig


def diabetes() -> Experiment:
    """An MLP on the table of diabetes: R2 0.42 (test, mean of 8 splits; ridge regression 0.42) in 2 s on one core."""
    return Experiment(
        name="regression/diabetes",
        data=TableData(name="diabetes", batch_size=32, batches_per_step=30),
        module=SupervisedConfig(
            backbone=BackboneConfig(name="mlp", hidden=(16,)),
            task=RegressionConfig(),
            optimizer=OptimizerConfig(name="adamw", lr=3e-3, weight_decay=0.1, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=6_000),
    )
