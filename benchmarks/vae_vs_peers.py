"""A VAE of 820 k parameters at batch 128: training and importance-weighted evaluation beside pythae and a bare loop.

All three train 784-512-16-512-784 with ReLU and a Bernoulli likelihood on the same random 28x28 images (speed does not
depend on what is drawn), each in a process of its own that stays alive and waits while the others are measured, on as
many threads as the machine has cores. pythae trains through its own BaseTrainer and evaluates through `get_nll`; the
bare loop holds its data in memory and takes fused Adam. Wall time counts, since processor time would hide waiting: run
it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from form import Benchmark, Pairs, peer_python

PYTHAE = ["pythae==0.1.2"]

COMMON = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import torch
from torch import nn
from torch.nn import functional as F
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
IMAGES = (torch.rand(10_000, 784) < 0.13).float()
SAMPLES = 200

def serve(train, train_images, evaluate, evaluate_images, parameters):
    # measure `train` or `evaluate`, calls that work through so many images, for each line `case seconds` of input
    print(json.dumps(sum(p.numel() for p in parameters)), flush=True)
    for line in sys.stdin:
        case, seconds = line.split()
        call, images = (train, train_images) if case == "train" else (evaluate, evaluate_images)
        call()
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < float(seconds):
            call()
            done += images
        print(json.dumps(done / (time.perf_counter() - start)), flush=True)
"""

LAB = (
    COMMON
    + """
import numpy as np
from generative.likelihoods import importance_weighted_bound
from generative.latent.vae import VAEConfig
from lab.data.images import ImageArrays, ImageData, ImageModule
x = (IMAGES.view(-1, 28, 28) * 255).byte().numpy()
y = np.arange(len(x)) % 10
data = ImageModule(ImageData(batch_size=128, batches_per_step=20), ImageArrays((x, y), (x[:100], y[:100])), 0)
model = VAEConfig().build(data.spec)
images = next(iter(data.batches("test", 100))).x

@torch.no_grad()
def evaluate():
    importance_weighted_bound(model.log_weights(images, None, SAMPLES), dim=0)

serve(lambda: model.training_step(data.next_chunk()), 128 * 20, evaluate, len(images), model.net.parameters())
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

serve(train, 128, evaluate, 100, parameters)
"""
)

PEER = (
    COMMON
    + """
import functools, io, logging, tempfile
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.nn.default_architectures import Encoder_VAE_MLP
from pythae.trainers import BaseTrainer, BaseTrainerConfig
logging.disable(logging.CRITICAL)
model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=16, reconstruction_loss="bce"))
images = IMAGES.view(-1, 1, 28, 28)
said = sys.stdout
sys.stdout = sys.stderr = io.StringIO()  # pythae's own lines and bars
config = BaseTrainerConfig(
    output_dir=tempfile.mkdtemp(), num_epochs=1, per_device_train_batch_size=128, learning_rate=1e-3, no_cuda=True
)
data = BaseDataset(images, torch.zeros(len(images)))
trainer = BaseTrainer(model=model, train_dataset=data, eval_dataset=None, training_config=config)
trainer.prepare_training()
print = functools.partial(print, file=said)

@torch.no_grad()
def evaluate():
    model.eval()
    model.get_nll(images[:20], n_samples=SAMPLES, batch_size=SAMPLES)

serve(lambda: trainer.train_step(1), len(images), evaluate, 20, model.parameters())
"""
)


class Server:
    """One of the three in its process."""

    def __init__(self, python: Path | str, source: str, threads: int) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        environment |= {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self.process = subprocess.Popen(
            [str(python), "-c", source, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.parameters = int(self._answer())

    def rate(self, case: str, seconds: float) -> float:
        """Images a second."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{case} {seconds}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.communicate()

    def _answer(self) -> float:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a benchmark's process ended with {self.process.wait()}")
        return float(json.loads(line))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads (default: cores)")


def main() -> None:
    bench = Benchmark("vae_vs_peers", __doc__, options)
    seconds, repeats, threads = (2, 3, bench.options.threads) if bench.quick else (6, 7, bench.options.threads)
    pythons = {"lab": sys.executable, "bare": sys.executable, "pythae": peer_python(PYTHAE)}
    sources = {"lab": LAB, "bare": BARE, "pythae": PEER}
    servers = {name: Server(pythons[name], source, threads) for name, source in sources.items()}
    figures: dict[str, float] = {}
    for case, verb in (("train", "train"), ("nll", "nll_200")):
        rates: dict[str, list[float]] = {name: [] for name in servers}
        for repeat in range(repeats):
            for name in sorted(servers, reverse=repeat % 2 == 1):
                rates[name].append(servers[name].rate(case, seconds))
            shown = ", ".join(f"{name} {values[-1]:,.5g}" for name, values in rates.items())
            print(f"{case} {repeat + 1} of {repeats}: {shown}", file=sys.stderr, flush=True)
        for rival in ("pythae", "bare"):
            pairs = Pairs(rates["lab"], rates[rival], True)
            figures[f"{verb}_images_per_second"] = pairs.lab
            figures[f"{verb}_{rival}_images_per_second"] = pairs.peer
            figures[f"{verb}_vs_{rival}_ratio"] = pairs.ratio
    for server in servers.values():
        server.close()
    targets = {
        "train_vs_pythae_ratio": 1.3,
        "train_vs_bare_ratio": 0.85,
        "nll_200_vs_pythae_ratio": 3.0,
    }
    parameters = {name: server.parameters for name, server in servers.items()}
    bench.finish(figures, targets, {"parameters": parameters, "threads": threads})


if __name__ == "__main__":
    main()
