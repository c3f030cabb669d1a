"""A VAE of 820 k parameters at batch 128: training and importance-weighted evaluation beside pythae and a bare loop.

All three train 784-512-16-512-784 with ReLU and a Bernoulli likelihood on the same random 28x28 images (speed does not
depend on what is drawn), one process after the other, on as many threads as the machine has cores. pythae trains
through its own BaseTrainer and evaluates through `get_nll`; the bare loop holds its data in memory and takes fused
Adam. Processor time would hide waiting, so wall time it is: run it on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from form import Benchmark, measure_pairs, peer_python, run_json

PYTHAE = ["pythae==0.1.2"]

COMMON = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import torch
from torch import nn
from torch.nn import functional as F
case, seconds, threads = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
torch.manual_seed(0)
IMAGES = (torch.rand(10_000, 784) < 0.13).float()
SAMPLES = 200

def rate(call, images_a_call):
    call()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        call()
        done += images_a_call
    return done / (time.perf_counter() - start)
"""

LAB = (
    COMMON
    + """
import numpy as np
from generative.likelihoods import importance_weighted_bound
from generative.vae import VAEConfig
from lab.data.images import ImageArrays, ImageData, ImageModule
x = (IMAGES.view(-1, 28, 28) * 255).byte().numpy()
y = np.arange(len(x)) % 10
data = ImageModule(ImageData(batch_size=128, batches_per_step=20), ImageArrays((x, y), (x[:100], y[:100])), 0)
model = VAEConfig().build(data.spec)
if case == "train":
    found = rate(lambda: model.training_step(data.next_chunk()), 128 * 20)
else:
    model.eval()
    images = next(iter(data.batches("test", 100))).x
    with torch.no_grad():
        found = rate(lambda: importance_weighted_bound(model.log_weights(images, None, SAMPLES), dim=0), len(images))
print(json.dumps({"per_second": found, "parameters": sum(p.numel() for p in model.net.parameters())}))
"""
)

BARE = (
    COMMON
    + """
encoder = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 32))
decoder = nn.Sequential(nn.Linear(16, 512), nn.ReLU(), nn.Linear(512, 784))
parameters = [*encoder.parameters(), *decoder.parameters()]
optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)

def train():
    x = IMAGES[torch.randint(len(IMAGES), (128,))]
    mean, log_variance = encoder(x).chunk(2, 1)
    logits = decoder(mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance))
    distortion = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    loss = (distortion - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

@torch.no_grad()
def evaluate():
    for x in IMAGES[:100].split(1):
        mean, log_variance = encoder(x).chunk(2, 1)
        noise = torch.randn(SAMPLES, 16)
        z = mean + noise * torch.exp(0.5 * log_variance)
        log_px = -F.binary_cross_entropy_with_logits(decoder(z), x.expand(SAMPLES, -1), reduction="none").sum(1)
        torch.logsumexp(log_px + 0.5 * (noise**2 - z**2 + log_variance).sum(1), 0)

found = rate(train, 128) if case == "train" else rate(evaluate, 100)
print(json.dumps({"per_second": found, "parameters": sum(p.numel() for p in parameters)}))
"""
)

PEER = (
    COMMON
    + """
import contextlib, io, logging, tempfile
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.nn.default_architectures import Encoder_VAE_MLP
from pythae.trainers import BaseTrainer, BaseTrainerConfig
logging.disable(logging.CRITICAL)
model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=16, reconstruction_loss="bce"))
images = IMAGES.view(-1, 1, 28, 28)
if case == "train":
    data = BaseDataset(images, torch.zeros(len(images)))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(
        io.StringIO()
    ):
        config = BaseTrainerConfig(
            output_dir=folder, num_epochs=1, per_device_train_batch_size=128, learning_rate=1e-3, no_cuda=True
        )
        trainer = BaseTrainer(model=model, train_dataset=data, eval_dataset=None, training_config=config)
        trainer.prepare_training()
        found = rate(lambda: trainer.train_step(1), len(images))
else:
    model.eval()
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        found = rate(lambda: model.get_nll(images[:20], n_samples=SAMPLES, batch_size=SAMPLES), 20)
print(json.dumps({"per_second": found, "parameters": sum(p.numel() for p in model.parameters())}))
"""
)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads (default: cores)")


def main() -> None:
    bench = Benchmark("vae_vs_peers", __doc__, options)
    seconds, repeats, threads = (3, 3, bench.options.threads) if bench.quick else (10, 7, bench.options.threads)
    peer = peer_python(PYTHAE)
    parameters: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        scripts = {}
        for name, source in (("lab", LAB), ("bare", BARE), ("pythae", PEER)):
            scripts[name] = Path(folder) / f"measure_{name}.py"
            scripts[name].write_text(source)

        def rate(name: str, case: str) -> float:
            python = peer if name == "pythae" else sys.executable
            result = run_json(python, scripts[name], case, seconds, threads, threads=threads)
            parameters[name] = result["parameters"]
            return float(result["per_second"])

        figures: dict[str, float] = {}
        for case, verb in (("train", "train"), ("nll", "nll_200")):
            for rival in ("pythae", "bare"):
                pairs = measure_pairs(lambda: rate("lab", case), lambda: rate(rival, case), repeats)  # noqa: B023
                figures[f"{verb}_images_per_second"] = pairs.lab
                figures[f"{verb}_{rival}_images_per_second"] = pairs.peer
                figures[f"{verb}_vs_{rival}_ratio"] = pairs.ratio
    targets = {
        "train_vs_pythae_ratio": 1.3,
        "train_vs_bare_ratio": 0.85,
        "nll_200_vs_pythae_ratio": 3.0,
    }
    bench.finish(figures, targets, {"parameters": parameters, "threads": threads})


if __name__ == "__main__":
    main()
