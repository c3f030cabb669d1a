"""Networks whose features images are compared by: a LeNet that the lab trains itself, and Inception where it is here.

The LeNet needs no download: a fixed recipe, on one thread of the processor, on the labels of the data set at hand. For
the data of the recipes the hash of its weights is pinned, so that distances of two machines can be compared, and other
weights are said. Its numbers carry its name (`lenet_...`) and are never to be read as FID.

Inception is the network of FID with the weights that torch-fidelity publishes, if their file is here: nothing downloads
it. N images, C channels, H height, W width, F features.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones import BackboneConfig
from lab.data.images import ImageModule
from lab.data.resident import Batch
from lab.data.spec import Classes, TensorSpec
from lab.engine.loss import Loss
from lab.engine.optimizers import OptimizerConfig
from lab.engine.updater import Updater
from lab.errors import UserError
from lab.supervised.classifier import ClassifierNet

log = logging.getLogger("lab")

_RECIPE = {"version": 2, "features": 64, "updates": 1500, "batch_size": 128, "lr": 2e-3, "seed": 0}
PINNED = {
    "6f21ea7bf573aecf": "2650e21d795463dc",  # digits
    "175a59151b2d2f64": "ec9cdfe1ce6d7702",  # mnist, validation=1/12
    "a13da31305f6ba89": "c769e9a6586aa21d",  # fashion-mnist, validation=1/12
}
"""hash of recipe and data -> hash of the LeNet's weights, for the data of the recipes"""

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
_INCEPTION_HASH = "6726825d"
"""how the SHA-256 of the published file begins, as its name says"""


