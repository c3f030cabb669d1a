"""Recipes of autoencoders."""

from __future__ import annotations

from generative.latent.autoencoder import AutoencoderConfig
from lab.data.images import ImageData
from lab.experiment import Experiment, TrainerConfig


def digits() -> Experiment:
    """A deep autoencoder with a code of 16 numbers on the embedded 8x8 digits."""
    return _digits("autoencoder/digits", AutoencoderConfig())


def digits_denoising() -> Experiment:
    """The same with a quarter of the pixels masked in training."""
    return _digits("autoencoder/digits-denoising", AutoencoderConfig(masking=0.25))


def digits_layerwise() -> Experiment:
    """The same pretrained layer by layer for half of the budget, then fine-tuned."""
    return _digits("autoencoder/digits-layerwise", AutoencoderConfig(pretraining=0.5))


def _digits(name: str, module: AutoencoderConfig) -> Experiment:
    return Experiment(
        name=name,
        data=ImageData(name="digits", batch_size=64, batches_per_step=40),
        module=module,
        trainer=TrainerConfig(budget=300_000),
    )
