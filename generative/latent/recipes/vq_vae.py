"""Recipes of VQ-VAEs, and of the priors over their codes."""

from __future__ import annotations

from generative.autoregressive.pixelcnn import PixelCNNConfig
from generative.decoders import ResNetDecoder
from generative.latent.code_data import CodeData
from generative.latent.vq_vae import VQVAEConfig
from lab.backbones import BackboneConfig
from lab.data.images import ImageData
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.experiment import Experiment, TrainerConfig


def digits() -> Experiment:
    """Embedded 8x8 digits as 4x4 grids of 32 codes, half a minute on a core; vq-vae/digits-prior learns the codes."""
    return Experiment(
        name="vq-vae/digits",
        data=ImageData(name="digits", batch_size=64, batches_per_step=20),
        module=VQVAEConfig(
            backbone=BackboneConfig(name="dcgan", channels=(64,), flatten=False),
            decoder=ResNetDecoder(channels=(64,), norm="group"),
            num_codes=32,
            code_size=8,
            likelihood="logistic",
            optimizer=OptimizerConfig(lr=2e-3, max_grad_norm=100.0, schedule=ScheduleConfig(name="cosine")),
        ),
        trainer=TrainerConfig(budget=60_000, eval_period=10_000),
    )


def mnist() -> Experiment:
    """MNIST from LAB_DATA as 7x7 grids of 128 codes, for vq-vae/mnist-prior: squared error 2.4 in 1.2 core-minutes.

    On validation images; all 128 codes are in use.
    """
    return Experiment(
        name="vq-vae/mnist",
        data=ImageData(name="mnist", batch_size=64, batches_per_step=10, validation=1 / 12),
        module=VQVAEConfig(
            optimizer=OptimizerConfig(lr=2e-3, max_grad_norm=100.0, schedule=ScheduleConfig(name="cosine"))
        ),
        trainer=TrainerConfig(budget=150_000, eval_period=30_000),
    )


def digits_prior() -> Experiment:
    """A PixelCNN over the codes of runs/vq-vae-digits, by class: Frechet ratio 2.0 after half a minute on a core.

    The ratio is that of a LeNet trained on that machine, not of the lab's own.

    lab train vq-vae/digits --out runs/vq-vae-digits     first
    """
    return _prior("digits", levels=32, channels=32, layers=4, budget=40_000)


def mnist_prior() -> Experiment:
    """A PixelCNN over the codes of runs/vq-vae-mnist, by class: 2.22 bits a code (test) after 8 minutes of a core.

    Frechet ratio of 500 samples: 0.9, no farther from test images than as many training images are (by a LeNet trained
    on that machine, not the lab's own).

    lab train vq-vae/mnist --out runs/vq-vae-mnist       first
    """
    return _prior("mnist", levels=128, channels=48, layers=6, budget=300_000)


def _prior(name: str, *, levels: int, channels: int, layers: int, budget: int) -> Experiment:
    backbone = BackboneConfig(name="symbol_pixelcnn", levels=levels, channels=channels, layers=layers, first_kernel=3)
    return Experiment(
        name=f"vq-vae/{name}-prior",
        data=CodeData(run=f"runs/vq-vae-{name}"),
        module=PixelCNNConfig(
            backbone=backbone,
            hidden=64,
            conditional=True,
            optimizer=OptimizerConfig(lr=2e-3, max_grad_norm=1.0, schedule=ScheduleConfig(name="cosine", warmup=0.02)),
        ),
        trainer=TrainerConfig(budget=budget, eval_period=budget // 5),
    )
