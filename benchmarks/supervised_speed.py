"""Training of four networks through `train()`, beside a bare PyTorch loop and beside plain Lightning with a DataLoader.

    python benchmarks/supervised_speed.py [--quick] [--threads N]

All train the same network with the same optimizer (Adam, fused) in the same minibatches on random pictures (speed does
not depend on what they show), each in a process of its own, in turn. The bare loop holds its pictures in memory and
draws a permutation an epoch; Lightning's takes a TensorDataset and reports nothing. `train()` does all that a run does
but evaluations: it logs, and saves a checkpoint every 20 s. Then the switches: channels last in memory, bfloat16, both.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from form import Benchmark, Pairs, run_json

COMMON = """
import json, sys, tempfile, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import numpy as np
import torch
from torch.nn import functional as F
from lab.backbones import BackboneConfig
from lab.data.images import ImageData
from lab.engine.optimizers import OptimizerConfig
from lab.experiment import Experiment, TrackingConfig, TrainerConfig
from lab.supervised.supervised import SupervisedConfig

network, seconds, threads, precision, channels_last = json.loads(sys.argv[1])
torch.set_num_threads(threads)
NETWORKS = {
    "lenet": (BackboneConfig("lenet", dropout=0.3), (28, 28), 128),
    "resnet": (BackboneConfig("resnet_cifar", depth=14), (28, 28), 128),
    "vgg11": (BackboneConfig("vgg11"), (32, 32, 3), 64),
    "lstm": (BackboneConfig("lstm", hidden=128), (28, 28), 128),
}
backbone, shape, batch_size = NETWORKS[network]
rng = np.random.default_rng(0)
pictures, classes = rng.integers(0, 256, (10_000, *shape), dtype=np.uint8), np.arange(10_000) % 10
config = SupervisedConfig(backbone=backbone, optimizer=OptimizerConfig(lr=1e-3))

class Clock:
    # images a second from the first report that comes after a tenth of the time
    def __init__(self):
        self.began, self.first = time.perf_counter(), None
    def is_over(self, images):
        now = time.perf_counter()
        if self.first is None:
            if now - self.began > 0.1 * seconds:
                self.first = images, now
            return False
        if now - self.first[1] < seconds:
            return False
        print(json.dumps({"per_second": (images - self.first[0]) / (now - self.first[1])}), flush=True)
        return True

def data_of(folder):
    path = Path(folder) / "pictures.npz"
    np.savez(path, x_train=pictures, y_train=classes, x_test=pictures[:100], y_test=classes[:100])
    return ImageData(name=str(path), batch_size=batch_size, batches_per_step=10, validation=0.01)

def net_and_tensors():
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        net = config.build(data_of(folder).build(0).spec).net
    x = torch.from_numpy(pictures).reshape(len(pictures), *shape[:2], -1).permute(0, 3, 1, 2).contiguous()
    return net, x, torch.from_numpy(classes)
"""

LAB = (
    COMMON
    + """
from lightning.pytorch import Callback
from lab.training.train import train

class Stop(Callback):
    def __init__(self):
        self.clock = Clock()
    def on_train_batch_end(self, trainer, module, *arguments):
        if not self.over and self.clock.is_over(module.counters["samples"]):
            self.over = True
            self.loop.ask_to_stop()
    over = False

stop = Stop()
with tempfile.TemporaryDirectory() as folder:
    settings = TrainerConfig(budget=10**9, num_threads=threads, precision=precision, channels_last=channels_last)
    experiment = Experiment(name="speed", data=data_of(folder), module=config, trainer=settings,
                            tracking=TrackingConfig(mode="disabled"))
    train(experiment, run_dir=Path(folder) / "run", callbacks=[stop], on_loop=lambda loop: setattr(stop, "loop", loop))
"""
)

BARE = (
    COMMON
    + """
net, x, y = net_and_tensors()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
clock, images, over = Clock(), 0, False
while not over:
    for index in torch.randperm(len(x)).split(batch_size):
        loss = F.cross_entropy(net(x[index].float() / 255), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        images += len(index)
        if over := clock.is_over(images):
            break
"""
)

LIGHTNING = (
    COMMON
    + """
import lightning.pytorch as pl
from torch.utils.data import DataLoader, TensorDataset

class Plain(pl.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net, self.clock, self.images = net, Clock(), 0
    def training_step(self, batch, batch_idx):
        x, y = batch
        self.images += len(x)
        return F.cross_entropy(self.net(x.float() / 255), y)
    def on_train_batch_end(self, *arguments):
        if not self.trainer.should_stop and self.clock.is_over(self.images):
            self.trainer.should_stop = True
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3, fused=True)

net, x, y = net_and_tensors()
loader = DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True)
trainer = pl.Trainer(accelerator="cpu", max_epochs=-1, logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Plain(net), loader)
"""
)

SOURCES = {"lab": LAB, "bare": BARE, "lightning": LIGHTNING}
SWITCHES = {"channels_last": ("32", True), "bf16": ("bf16", False), "bf16_channels_last": ("bf16", True)}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads (default: cores)")


def main() -> None:
    bench = Benchmark("supervised_speed", __doc__, options)
    seconds, repeats, threads = (1, 3, bench.options.threads) if bench.quick else (4, 5, bench.options.threads)

    def rate(contestant: str, network: str, precision: str = "32", channels_last: bool = False) -> float:
        arguments = json.dumps([network, seconds, threads, precision, channels_last])
        return float(run_json(sys.executable, SOURCES[contestant], arguments, threads=threads)["per_second"])

    figures: dict[str, float] = {}
    targets: dict[str, float] = {}
    details: dict[str, Any] = {"threads": threads}
    for network in ("lenet", "resnet", "vgg11", "lstm"):
        forms = {name: (name, network) for name in SOURCES}
        if network in ("resnet", "vgg11"):
            forms |= {name: ("lab", network, *switch) for name, switch in SWITCHES.items()}
        rates: dict[str, list[float]] = {name: [] for name in forms}
        for repeat in range(repeats):
            for name in sorted(forms, reverse=repeat % 2 == 1):
                rates[name].append(rate(*forms[name]))
            shown = ", ".join(f"{name} {values[-1]:,.5g}" for name, values in rates.items())
            print(f"{network} {repeat + 1} of {repeats}: {shown}", file=sys.stderr, flush=True)
        for rival in ("bare", "lightning"):
            pairs = Pairs(rates["lab"], rates[rival], True)
            figures[f"{network}_images_per_second"] = pairs.lab
            figures[f"{network}_vs_{rival}_ratio"] = pairs.ratio
        for name in forms.keys() - SOURCES.keys():
            figures[f"{network}_{name}_ratio"] = Pairs(rates[name], rates["lab"], True).ratio
        targets[f"{network}_vs_bare_ratio"] = 0.9
        details[network] = rates
    bench.finish(figures, targets, details)


if __name__ == "__main__":
    main()
