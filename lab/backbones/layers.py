"""Layers that several networks share. B batch, C channels, H rows, W columns, D numbers."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["relu", "tanh", "sigmoid", "elu", "gelu", "silu", "leaky_relu", "prelu", "softplus"]
Form = Literal["auto", "large", "small"]
"""large: as published, for 224 pixels; small: for 28 to 64 pixels, whose size is halved later; auto: by the size"""
Share = Annotated[float, Field(ge=0, lt=1)]
"""a probability of being lost"""
_SMALL = 96

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "softplus": nn.Softplus,
}


def activation_layer(name: Activation) -> nn.Module:
    """The layer of an activation's name."""
    return _ACTIVATIONS[name]()


class AsImage(nn.Module):
    """(B, D) or (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.dim() == 4 else x.reshape(*x.shape[:2], *x.shape[2:], *([1] * (4 - x.dim())))


class Maxout(nn.Module):
    """The largest of every `pieces` neighbours: (B, pieces * D) -> (B, D) (Goodfellow et al. 2013)."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.pieces)).amax(-1)


class DropConnect(nn.Linear):
    """A linear layer that loses each weight with probability `p` while it learns (Wan et al. 2013), one draw a
    minibatch; those that stay are scaled by 1 / (1 - p)."""

    def __init__(self, before: int, after: int, p: float) -> None:
        super().__init__(before, after)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.dropout(self.weight, self.p, self.training), self.bias)


class DropPath(nn.Module):
    """Loses a whole branch (B, ...) of a sample with probability `p` while it learns; those that stay are scaled by
    1 / (1 - p) (stochastic depth, Huang et al. 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        stays = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.p
        return x * stays.to(x.dtype) / (1 - self.p)


def channels_of(input_shape: tuple[int, ...]) -> int:
    """Channels of an image (C, H, W) or vector (D,) shape. Raises ValueError for any other rank."""
    if len(input_shape) not in (1, 3):
        raise ValueError("it needs an image (channels, height, width) or a vector")
    return input_shape[0]


def is_small(input_shape: tuple[int, ...], form: Form, least: int) -> bool:
    """Whether a network for images takes its small form.

    Raises ValueError for inputs that are no images, or smaller than `least` pixels for the large form, 8 for the small.
    """
    if len(input_shape) != 3:
        raise ValueError("it needs an image (channels, height, width)")
    small = form == "small" or (form == "auto" and min(input_shape[1:]) < _SMALL)
    least = 8 if small else least
    if min(input_shape[1:]) < least:
        raise ValueError(f"it needs an image of at least {least}x{least} pixels{'' if small else ' (form=large)'}")
    return small


def norm_layer(norm: str, channels: int) -> nn.Module:
    """batch, group (up to 8 groups) or none."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)
    return nn.Identity()


def conv_norm(
    before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, eps: float = 1e-5
) -> list[nn.Module]:
    """A convolution that keeps the size (but for its stride) and batch normalisation, which makes a bias needless."""
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(after, eps=eps)]


def initialized(net: nn.Module) -> nn.Module:
    """With convolutions drawn for rectified units: normal, of variance 2 / (outputs that a weight reaches) (He et al.
    2015)."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


def pooled(size: int, times: int) -> int:
    """What is left of a side that is halved so often, rounded up."""
    return math.ceil(size / 2**times)
