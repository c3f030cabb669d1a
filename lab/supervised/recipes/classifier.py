"""Recipes of classifiers."""

from __future__ import annotations

from lab.backbones import BackboneConfig
from lab.data.images import ImageData
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.experiment import Experiment, TrainerConfig
from lab.supervised.supervised import SupervisedConfig
from lab.supervised.tasks import ClassificationConfig


def digits_cnn() -> Experiment:
    """LeNet on the embedded 8x8 digits: 98 % test accuracy in 10 s on 2 cores."""
    return Experiment(
        name="classifier/digits-cnn",
        data=ImageData(name="digits", batch_size=64, batches_per_step=10),
        module=SupervisedConfig(
            task=ClassificationConfig(),
            backbone=BackboneConfig(name="lenet", dropout=0.3),
            optimizer=OptimizerConfig(lr=2e-3, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=60_000),
    )


def digits_lstm() -> Experiment:
    """An LSTM that reads the embedded digits row by row: 97 % test accuracy in 20 s on 2 cores."""
    return Experiment(
        name="classifier/digits-lstm",
        data=ImageData(name="digits", batch_size=64, batches_per_step=10),
        module=SupervisedConfig(
            task=ClassificationConfig(),
            backbone=BackboneConfig(name="lstm", hidden=128),
            optimizer=OptimizerConfig(lr=4e-3, max_grad_norm=1.0, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=120_000),
    )


def mnist_cnn() -> Experiment:
    """LeNet on MNIST from LAB_DATA."""
    return Experiment(
        name="classifier/mnist-cnn",
        data=ImageData(name="mnist", batch_size=128, batches_per_step=10, validation=1 / 12),
        module=SupervisedConfig(
            task=ClassificationConfig(),
            backbone=BackboneConfig(name="lenet", dropout=0.3),
            optimizer=OptimizerConfig(lr=2e-3, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=600_000),
    )


def fashion_cnn() -> Experiment:
    """LeNet on Fashion-MNIST from LAB_DATA: 91.7 % test accuracy (3 seeds: 91.6, 91.6, 91.8) in 3 minutes on a core."""
    return Experiment(
        name="classifier/fashion-cnn",
        data=ImageData(name="fashion-mnist", batch_size=128, batches_per_step=10, validation=1 / 12),
        module=SupervisedConfig(
            backbone=BackboneConfig(name="lenet", dropout=0.3),
            task=ClassificationConfig(),
            optimizer=OptimizerConfig(lr=2e-3, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=600_000),
    )
