"""How far samples are from data: distances between distributions of features of a named network.

The network is a LeNet that the lab trains itself with a fixed recipe on the labels of the data set at hand, so that a
distance needs no download; its numbers carry its name (`lenet_...`) and are never to be read as FID.
N, M images, F features.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.backbones import BackboneConfig
from lab.data.images import ImageModule
from lab.data.spec import Classes, TensorSpec
from lab.errors import UserError
from lab.optim import OptimizerConfig, Updater
from lab.supervised.classifier import ClassifierNet

_RECIPE = {"version": 1, "features": 64, "updates": 1500, "batch_size": 128, "lr": 2e-3, "seed": 0}
_COVERED = 0.1
"""a class counts as covered when it has at least this share of its due number of samples"""


class FeatureNet(NamedTuple):
    """The trained LeNet, and the hash of its recipe and data."""

    net: ClassifierNet
    digest: str

    def features(self, x: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
        """Penultimate features (N, F) float64 and predicted classes (N,) of images (N, C, H, W) in [0, 1]."""
        features, classes = [], []
        with torch.no_grad():
            for part in x.split(batch_size):
                hidden = self.net.backbone(part).flatten(1)
                features.append(hidden.double())
                classes.append(self.net.head(hidden).argmax(1))
        return torch.cat(features), torch.cat(classes)


def feature_net(data: ImageModule) -> FeatureNet:
    """The LeNet for a data set: trained at the first call with the fixed recipe, then read from the cache.

    The cache is `features` below LAB_CACHE, by default ~/.cache/lab; an entry is named by the hash of recipe and data.
    Raises UserError for data without class labels.
    """
    image, outputs = data.spec.inputs, data.spec.outputs
    if not isinstance(image, TensorSpec) or not isinstance(outputs, Classes):
        raise UserError("feature distances need images with class labels.")
    x, y = split_arrays(data, "train")
    digest = _digest(x, y)
    with _own_randomness(int(_RECIPE["seed"])):
        net = ClassifierNet(BackboneConfig(name="lenet", hidden=int(_RECIPE["features"])), image, outputs.num)
        path = _cache_folder() / f"lenet-{digest}.pt"
        state = _read(path)
        if state is None:
            _train(net, x, y)
            _write(path, net)
        else:
            net.load_state_dict(state)
    return FeatureNet(net.to(data.device).eval(), digest)


def split_arrays(data: ImageModule, split: str) -> tuple[Tensor, Tensor]:
    """All images (N, C, H, W) and labels (N,) of a split, in order."""
    batches = list(data.batches(split))  # type: ignore[arg-type]
    return torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])


# ------------------------------------------------------------------ distances


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance of Gaussians fitted to features (N, F) and (M, F) (Heusel et al. 2017, eq. 6).

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)); the trace of the root is the sum of the singular values of
    S_a^(1/2) S_b^(1/2).
    """
    a, b = a.double(), b.double()
    root_a, root_b = _root(torch.cov(a.T)), _root(torch.cov(b.T))
    cross = torch.linalg.svdvals(root_a @ root_b).sum()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    return float(mean + root_a.square().sum() + root_b.square().sum() - 2 * cross)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / F + 1)^3 (Binkowski et al. 2018)."""
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    aa, bb = kernel(a, a), kernel(b, b)
    within_a = (aa.sum() - aa.trace()) / (len(a) * (len(a) - 1))
    within_b = (bb.sum() - bb.trace()) / (len(b) * (len(b) - 1))
    return float(within_a + within_b - 2 * kernel(a, b).mean())


class Manifold(NamedTuple):
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020)."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_metrics(real: Tensor, fake: Tensor, neighbours: int = 5) -> Manifold:
    """Balls around each point up to its k-th neighbour: how many fakes lie in real balls, how many reals in fake ones.

    Features (N, F) and (M, F); distances are computed in rows, so that 10,000 points fit in memory.
    """
    radius_real, radius_fake = _radii(real, neighbours), _radii(fake, neighbours)
    precise = inside = 0
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows in torch.arange(len(fake), device=fake.device).split(1000):
        distance = torch.cdist(fake[rows], real)  # (rows, N)
        within = distance <= radius_real
        precise += int(within.any(1).sum())
        inside += int(within.sum())
        covered |= within.any(0)
        recalled |= (distance <= radius_fake[rows, None]).any(0)
    return Manifold(
        precision=precise / len(fake),
        recall=float(recalled.double().mean()),
        density=inside / (neighbours * len(fake)),
        coverage=float(covered.double().mean()),
    )


def nearest_neighbours(images: Tensor, train: Tensor) -> Tensor:
    """For each image (N, C, H, W) the training image (M, C, H, W) nearest in pixels: (N, C, H, W)."""
    nearest = [torch.cdist(part.flatten(1), train.flatten(1)).argmin(1) for part in images.split(500)]
    return train[torch.cat(nearest)]


def distribution_metrics(fake: Tensor, data: ImageModule, split: str, *, full: bool = True) -> dict[str, float]:
    """Distances of images (N, C, H, W) from a split, `..._floor` of equally many training images beside them.

    Args:
        full: also the kernel distance, precision, recall, density and coverage.

    Metrics: eval/lenet_frechet_distance, its floor and ratio, eval/lenet_modes (classes with at least a tenth of their
    due share of samples), eval/lenet_class_kl (of the samples' classes from the split's, in nats).
    """
    assert isinstance(data.spec.outputs, Classes)
    network, num_classes = feature_net(data), data.spec.outputs.num
    (real, labels), (train, _) = split_arrays(data, split), split_arrays(data, "train")
    fake_features, fake_classes = network.features(fake)
    real_features, _ = network.features(real)
    floor_features, _ = network.features(train[: len(fake)])
    distance = frechet_distance(fake_features, real_features)
    floor = frechet_distance(floor_features, real_features)
    counts = torch.bincount(fake_classes, minlength=num_classes).double()
    due = torch.bincount(labels, minlength=num_classes).double() / len(labels)
    share = counts / counts.sum()
    metrics = {
        "eval/lenet_frechet_distance": distance,
        "eval/lenet_frechet_floor": floor,
        "eval/lenet_frechet_ratio": distance / max(floor, 1e-12),
        "eval/lenet_modes": float(((share >= _COVERED * due) & (due > 0)).sum()),
        "eval/lenet_class_kl": float(torch.where(share > 0, share * (share / due.clamp(min=1e-9)).log(), 0.0).sum()),
    }
    if not full:
        return metrics
    manifold = manifold_metrics(real_features, fake_features)
    return (
        metrics
        | {"eval/lenet_kernel_distance": kernel_distance(fake_features, real_features)}
        | {f"eval/lenet_{name}": value for name, value in manifold._asdict().items()}
    )


# ------------------------------------------------------------------ the pieces


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _radii(points: Tensor, neighbours: int) -> Tensor:
    radii = [torch.cdist(part, points).kthvalue(neighbours + 1, dim=1).values for part in points.split(1000)]
    return torch.cat(radii)


def _train(net: ClassifierNet, x: Tensor, y: Tensor) -> None:
    def loss(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return F.cross_entropy(net(images), labels), {}

    net.to(x.device)
    updater = Updater(net, loss, OptimizerConfig(lr=float(_RECIPE["lr"])))
    generator = torch.Generator().manual_seed(int(_RECIPE["seed"]))
    with torch.enable_grad():
        for update in range(int(_RECIPE["updates"])):
            updater.set_progress(update / int(_RECIPE["updates"]))
            index = torch.randint(len(x), (int(_RECIPE["batch_size"]),), generator=generator).to(x.device)
            updater.step(x[index], y[index])


def _digest(x: Tensor, y: Tensor) -> str:
    content = hashlib.sha256(repr(sorted(_RECIPE.items())).encode())
    for array in (x, y):
        content.update(repr(tuple(array.shape)).encode())
        content.update(array.cpu().contiguous().numpy().tobytes())
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
        torch.save({key: value.cpu() for key, value in net.state_dict().items()}, temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # a cache that cannot be written is only slower


class _own_randomness:
    """Run with torch's global generator seeded, and put it back afterwards."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.state = torch.get_rng_state()
        torch.manual_seed(self.seed)

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self.state)
