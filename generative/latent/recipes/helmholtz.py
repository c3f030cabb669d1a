"""Recipes of Helmholtz machines."""

from __future__ import annotations

from generative.latent.helmholtz import HelmholtzConfig
from lab.data.images import ImageData
from lab.experiment import Experiment, TrainerConfig


def digits() -> Experiment:
    """Wake-sleep on the embedded 8x8 digits, thresholded to bits."""
    return Experiment(
        name="helmholtz/digits",
        data=ImageData(name="digits", binarize="threshold", batch_size=64, batches_per_step=40),
        module=HelmholtzConfig(),
        trainer=TrainerConfig(budget=500_000),
    )
