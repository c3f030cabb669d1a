"""Recipes of a package outside the project, importable in the workers of the tests' cluster."""

from __future__ import annotations

from lab.data.images import ImageData
from lab.experiment import Experiment, TrackingConfig, TrainerConfig
from lab.supervised.classifier import ClassifierConfig


def small() -> Experiment:
    """LeNet on digits for a few hundred updates."""
    return Experiment(
        name="small",
        data=ImageData(name="digits", batch_size=64, batches_per_step=10),
        module=ClassifierConfig(),
        trainer=TrainerConfig(budget=12_800, num_threads=1, checkpoint_seconds=0.5),
        tracking=TrackingConfig(mode="disabled"),
    )
