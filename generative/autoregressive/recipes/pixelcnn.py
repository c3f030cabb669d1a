"""Recipes of the published autoregressive models, for a GPU, and what two cores can do of them."""

from __future__ import annotations

from typing import Literal

from generative.autoregressive.pixelcnn import PixelCNNConfig
from lab.backbones import BackboneConfig
from lab.data.images import ImageData
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.experiment import Experiment, TrainerConfig

FAMILY = "pixelcnn"


def binarized_mnist_small() -> Experiment:
    """A 16-channel Gated PixelCNN on static binarized MNIST: 82.43 nats (test) after 19 minutes of one core.

    Validation after 50,000, 100,000, 150,000, 200,000, 250,000 and 300,000 samples: 86.06, 84.91, 83.92, 83.53, 83.10,
    82.85; 64,113 parameters. The first kernel works on the image alone and is cheap: 21 instead of 7 lets the net see
    21 rows instead of 14, costs 4 % of its speed, and was worth 1.6 nats (training) after 20,000 samples.
    """
    return _binarized_mnist(
        "binarized-mnist-small",
        BackboneConfig(name="gated_pixelcnn", channels=16, layers=6, first_kernel=21, kernel=5),
        batch_size=16,
        batches_per_step=10,
        optimizer=_optimizer(3e-3, "linear"),
        trainer=TrainerConfig(budget=300_000, eval_period=50_000, precision="bf16", engine="eager", num_threads=1),
    )


def binarized_mnist() -> Experiment:
    """PixelCNN, 64 channels (paper: 81.30 nats), for a GPU. It has not been run at full size."""
    return _binarized_mnist("binarized-mnist", BackboneConfig(name="pixelcnn", channels=64, blocks=15), hidden=256)


def binarized_mnist_gated() -> Experiment:
    """Gated PixelCNN of 3.4 million parameters on binarized MNIST, for a GPU. It has not been run at full size."""
    backbone = BackboneConfig(name="gated_pixelcnn", channels=128, layers=10, first_kernel=21)
    return _binarized_mnist("binarized-mnist-gated", backbone)


def binarized_mnist_row_lstm() -> Experiment:
    """PixelRNN's Row LSTM, 12 layers of 32 (paper: 80.54 nats), for a GPU. It has not been run at full size."""
    return _binarized_mnist(
        "binarized-mnist-row-lstm", BackboneConfig(name="row_lstm", hidden=32, layers=12), batch_size=32
    )


def binarized_mnist_diagonal_bilstm() -> Experiment:
    """PixelRNN's Diagonal BiLSTM, 7 layers of 32 (paper: 79.20 nats), for a GPU. It has not been run at full size."""
    return _binarized_mnist(
        "binarized-mnist-diagonal-bilstm", BackboneConfig(name="diagonal_bilstm", hidden=32, layers=7), batch_size=32
    )


def cifar10_subset() -> Experiment:
    """A small PixelCNN++ on 3,000 images of CIFAR-10: 4.06 bits a dimension (test), 7 minutes of one core.

    On validation 4.95 bits after 2,500 samples, 4.29 after 10,000, 4.04 after 20,000, still falling; uniform pixels
    have 8, the published network on all of CIFAR-10 2.92. Completions take on colours and backgrounds, not yet shapes.
    """
    return Experiment(
        name="pixelcnn/cifar10-subset",
        data=ImageData(name="cifar10-subset", batch_size=4, batches_per_step=10),
        module=PixelCNNConfig(
            backbone=BackboneConfig(name="pixelcnn_pp", filters=24, blocks=1, stages=3),
            output="logistic_mixture",
            components=5,
            optimizer=_optimizer(1e-3),
        ),
        trainer=TrainerConfig(budget=20_000, eval_period=2_500, precision="bf16", num_threads=1),
    )


def cifar10() -> Experiment:
    """PixelCNN++ as published (2.92 bits a dimension) on all of CIFAR-10 from the hub, for a GPU. Not yet run."""
    return Experiment(
        name="pixelcnn/cifar10",
        data=ImageData(name="hub:uoft-cs/cifar10", batch_size=64, batches_per_step=4),
        module=PixelCNNConfig(
            backbone=BackboneConfig(name="pixelcnn_pp", filters=160, blocks=5, stages=3, dropout=0.5),
            output="logistic_mixture",
            components=10,
            optimizer=OptimizerConfig(lr=1e-3, schedule=ScheduleConfig(name="exponential", final=0.3)),
        ),
        trainer=TrainerConfig(budget=10_000_000, eval_period=500_000, precision="bf16"),
    )


def _optimizer(lr: float, schedule: Literal["cosine", "linear"] = "cosine") -> OptimizerConfig:
    return OptimizerConfig(lr=lr, max_grad_norm=1.0, schedule=ScheduleConfig(name=schedule, warmup=0.02))


def _binarized_mnist(
    name: str,
    backbone: BackboneConfig,
    *,
    batch_size: int = 64,
    batches_per_step: int = 10,
    optimizer: OptimizerConfig | None = None,
    hidden: int = 32,
    trainer: TrainerConfig | None = None,
) -> Experiment:
    return Experiment(
        name=f"pixelcnn/{name}",
        data=ImageData(name="binarized-mnist", batch_size=batch_size, batches_per_step=batches_per_step),
        module=PixelCNNConfig(backbone=backbone, hidden=hidden, optimizer=optimizer or _optimizer(1e-3)),
        trainer=trainer or TrainerConfig(budget=5_000_000, eval_period=250_000),
    )


def digits() -> Experiment:
    """Gated PixelCNN on the embedded 8x8 digits, by class: 76.3 nats (1.72 bits a pixel) in a minute on one core."""
    return Experiment(
        name="pixelcnn/digits",
        data=ImageData(name="digits", batch_size=32, batches_per_step=10),
        module=PixelCNNConfig(
            backbone=BackboneConfig(name="gated_pixelcnn", channels=32, layers=5, first_kernel=5),
            hidden=64,
            conditional=True,
            optimizer=OptimizerConfig(lr=3e-3, max_grad_norm=1.0, schedule=ScheduleConfig(name="cosine", warmup=0.02)),
        ),
        trainer=TrainerConfig(budget=45_000, eval_period=5_000, num_threads=1),
    )
