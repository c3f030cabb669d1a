"""What a baseline fits on features: the base of all such models, and distances. B batch, N samples, F features."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lab.data.targets import Classes
from lab.errors import UserError
from lab.experiment import KindConfig
from lab.supervised.baselines.fitted import Fitted


class ModelConfig(KindConfig):
    """What is fitted."""

    targets: ClassVar[tuple[type[Any], ...]] = (Classes,)
    """the kinds of targets that it predicts"""
    outputs: ClassVar[Literal["logits", "shares", "scores"]] = "scores"
    """what it gives of classes: logits have probabilities; shares of votes are from 0 to 1; scores say no more than
    which class is first, which second"""

    def build(self, num_features: int, num_outputs: int) -> Model:
        """A model of so many classes, or values."""
        raise NotImplementedError


class Model(Fitted):
    """Features (B, F) -> what it gives of K classes, or T values (B, K or T). Subclasses hold tensors that `fit` sets.

    Until then they answer nothing: `forward` raises UserError.
    """

    def check(self, num_samples: int) -> None:
        """Raise UserError where so many training samples are too few."""

    def fit(self, x: Tensor, y: Tensor, seed: int) -> None:
        """Fit to features (N, F) float32 and class numbers (N,), of which each is there, or values (N, T) float64."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def check_fitted(tensor: Tensor) -> None:
    """Raise UserError where a tensor is still empty."""
    if not len(tensor):
        raise UserError("this baseline is not fitted yet, and so answers nothing.")


def squared_distances(x: Tensor, points: Tensor) -> Tensor:
    """|x - p|^2 (B, N) of x (B, F) and points (N, F); rounding is that of the lengths of both, so centre them first."""
    lengths = x.square().sum(1, keepdim=True) + points.square().sum(1)
    return (lengths - 2 * x @ points.T).clamp(min=0)


def absolute_distances(x: Tensor, points: Tensor) -> Tensor:
    """The sums |x - p| (B, N) of x (B, F) and points (N, F)."""
    if torch.compiler.is_exporting():  # ONNX has no such operator
        return (x[:, None] - points).abs().sum(2)
    return torch.cdist(x, points, p=1)
