"""Preprocessing of inputs by statistics of the training split, which are saved, exported and applied with the net.

N samples, C channels, D numbers of an input, K components.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from lab.errors import UserError
from lab.experiment import Config

_PROJECTIONS = ("pca", "whitening", "zca")
_MOST_NUMBERS = 4096
"""of an input, for those that need the covariance of all of them"""


class PreprocessingConfig(Config):
    """What is done to inputs before the backbone sees them."""

    name: Literal["none", "centring", "z_score", "channel_z_score", "min_max", "decimal", "pca", "whitening", "zca"] = (
        "none"
    )
    """centring: the mean of each number is subtracted; z_score: and it is divided by its standard deviation, or by that
    of its channel; min_max: to [0, 1]; decimal: divided by a power of 10, below 1; pca: principal components;
    whitening: these with variance 1; zca: turned back into the inputs' own axes"""
    components: PositiveInt | None = None
    """pca and whitening: how many, those of most variance; by default all"""
    eps: PositiveFloat = 1e-5
    """whitening and zca: added to variances"""

    @model_validator(mode="after")
    def _check(self) -> PreprocessingConfig:
        if self.components is not None and self.name not in ("pca", "whitening"):
            raise ValueError(f"components are of name=pca and whitening, not of {self.name}")
        return self


class Preprocessing(nn.Module):
    """(B, ...) -> (B, ...), or (B, K) where components are taken: ((x - shift) * factor), then a product.

    It is the identity until `fit` has seen the training split. Raises UserError for inputs that it cannot take.
    """

    shift: Tensor
    factor: Tensor
    matrix: Tensor  # (D, K)

    def __init__(self, config: PreprocessingConfig, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.config, self.input_shape = config, tuple(input_shape)
        self.output_shape = self.input_shape
        if config.name == "none":
            return
        num = math.prod(self.input_shape)
        by_channel = config.name == "channel_z_score" and len(self.input_shape) == 3
        shape = (self.input_shape[0], 1, 1) if by_channel else self.input_shape
        self.register_buffer("shift", torch.zeros(shape))
        self.register_buffer("factor", torch.ones(shape))
        if config.name in _PROJECTIONS:
            if num > _MOST_NUMBERS:
                raise UserError(
                    f"module.preprocessing.name={config.name!r} is for inputs of at most {_MOST_NUMBERS:,} numbers; "
                    f"these have {num:,}."
                )
            kept = config.components or num
            if kept > num:
                raise UserError(f"module.preprocessing.components={kept} is not valid: inputs have {num} numbers.")
            self.register_buffer("matrix", torch.eye(num, kept))
            self.output_shape = self.input_shape if config.name == "zca" else (kept,)

    def forward(self, x: Tensor) -> Tensor:
        if self.config.name == "none":
            return x
        x = (x - self.shift) * self.factor
        if self.config.name not in _PROJECTIONS:
            return x
        return (x.flatten(1) @ self.matrix).unflatten(1, self.output_shape)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Take the statistics of inputs (B, ...), of which at least one is there."""
        if self.config.name == "none":
            return
        moments = _Moments(self.input_shape, covariance=self.config.name in _PROJECTIONS)
        for x in batches:
            moments.add(x)
        name, mean = self.config.name, moments.mean
        factor = torch.ones_like(mean)
        if name == "channel_z_score" and len(self.input_shape) == 3:
            mean, factor = moments.by_channel()
        elif name in ("z_score", "channel_z_score"):
            factor = 1 / moments.spread
        elif name == "min_max":
            reach = moments.high - moments.low
            mean, factor = moments.low, 1 / torch.where(reach > 0, reach, 1.0)
        elif name == "decimal":
            largest = torch.maximum(moments.high.abs(), moments.low.abs())
            mean, factor = torch.zeros_like(mean), 10.0 ** -(torch.floor(torch.log10(largest.clamp(min=0.1))) + 1)
        self.shift.copy_(mean)
        self.factor.copy_(factor)
        if name in _PROJECTIONS:
            self.matrix.copy_(self._projection(moments.covariance))

    def _projection(self, covariance: Tensor) -> Tensor:
        """(D, K): principal axes, those of most variance first."""
        variances, axes = torch.linalg.eigh(covariance)  # ascending
        variances, axes = variances.flip(0).clamp(min=0), axes.flip(1)
        if self.config.name == "pca":
            return axes[:, : self.output_shape[0]]
        white = axes / (variances + self.config.eps).sqrt()
        return white @ axes.T if self.config.name == "zca" else white[:, : self.output_shape[0]]


class _Moments:
    """Sums over a split, in float64, around its first sample."""

    def __init__(self, shape: tuple[int, ...], covariance: bool) -> None:
        self.shape, self.num = shape, 0
        self._products = torch.zeros(math.prod(shape), math.prod(shape), dtype=torch.float64) if covariance else None

    def add(self, x: Tensor) -> None:
        x = x.detach().double().cpu()
        if self.num == 0:
            self._first, self.low, self.high = x[0], x[0], x[0]
            self._sum, self._squares = torch.zeros_like(x[0]), torch.zeros_like(x[0])
        self.low, self.high = torch.minimum(self.low, x.amin(0)), torch.maximum(self.high, x.amax(0))
        apart = x - self._first
        self.num += len(x)
        self._sum, self._squares = self._sum + apart.sum(0), self._squares + apart.square().sum(0)
        if self._products is not None:
            self._products += apart.flatten(1).T @ apart.flatten(1)

    @property
    def mean(self) -> Tensor:
        return self._first + self._sum / self.num

    @property
    def spread(self) -> Tensor:
        """The standard deviation of each number; 1 of one that is always the same."""
        variance = (self._squares / self.num - (self._sum / self.num).square()).clamp(min=0)
        return torch.where(self.high > self.low, variance.sqrt(), 1.0)

    @property
    def covariance(self) -> Tensor:
        assert self._products is not None
        apart = (self._sum / self.num).flatten()
        return self._products / self.num - apart[:, None] * apart

    def by_channel(self) -> tuple[Tensor, Tensor]:
        """The mean, and 1 / the standard deviation (C, 1, 1), of all places of a channel."""
        mean = self.mean.mean((1, 2), keepdim=True)
        variance = self._squares / self.num - (self._sum / self.num).square() + (self.mean - mean).square()
        spread = variance.mean((1, 2), keepdim=True).clamp(min=0).sqrt()
        return mean, 1 / torch.where(spread > 0, spread, 1.0)
