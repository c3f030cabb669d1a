"""Recipes of VAEs with two stochastic layers."""

from __future__ import annotations

from generative.decoders import MlpDecoder, ResNetDecoder
from generative.latent.hierarchical_vae import HierarchicalVAEConfig
from lab.backbones import BackboneConfig
from lab.data.images import ImageData
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.experiment import Experiment, TrainerConfig


def digits() -> Experiment:
    """Two stochastic layers on the embedded 8x8 digits."""
    return Experiment(
        name="hierarchical-vae/digits",
        data=ImageData(name="digits", batch_size=64, batches_per_step=20),
        module=HierarchicalVAEConfig(
            backbone=BackboneConfig(name="mlp", hidden=(256, 256)),
            decoder=MlpDecoder(hidden=(256, 256)),
            latents=12,
            top_latents=6,
            likelihood="logistic",
            beta=1.3,
            beta_warmup=0.2,
            optimizer=OptimizerConfig(lr=1e-3, max_grad_norm=100.0, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=400_000, eval_period=40_000),
    )


def mnist_static() -> Experiment:
    """The two-layer network of the IWAE paper (100 and 50 latents) with 5 samples, static binarized MNIST, LAB_DATA."""
    return Experiment(
        name="hierarchical-vae/mnist-static",
        data=ImageData(name="binarized-mnist", batch_size=100, batches_per_step=10),
        module=HierarchicalVAEConfig(
            backbone=BackboneConfig(name="mlp", hidden=(200, 200), activation="tanh"),
            decoder=MlpDecoder(hidden=(200, 200), activation="tanh"),
            objective="iwae",
            samples=5,
            optimizer=OptimizerConfig(lr=1e-3, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=10_000_000, eval_period=500_000),
    )


def mnist_static_conv() -> Experiment:
    """Two stochastic layers between residual networks, static binarized MNIST, for a GPU.

    Not run to its end: one of its 400 epochs, 21 minutes of one core with trainer.precision=bf16,
    trainer.budget=50_000, data.batch_size=16 and data.batches_per_step=20, had 127.8 on validation (k=5), half of it
    138.9.
    """
    return Experiment(
        name="hierarchical-vae/mnist-static-conv",
        data=ImageData(name="binarized-mnist", batch_size=128, batches_per_step=50),
        module=HierarchicalVAEConfig(
            backbone=BackboneConfig(name="resnet", channels=(32, 64, 128), blocks=2, hidden=256),
            decoder=ResNetDecoder(channels=(128, 64), norm="group"),
            latents=64,
            top_latents=32,
            hidden=(256, 256),
            objective="iwae",
            samples=5,
            optimizer=OptimizerConfig(lr=1e-3, max_grad_norm=100.0, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=20_000_000, eval_period=1_000_000),
    )
