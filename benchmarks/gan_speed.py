"""DCGAN updates a second on 28x28 images beside a bare PyTorch loop of the same networks, batch and arithmetic.

One update: the discriminator on a batch of real and of generated images, then the generator on the same generated
images, fused Adam for both, running average of the generator. In one process, in turn, on as many threads as the
machine has cores.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from form import Benchmark, measure_pairs
from torch.nn import functional as F

from generative.adversarial.gan import GAN, GANConfig
from lab.data.images import ImageArrays, ImageData, ImageModule

BATCH, BATCHES_PER_STEP = 64, 10


def bare_loop(model: GAN, images: torch.Tensor) -> Callable[[], None]:
    """One update of copies of the model's networks, written as anybody would."""
    generator, discriminator = copy.deepcopy(model.generator), copy.deepcopy(model.discriminator)
    average = copy.deepcopy(generator).requires_grad_(False)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)

    def update() -> None:
        x = images[torch.randint(len(images), (BATCH,))]
        fake = generator(torch.randn(BATCH, model.config.latents), None)
        loss_d = F.softplus(-discriminator(x, None)).mean() + F.softplus(discriminator(fake.detach(), None)).mean()
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()
        loss_g = F.softplus(-discriminator(fake, None)).mean()
        optimizer_g.zero_grad()
        loss_g.backward()
        optimizer_g.step()
        with torch.no_grad():
            for a, p in zip(average.parameters(), generator.parameters(), strict=True):
                a.lerp_(p, 0.001)

    return update


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads (default: cores)")


def main() -> None:
    bench = Benchmark("gan_speed", __doc__, options)
    torch.set_num_threads(bench.options.threads)
    torch.manual_seed(0)
    x = np.random.default_rng(0).integers(0, 256, (10_000, 28, 28), dtype=np.uint8)
    y = np.arange(len(x)) % 10
    config = ImageData(batch_size=BATCH, batches_per_step=BATCHES_PER_STEP)
    data = ImageModule(config, ImageArrays((x, y), (x[:100], y[:100])), 0)
    model = GANConfig().build(data.spec)
    update = bare_loop(model, torch.from_numpy(x)[:, None].float() / 255)
    seconds = 3.0 if bench.quick else 10.0

    def rate(step: Callable[[], object], updates: int) -> float:
        step()
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            step()
            done += updates
        return done / (time.perf_counter() - start)

    pairs = measure_pairs(
        lambda: rate(lambda: model.training_step(data.next_chunk()), BATCHES_PER_STEP),
        lambda: rate(update, 1),
        repeats=3 if bench.quick else 9,
    )
    figures = {
        "dcgan_updates_per_second": pairs.lab,
        "dcgan_bare_updates_per_second": pairs.peer,
        "dcgan_vs_bare_ratio": pairs.ratio,
    }
    parameters = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in ("generator",)}
    bench.finish(figures, {"dcgan_vs_bare_ratio": 0.85}, {"parameters": parameters, "threads": bench.options.threads})


if __name__ == "__main__":
    main()
