"""PixelCNN training: sliced kernels in the lab against masked convolutions, the same architecture and batch.

The peer's method (a full kernel, multiplied by its mask before each use, in NCHW, under a plain loop with torch's Adam)
is written out below in the shape of pytorch-generative's PixelCNN, which is not on PyPI: 15 residual blocks of 16
channels, 53,569 parameters with the masked ones, on binary 28x28 images in batches of 64. The bf16 figures set the lab
under `trainer.precision=bf16` against the peer in float32; where there is a GPU, two more are taken on it.
"""

from __future__ import annotations

import time

import torch
from form import Benchmark, measure_pairs
from torch import Tensor, nn
from torch.nn import functional as F

from generative.autoregressive.pixelcnn import AutoregressiveImageModel, PixelCNNConfig
from lab.backbones import BackboneConfig
from lab.data.resident import Batch
from lab.data.spec import DataSpec, TensorSpec
from lab.engine.optimizers import OptimizerConfig

BATCH = 64
SHAPE = (1, 28, 28)


class MaskedConv2d(nn.Conv2d):
    """A full kernel whose later taps are set to zero before each use."""

    def __init__(self, channels_in: int, channels_out: int, size: int, *, center: bool) -> None:
        super().__init__(channels_in, channels_out, size, padding=size // 2)
        mask = torch.zeros(size, size)
        mask[: size // 2] = 1
        mask[size // 2, : size // 2 + int(center)] = 1
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.mul_(self.mask)
        return super().forward(x)


class PeerBlock(nn.Sequential):
    """1x1, masked 3x3, 1x1 beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(2 * channels, channels, 1),
            nn.ReLU(),
            MaskedConv2d(channels, channels, 3, center=True),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def peer_net() -> nn.Module:
    """The peer's PixelCNN: logits (B, 1, 28, 28)."""
    return nn.Sequential(
        MaskedConv2d(1, 32, 7, center=False),
        *(PeerBlock(16) for _ in range(15)),
        nn.ReLU(),
        nn.Conv2d(32, 32, 1),
        nn.ReLU(),
        nn.Conv2d(32, 1, 1),
    )


def lab_learner(name: str, **options: int) -> AutoregressiveImageModel:
    """The lab's model with a backbone, on binary 28x28 images."""
    config = PixelCNNConfig(backbone=BackboneConfig(name, **options), hidden=32, optimizer=OptimizerConfig())
    learner = AutoregressiveImageModel(config, DataSpec(TensorSpec(SHAPE, torch.float32, 0.0, 1.0, 2)))
    learner.set_engine("auto")
    return learner


def images_per_second(step, batches: list[Tensor]) -> float:
    """Images a second of `step` over `batches`."""
    synchronize = torch.cuda.synchronize if batches[0].is_cuda else lambda: None
    synchronize()
    start = time.perf_counter()
    for x in batches:
        step(x)
    synchronize()
    return BATCH * len(batches) / (time.perf_counter() - start)


def pairs_on(device: str, repeats: int, num_batches: int, bf16: bool):
    """Lab and peer on a device, in turn."""
    batches = list((torch.rand(num_batches, BATCH, *SHAPE, device=device) < 0.3).float())
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
    learner, peer = lab_learner("pixelcnn").to(device), peer_net().to(device)
    optimizer = torch.optim.Adam(peer.parameters(), lr=1e-3)

    def lab_step(x: Tensor) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            learner.updater.step(Batch(x, labels))

    def peer_step(x: Tensor) -> None:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(peer(x), x, reduction="none").sum((1, 2, 3)).mean().backward()
        optimizer.step()

    for step in (lab_step, peer_step):
        step(batches[0])
    return measure_pairs(
        lambda: images_per_second(lab_step, batches), lambda: images_per_second(peer_step, batches), repeats
    )


def main() -> None:
    bench = Benchmark("pixelcnn_training", __doc__)
    torch.manual_seed(0)
    repeats = 3 if bench.quick else 9
    num_batches = 3 if bench.quick else 10
    pairs = pairs_on("cpu", repeats, num_batches, bf16=False)
    bf16 = pairs_on("cpu", repeats, num_batches, bf16=True)
    gated = lab_learner("gated_pixelcnn", channels=16, layers=7)
    labels = torch.zeros(BATCH, dtype=torch.int64)
    batches = list((torch.rand(3, BATCH, *SHAPE) < 0.3).float())

    def gated_step(x: Tensor) -> None:
        gated.updater.step(Batch(x, labels))

    gated_step(batches[0])
    figures = {
        "pixelcnn_images_per_second": pairs.lab,
        "masked_convolutions_images_per_second": pairs.peer,
        "pixelcnn_vs_masked_convolutions_ratio": pairs.ratio,
        "pixelcnn_bf16_images_per_second": bf16.lab,
        "pixelcnn_bf16_vs_masked_convolutions_ratio": bf16.ratio,
        "gated_16_channels_images_per_second": images_per_second(gated_step, batches),
    }
    details = {"ratios": pairs.ratios, "bf16_ratios": bf16.ratios, "threads": torch.get_num_threads(), "batch": BATCH}
    if torch.cuda.is_available():
        cuda = pairs_on("cuda", repeats, 50, bf16=True)
        figures |= {
            "pixelcnn_cuda_images_per_second": cuda.lab,
            "pixelcnn_cuda_vs_masked_convolutions_ratio": cuda.ratio,
        }
    bench.finish(figures, {"pixelcnn_vs_masked_convolutions_ratio": 1.7}, details)


if __name__ == "__main__":
    main()
