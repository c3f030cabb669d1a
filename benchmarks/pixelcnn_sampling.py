"""Sampling from autoregressive models: the cached sampler against a full forward pass for each pixel.

A Gated PixelCNN of 3.3 million parameters (10 layers of 128 channels, the shape of pytorch-generative's) draws binary
28x28 images. The naive sampler's time is that of a few of its 784 passes, times 784. A smaller model is sampled by
all three back-ends, which have to give the same images: exactly in float64; in float32 the pixels that differ count.
On a GPU the steps of a row are one CUDA graph, set against the same steps launched one by one.
"""

from __future__ import annotations

import statistics
import time

import torch
from form import Benchmark

from generative.autoregressive.pixelcnn import AutoregressiveImageModel, PixelCNNConfig
from generative.autoregressive.sampling import SampleRequest, cached
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec, TensorSpec

SHAPE = (1, 28, 28)
BACKENDS = ("naive", "cached", "fixed_point")


def model(**options: int) -> AutoregressiveImageModel:
    """A random Gated PixelCNN of binary 28x28 images."""
    torch.manual_seed(0)
    config = PixelCNNConfig(backbone=BackboneConfig("gated_pixelcnn", **options))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return AutoregressiveImageModel(config, DataSpec(TensorSpec(SHAPE, torch.float32, 0.0, 1.0, 2))).eval().to(device)


def seconds(call, repeats: int) -> float:
    """The median duration of `call`."""
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def main() -> None:
    bench = Benchmark("pixelcnn_sampling", __doc__)
    repeats = 2 if bench.quick else 5
    figures: dict[str, float | None] = {}
    large = model(channels=128, layers=10)
    for num in (16, 64):
        figures[f"gated_{num}_images_seconds"] = seconds(lambda num=num: large.sample(num), repeats)
    images = torch.rand(16, *SHAPE, device=large.device)
    with torch.no_grad():
        figures["gated_naive_16_images_seconds"] = 784 * seconds(lambda: large.net(images), repeats)
    figures["gated_16_images_vs_naive_ratio"] = (
        figures["gated_naive_16_images_seconds"] / figures["gated_16_images_seconds"]
    )
    if large.device.type == "cuda":
        request = SampleRequest(SHAPE, torch.rand(16, 1, 28, 28, device=large.device), None, 1.0, None)
        with torch.no_grad():
            eager = seconds(lambda: cached(large.net, request, lambda done, total: None, lambda work: work), repeats)
        figures["gated_16_images_graph_vs_eager_ratio"] = eager / figures["gated_16_images_seconds"]

    small = model(channels=16, layers=5)
    for precision in (torch.float32, torch.float64):
        small = small.to(precision)
        drawn = {
            backend: small.sample(8, backend=backend, generator=torch.Generator(small.device).manual_seed(1))
            for backend in BACKENDS
        }
        bits = torch.finfo(precision).bits
        for backend in BACKENDS[1:]:
            different = int((drawn[backend] != drawn["naive"]).sum())
            figures[f"float{bits}_{backend}_pixels_that_differ_from_naive"] = float(different)
    num_parameters = sum(p.numel() for p in large.parameters())
    details = {"parameters": num_parameters, "threads": torch.get_num_threads(), "device": str(large.device)}
    bench.finish(figures, {"gated_16_images_seconds": 3.0, "gated_64_images_seconds": 6.0}, details)


if __name__ == "__main__":
    main()
