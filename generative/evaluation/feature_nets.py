"""The LeNets whose features images are compared by; their numbers carry the name (`lenet_...`) and are no FID.

Those of digits, MNIST and Fashion-MNIST come with the lab, in `weights/` (made by `make_feature_nets`): the same images
have the same distance on every machine. A user's own data get one at first use, by the same recipe and on one thread;
it is kept in a cache, and its distances differ a little from those of another kind of processor.

N images, C channels, H height, W width, F features, K classes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generative.evaluation.weight_files import load_weights, save_weights
from lab.backbones import BackboneConfig
from lab.backbones.features import Features
from lab.data.datasets import data_folder
from lab.data.image_batches import ImageBatches
from lab.data.images import ImageModule, load_images
from lab.data.resident import Batch
from lab.data.spec import TensorSpec
from lab.data.targets import Classes
from lab.engine.loss import Loss
from lab.engine.optimizers import OptimizerConfig
from lab.engine.updater import Updater
from lab.errors import Failure, UserError
from lab.long_work import tell, told

RECIPE = {"version": 3, "features": 64, "updates": 1500, "batch_size": 128, "lr": 2e-3, "seed": 0}
SHIPPED = {"digits": "digits", "mnist": "mnist", "fashion-mnist": "fashion-mnist", "stacked-mnist": "mnist"}
"""name of a data set -> the data set whose LeNet, which comes with the lab, measures it"""
WEIGHTS = Path(__file__).with_name("weights")


class LeNet(nn.Module):
    """Logits (N, K) of images (N, C, H, W)."""

    def __init__(self, image: TensorSpec, num_classes: int) -> None:
        super().__init__()
        self.features = Features(BackboneConfig(name="lenet", hidden=int(RECIPE["features"])), image.shape)
        self.head = nn.Linear(self.features.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


class FeatureNet(NamedTuple):
    """A trained LeNet."""

    net: LeNet
    shipped: bool
    """whether its weights came with the lab, so that its numbers are the same on every machine"""
    stacked: bool
    """whether it looks at each channel by itself, and a class is the number that the channels' classes spell"""

    def features(self, x: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
        """Penultimate features (N, F) float64 and predicted classes (N,) of images (N, C, H, W) in [0, 1].

        They are computed in full float32, also on a GPU and within a run of lower precision.
        """
        features, classes = [], []
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.no_grad(), exact, torch.autocast(x.device.type, enabled=False):
            for part in told("comparing images", x.float().split(batch_size)):
                hidden = self.net.features(part.flatten(0, 1)[:, None] if self.stacked else part)
                label = self.net.head(hidden).argmax(1)
                if self.stacked:
                    label = spelled(label.view(len(part), -1), self.net.head.out_features)
                features.append(hidden.view(len(part), -1).double())
                classes.append(label)
        return torch.cat(features), torch.cat(classes)


def spelled(digits: Tensor, base: int) -> Tensor:
    """The numbers (N,) that rows of digits (N, C) spell, the first the highest."""
    number = torch.zeros_like(digits[:, 0])
    for column in digits.unbind(1):
        number = number * base + column
    return number


def feature_net(data: ImageModule) -> FeatureNet:
    """The LeNet for a data set: the one that comes with the lab, or one trained at the first call and then cached.

    The cache is `features` below LAB_CACHE, by default ~/.cache/lab; an entry is named by the hash of recipe and data.
    Raises UserError for data without class labels.
    """
    image, target = data.spec.inputs, data.spec.target
    if not isinstance(image, TensorSpec) or not isinstance(target, Classes) or target.num < 2:
        raise UserError(f"distances need images with class labels; data.name={data.config.name!r} has none.")
    name, stacked = SHIPPED.get(data.config.name), data.config.name == "stacked-mnist"
    if name is not None:
        net, metadata = shipped_net(name)
        if metadata["data_hash"] == data_hash(name, str(data_folder(data.config.root))):
            return FeatureNet(net.to(data.device), True, stacked)
    x, y = (part.cpu() for part in split_arrays(data, "train"))
    num_classes = target.num
    if stacked:  # any one of its channels is the whole data set
        x, y, num_classes, image = x[:, :1], y // 100, 10, image._replace(shape=(1, *image.shape[1:]))
    net = lenet(image, num_classes)
    _train_or_read(net, x, y, data.config.name)
    return FeatureNet(net.to(data.device).eval(), False, stacked)


def shipped_net(name: str) -> tuple[LeNet, dict[str, Any]]:
    """The LeNet that comes with the lab for digits, mnist or fashion-mnist, and what its file says about it.

    Raises Failure when the installation is damaged.
    """
    net = lenet(TensorSpec((1, 8, 8) if name == "digits" else (1, 28, 28)), num_classes=10)
    try:
        metadata = load_weights(WEIGHTS / f"lenet-{name}.npz", net)
    except (OSError, ValueError) as error:
        raise Failure(f"the installation of the lab is damaged: {error}.") from error
    return net.eval(), metadata


def lenet(image: TensorSpec, num_classes: int) -> LeNet:
    """A LeNet of the recipe, with the first weights of its seed."""
    with _own_randomness(int(RECIPE["seed"])):
        return LeNet(image, num_classes)


def train(net: LeNet, x: Tensor, y: Tensor, *, with_bits: bool = False) -> None:
    """Train a LeNet on images (N, C, H, W) in [0, 1] and labels (N,) by the recipe.

    Args:
        with_bits: draw one half of each minibatch as bits with the pixels as probabilities, so that the net knows the
            binarized variants of the data, too.
    """

    def loss(batch: Batch) -> Loss:
        return Loss(F.cross_entropy(net(batch.x), batch.y), {})

    updater = Updater(net, loss, OptimizerConfig(lr=float(RECIPE["lr"])))
    generator = torch.Generator().manual_seed(int(RECIPE["seed"]))
    num_bits = int(RECIPE["batch_size"]) // 2 if with_bits else 0
    with torch.enable_grad(), _one_thread():
        for update in range(int(RECIPE["updates"])):
            tell("training the LeNet that compares images of new data, once", update, int(RECIPE["updates"]))
            updater.set_progress(update / int(RECIPE["updates"]))
            index = torch.randint(len(x), (int(RECIPE["batch_size"]),), generator=generator)
            images = x[index]
            images[:num_bits] = torch.bernoulli(images[:num_bits], generator=generator)
            updater.step(Batch(images, y[index]))


def split_arrays(data: ImageBatches, split: str, most: int | None = None) -> tuple[Tensor, Tensor]:
    """The first `most` images (N, C, H, W) and labels (N,) of a split, by default all of them."""
    batches, num = [], 0
    for batch in data.batches(split):  # type: ignore[arg-type]
        batches.append(batch)
        num += len(batch.x)
        if most is not None and num >= most:
            break
    return torch.cat([batch.x for batch in batches])[:most], torch.cat([batch.y for batch in batches])[:most]


@lru_cache(maxsize=8)
def data_hash(name: str, folder: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a data set below `folder`: training and test arrays."""
    arrays = load_images(name, folder)
    content = hashlib.sha256()
    for array in (*arrays.train, *arrays.test):
        content.update(repr((array.shape, array.dtype.str)).encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()[:16]


# ------------------------------------------------------------------ the pieces


def _train_or_read(net: LeNet, x: Tensor, y: Tensor, name: str) -> None:
    """Give a new LeNet the weights that are in the cache for images x and labels y, or train it and cache them."""
    path = _cache_folder() / f"lenet-{_recipe_hash(x, y)}.npz"
    try:
        load_weights(path, net)
    except (OSError, ValueError):  # absent or damaged
        train(net, x, y)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_weights(path, net, {"recipe": RECIPE, "data": name})
        except OSError:
            pass  # a cache that cannot be written is only slower


def _recipe_hash(x: Tensor, y: Tensor) -> str:
    content = hashlib.sha256(repr(sorted(RECIPE.items())).encode())
    for array in (x, y):
        content.update(repr(tuple(array.shape)).encode())
        content.update(array.contiguous().numpy().tobytes())
    return content.hexdigest()[:16]


def _cache_folder() -> Path:
    return Path(os.environ.get("LAB_CACHE") or "~/.cache/lab").expanduser() / "features"


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """torch's global generator seeded, and put back afterwards."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, so that sums are added in one order on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
