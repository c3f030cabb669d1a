"""How far samples are from data: distances between distributions of features of a named network.

The networks are the LeNets of `feature_nets` and `inception`; a metric carries the name of its network.
N, M images, C channels, H height, W width, F features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from generative.evaluation.feature_nets import feature_net, split_arrays
from generative.evaluation.inception import inception_net
from lab.data.images import ImageModule
from lab.data.targets import Classes
from lab.errors import UserError

NEIGHBOURS = 5
"""neighbours of a point, whose distance is its ball's radius for precision, recall, density and coverage"""
_COVERED = 0.1
"""a class counts as covered when it has at least this share of its due number of samples"""


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


def manifold_metrics(real: Tensor, fake: Tensor, neighbours: int = NEIGHBOURS) -> Manifold:
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


def nearest_neighbours(images: Tensor, data: ImageModule) -> Tensor:
    """For each image (N, C, H, W) the training image nearest in pixels: (N, C, H, W)."""
    best = torch.full((len(images),), float("inf"), device=images.device)
    nearest = torch.zeros_like(images)
    for x, _ in data.batches("train", 5000):
        distance, index = torch.cdist(images.flatten(1), x.flatten(1)).min(1)
        nearer = distance < best
        best = torch.where(nearer, distance, best)
        nearest[nearer] = x[index[nearer]]
    return nearest


def distribution_metrics(fake: Tensor, data: ImageModule, split: str, *, full: bool = True) -> dict[str, float]:
    """Distances of images (N, C, H, W) from a split, `..._floor` of equally many training images beside them.

    Args:
        full: also the kernel distance, precision, recall, density and coverage, and Inception's distances where its
            weights are at hand.

    Metrics: eval/lenet_frechet_distance, its floor and ratio; eval/lenet_modes (classes with at least a tenth of their
    due share of samples) and eval/lenet_modes_seen (with any sample at all); eval/lenet_class_kl (of the samples'
    classes from the split's, in nats); eval/lenet_shipped (1: the LeNet came with the lab, so that the numbers are
    the same on every machine; 0: this machine trained it).
    """
    assert isinstance(data.spec.target, Classes)
    real, labels = split_arrays(data, split)
    network, num_classes = feature_net(data), data.spec.target.num
    train, _ = split_arrays(data, "train", len(fake))
    fake_features, fake_classes = network.features(fake)
    real_features, _ = network.features(real)
    floor_features, _ = network.features(train)
    distance = frechet_distance(fake_features, real_features)
    floor = frechet_distance(floor_features, real_features)
    counts = torch.bincount(fake_classes, minlength=num_classes).double()
    due = torch.bincount(labels, minlength=num_classes).double() / len(labels)
    share = counts / counts.sum()
    metrics = {
        "eval/lenet_frechet_distance": distance,
        "eval/lenet_frechet_floor": floor,
        "eval/lenet_frechet_ratio": distance / max(floor, 1e-12),
        "eval/lenet_modes": float(((share >= _COVERED * due) & (due > 0) & (counts > 0)).sum()),
        "eval/lenet_modes_seen": float((counts > 0).sum()),
        "eval/lenet_class_kl": float(torch.where(share > 0, share * (share / due.clamp(min=1e-9)).log(), 0.0).sum()),
        "eval/lenet_shipped": float(network.shipped),
    }
    if not full:
        return metrics
    metrics["eval/lenet_kernel_distance"] = kernel_distance(fake_features, real_features)
    for name, value in manifold_metrics(real_features, fake_features)._asdict().items():
        metrics[f"eval/lenet_{name}"] = value
    return metrics | _inception_metrics(fake, real, train)


def check_enough(data: ImageModule, split: str) -> None:
    """Raise UserError when a split has too few images for distances from it."""
    num = data.num_samples(split)  # type: ignore[arg-type]
    if num <= NEIGHBOURS:
        raise UserError(
            f"distances need more than {NEIGHBOURS} images, but the {split} split has {num} (data.validation)."
        )


def _inception_metrics(fake: Tensor, real: Tensor, train: Tensor) -> dict[str, float]:
    network = inception_net(fake.device)
    if network is None:
        return {}
    fake, real, train = (network.features(images) for images in (fake, real, train))
    return {
        "eval/inception_frechet_distance": frechet_distance(fake, real),
        "eval/inception_frechet_floor": frechet_distance(train, real),
        "eval/inception_kernel_distance": kernel_distance(fake, real),
    }


# ------------------------------------------------------------------ the pieces


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _radii(points: Tensor, neighbours: int) -> Tensor:
    radii = [torch.cdist(part, points).kthvalue(neighbours + 1, dim=1).values for part in points.split(1000)]
    return torch.cat(radii)
