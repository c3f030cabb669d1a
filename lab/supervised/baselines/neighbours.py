"""The k nearest neighbours (Cover and Hart 1967): the classes that are most frequent among them, or their mean values.

B batch, N samples, F features, K classes, T values.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from lab.data.targets import Classes, RealValues
from lab.errors import UserError
from lab.supervised.baselines.models import Model, ModelConfig, absolute_distances, check_fitted, squared_distances

_CANDIDATES = (1, 3, 5, 7, 9, 11, 15, 21, 31)
_FOLDS = 5
_MOST_VALIDATED = 20_000
"""samples of the cross-validation, drawn from the training split where there are more"""
_BLOCK = 4_096
"""points whose distances are held at once"""
_QUERIES = 500
_DISTANCES = {"l1": absolute_distances, "l2": squared_distances}
"""or their squares, whose order is the same"""


class NearestNeighboursConfig(ModelConfig):
    """The k nearest neighbours."""

    kind: Literal["nearest_neighbours"] = "nearest_neighbours"
    targets: ClassVar = (Classes, RealValues)
    outputs: ClassVar = "shares"
    k: PositiveInt | None = None
    """how many; by default what is best of 1, 3, 5, 7, 9, 11, 15, 21 and 31 in a cross-validation of five folds of the
    training split (at most 20,000 of its samples)"""
    metric: Literal["l1", "l2"] = "l2"
    """the distance: the sum of absolute differences, or the root of that of squared ones"""

    def build(self, num_features: int, num_outputs: int) -> NearestNeighbours:
        return NearestNeighbours(self, num_features, num_outputs)


class NearestNeighbours(Model):
    """The mean of the values of the k nearest points; of classes, the shares of their votes."""

    centre: Tensor  # (F,) of the points, which lie around it: rounding of distances is then smallest
    points: Tensor  # (N, F)
    values: Tensor  # (N, K) one-hot, or (N, T)
    weights: Tensor  # (k,) of the nearest, the second nearest, ...: all alike

    def __init__(self, config: NearestNeighboursConfig, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.config, self.num_outputs = config, num_outputs
        self.register_buffer("centre", torch.zeros(num_features))
        self.register_buffer("points", torch.empty(0, num_features))
        self.register_buffer("values", torch.empty(0, num_outputs))
        self.register_buffer("weights", torch.empty(0))

    def check(self, num_samples: int) -> None:
        if self.config.k is not None and self.config.k > num_samples:
            raise UserError(
                f"module.model.k={self.config.k} is not valid: the training split has {num_samples} samples."
            )

    def forward(self, x: Tensor) -> Tensor:
        check_fitted(self.weights)
        index = nearest(x - self.centre, self.points, len(self.weights), self.config.metric)
        return (self.values[index] * self.weights[:, None]).sum(1) / self.weights.sum()

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, seed: int) -> None:
        values = (F.one_hot(y, self.num_outputs) if y.dim() == 1 else y).to(self.values.dtype)
        centre = x.mean(0)
        k = self.config.k or best_k(x - centre, values, self.config.metric, y.dim() == 1, seed)
        self.centre, self.points = centre.to(self.centre), (x - centre).to(self.points)
        self.values, self.weights = values.to(self.values), self.weights.new_ones(k)


def nearest(x: Tensor, points: Tensor, k: int, metric: Literal["l1", "l2"]) -> Tensor:
    """Which of the points (N, F) are the k nearest of each x (B, F): (B, k), the nearest first."""
    distances, index = [], []
    for first in range(0, len(points), _BLOCK):
        block = points[first : first + _BLOCK]
        near = _DISTANCES[metric](x, block).topk(min(k, len(block)), dim=1, largest=False)
        distances.append(near.values)
        index.append(near.indices + first)
    best = torch.cat(distances, 1).topk(k, dim=1, largest=False).indices
    return torch.cat(index, 1).gather(1, best)


def best_k(x: Tensor, values: Tensor, metric: Literal["l1", "l2"], of_classes: bool, seed: int) -> int:
    """The k of fewest mistakes (of values, of the smallest squared error) in a cross-validation; the least of equals.

    Args:
        x: (N, F)
        values: one-hot classes (N, K), or values (N, T)
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:_MOST_VALIDATED]
    folds = [fold for fold in order.tensor_split(_FOLDS) if len(fold)]
    candidates = [k for k in _CANDIDATES if k <= len(order) - max(map(len, folds))] or [1]
    errors = torch.zeros(len(candidates), dtype=torch.float64)
    for i, fold in enumerate(folds if len(folds) > 1 else ()):
        rest = torch.cat([other for j, other in enumerate(folds) if j != i])
        for part in fold.split(_QUERIES):
            index = nearest(x[part], x[rest], candidates[-1], metric)
            sums = values[rest][index].double().cumsum(1)  # (B, k, K)
            for j, k in enumerate(candidates):
                mean, true = sums[:, k - 1] / k, values[part]
                wrong = mean.argmax(1) != true.argmax(1) if of_classes else (mean - true).square()
                errors[j] += wrong.sum()
    return candidates[int(errors.argmin())]