class FeatureNet(NamedTuple):
    """A trained LeNet."""

    net: ClassifierNet
    digest: str
    """hash of recipe and data"""
    weights: str
    """hash of the weights"""
    stacked: bool
    """whether it looks at each channel by itself, and a class is the number that the channels' classes spell"""

    @property
    def pinned(self) -> bool | None:
        """Whether the weights are the pinned ones; None where none are pinned for this data."""
        return PINNED[self.digest] == self.weights if self.digest in PINNED else None

    def features(self, x: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
        """Penultimate features (N, F) float64 and predicted classes (N,) of images (N, C, H, W) in [0, 1]."""
        features, classes = [], []
        with torch.no_grad():
            for part in x.split(batch_size):
                hidden = self.net.backbone(part.flatten(0, 1)[:, None] if self.stacked else part).flatten(1)
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
    """The LeNet for a data set: trained at the first call with the fixed recipe, then read from the cache.

    The cache is `features` below LAB_CACHE, by default ~/.cache/lab; an entry is named by the hash of recipe and data.
    Raises UserError for data without class labels.
    """
    image, outputs = data.spec.inputs, data.spec.outputs
    if not isinstance(image, TensorSpec) or not isinstance(outputs, Classes) or outputs.num < 2:
        raise UserError(f"distances need images with class labels; data.name={data.config.name!r} has none.")
    stacked = data.config.name == "stacked-mnist"
    x, y = (part.cpu() for part in split_arrays(data, "train"))
    num_classes = outputs.num
    if stacked:  # any one of its channels is MNIST
        x, y, num_classes, image = x[:, :1], y // 100, 10, image._replace(shape=(1, *image.shape[1:]))
    digest = _digest(x, y)
    with _own_randomness(int(_RECIPE["seed"])):
        net = ClassifierNet(BackboneConfig(name="lenet", hidden=int(_RECIPE["features"])), image, num_classes)
        path = _cache_folder() / f"lenet-{digest}.pt"
        state = _read(path)
        if state is None:
            _train(net, x, y)
            _write(path, net)
        else:
            net.load_state_dict(state)
    found = FeatureNet(net, digest, _weights_hash(net), stacked)
    if found.pinned is False:
        log.warning(
            "the LeNet trained here has weights %s, not the pinned %s: its distances compare with each other, but not "
            "exactly with those of other machines",
            found.weights,
            PINNED[digest],
        )
    return found._replace(net=net.to(data.device).eval())


def split_arrays(data: ImageModule, split: str, most: int | None = None) -> tuple[Tensor, Tensor]:
    """The first `most` images (N, C, H, W) and labels (N,) of a split, by default all of them."""
    batches, num = [], 0
    for batch in data.batches(split):  # type: ignore[arg-type]
        batches.append(batch)
        num += len(batch.x)
        if most is not None and num >= most:
            break
    return torch.cat([batch.x for batch in batches])[:most], torch.cat([batch.y for batch in batches])[:most]


# ------------------------------------------------------------------ Inception


class InceptionNet:
    """torch-fidelity's Inception up to its last pooling: (N, C, H, W) in [0, 1] to (N, 2048) float64."""

    def __init__(self, extractor: nn.Module, device: torch.device) -> None:
        self.extractor, self.device = extractor.to(device), device

    def features(self, x: Tensor, batch_size: int = 50) -> Tensor:
        parts = []
        with torch.no_grad():
            for part in x.split(batch_size):
                pixels = (part.clamp(0, 1) * 255).round().to(self.device, torch.uint8)
                parts.append(self.extractor(pixels.expand(-1, 3, -1, -1))[0].double())
        return torch.cat(parts)


def inception_net(device: torch.device) -> InceptionNet | None:
    """Inception, if LAB_INCEPTION or torch's hub cache holds its published weights and torch-fidelity is installed.

    Raises UserError when LAB_INCEPTION names no file, or when the file is another one than the published.
    """
    given = os.environ.get("LAB_INCEPTION")
    path = Path(given).expanduser() if given else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        if given:
            raise UserError(f"LAB_INCEPTION={given!r} is no file; it names the weights {INCEPTION_FILE}.")
        log.info("no Inception weights here: distances are those of the LeNet (lenet_...)")
        return None
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(_INCEPTION_HASH):
        raise UserError(f"{str(path)!r} is damaged or not {INCEPTION_FILE}: its SHA-256 is not {_INCEPTION_HASH}...")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # torchvision raises RuntimeError beside a torch that it does not fit
        log.warning("Inception weights are here, but not torch-fidelity (pip install 'lab[fidelity]'): %s", error)
        return None
    torch.load(path, map_location="cpu", weights_only=True)  # plain tensors, before torch-fidelity reads it in its way
    return InceptionNet(FeatureExtractorInceptionV3("inception", ["2048"], str(path)), device)


# ------------------------------------------------------------------ the pieces


def _train(net: ClassifierNet, x: Tensor, y: Tensor) -> None:
    def loss(batch: Batch) -> Loss:
        return Loss(F.cross_entropy(net(batch.x), batch.y), {})

    updater = Updater(net, loss, OptimizerConfig(lr=float(_RECIPE["lr"])))
    generator = torch.Generator().manual_seed(int(_RECIPE["seed"]))
    with torch.enable_grad(), _one_thread():
        for update in range(int(_RECIPE["updates"])):
            updater.set_progress(update / int(_RECIPE["updates"]))
            index = torch.randint(len(x), (int(_RECIPE["batch_size"]),), generator=generator)
            updater.step(Batch(x[index], y[index]))


def _digest(x: Tensor, y: Tensor) -> str:
    content = hashlib.sha256(repr(sorted(_RECIPE.items())).encode())
    for array in (x, y):
        content.update(repr(tuple(array.shape)).encode())
        content.update(array.contiguous().numpy().tobytes())
    return content.hexdigest()[:16]


def _weights_hash(net: nn.Module) -> str:
    content = hashlib.sha256()
    for value in net.state_dict().values():
        content.update(value.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]


def _cache_folder() -> Path:
    return Path(os.environ.get("LAB_CACHE") or "~/.cache/lab").expanduser() / "features"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # absent, damaged, another torch: train it again
        return None
    return state


def _write(path: Path, net: ClassifierNet) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # a cache that cannot be written is only slower


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
