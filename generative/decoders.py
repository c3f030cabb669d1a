"""Decoders: latent vectors to images. VAEs call them decoders, GANs generators; both take any of them.

B batch, D latents, C channels, H height, W width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones.conv import norm_layer
from lab.backbones.mlp import Activation, activation_layer
from lab.experiment import KindConfig

Norm = Literal["batch", "group", "none"]


class DecoderConfig(KindConfig):
    """`build` gives a network (B, D) -> (B, C, H, W) of unbounded values."""

    def build(self, num_inputs: int, image_shape: tuple[int, ...]) -> nn.Module:
        raise NotImplementedError


class MlpDecoder(DecoderConfig):
    """Multi-layer perceptron."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = Field(default=(512,), min_length=1)
    activation: Activation = "relu"
    norm: Literal["batch", "none"] = "none"

    def build(self, num_inputs: int, image_shape: tuple[int, ...]) -> nn.Module:
        layers: list[nn.Module] = []
        before = num_inputs
        for after in self.hidden:
            layers.append(nn.Linear(before, after))
            if self.norm == "batch":
                layers.append(nn.BatchNorm1d(after))
            layers.append(activation_layer(self.activation))
            before = after
        return nn.Sequential(*layers, nn.Linear(before, math.prod(image_shape)), nn.Unflatten(1, image_shape))


class ConvDecoder(DecoderConfig):
    """Transposed convolutions that double the size (the generator of DCGAN, Radford et al. 2016)."""

    kind: Literal["conv"] = "conv"
    channels: tuple[int, ...] = Field(default=(64, 32), min_length=1)
    """channels before each doubling; the first is the smallest map's"""
    norm: Norm = "batch"
    activation: Activation = "relu"

    def build(self, num_inputs: int, image_shape: tuple[int, ...]) -> nn.Module:
        layers: list[nn.Module] = [_Project(num_inputs, self.channels[0], image_shape, len(self.channels))]
        layers += [norm_layer(self.norm, self.channels[0]), activation_layer(self.activation)]
        for before, after in zip(self.channels, (*self.channels[1:], None), strict=True):
            last = after is None
            layers.append(nn.ConvTranspose2d(before, image_shape[0] if after is None else after, 4, 2, 1, bias=last))
            if after is not None:
                layers += [norm_layer(self.norm, after), activation_layer(self.activation)]
        return nn.Sequential(*layers, _Crop(image_shape))


class ResNetDecoder(DecoderConfig):
    """Residual blocks of 3x3 convolutions, each at double the size (the generator of Miyato et al. 2018)."""

    kind: Literal["resnet"] = "resnet"
    channels: tuple[int, ...] = Field(default=(64, 32), min_length=1)
    """channels before each doubling; the first is the smallest map's"""
    norm: Norm = "batch"

    def build(self, num_inputs: int, image_shape: tuple[int, ...]) -> nn.Module:
        layers: list[nn.Module] = [_Project(num_inputs, self.channels[0], image_shape, len(self.channels))]
        for before, after in zip(self.channels, (*self.channels[1:], self.channels[-1]), strict=True):
            layers.append(UpBlock(before, after, self.norm))
        layers += [norm_layer(self.norm, self.channels[-1]), nn.ReLU()]
        layers.append(nn.Conv2d(self.channels[-1], image_shape[0], 3, padding=1))
        return nn.Sequential(*layers, _Crop(image_shape))


class UpBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, both at double the size."""

    def __init__(self, channels_in: int, channels_out: int, norm: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm_layer(norm, channels_in), norm_layer(norm, channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.interpolate(F.relu(self.norm1(x)), scale_factor=2.0))
        h = self.conv2(F.relu(self.norm2(h)))
        out: Tensor = F.interpolate(self.shortcut(x), scale_factor=2.0) + h
        return out


class _Project(nn.Module):
    """(B, D) -> (B, channels, H / 2^doublings, W / 2^doublings), rounded up."""

    def __init__(self, num_inputs: int, channels: int, image_shape: tuple[int, ...], doublings: int) -> None:
        super().__init__()
        height, width = (math.ceil(size / 2**doublings) for size in image_shape[1:])
        self.shape = (channels, height, width)
        self.linear = nn.Linear(num_inputs, channels * height * width)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.linear(z).unflatten(1, self.shape)
        return out


class _Crop(nn.Module):
    """Cut the size down to the image's, from the middle."""

    def __init__(self, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.height, self.width = image_shape[1:]

    def forward(self, x: Tensor) -> Tensor:
        top, left = (x.shape[2] - self.height) // 2, (x.shape[3] - self.width) // 2
        return x[:, :, top : top + self.height, left : left + self.width]


def with_class(x: Tensor, labels: Tensor | None, num_classes: int) -> Tensor:
    """Vectors (B, D) with the one-hot class (B,) appended: (B, D + num_classes); without labels unchanged."""
    if labels is None:
        return x
    return torch.cat([x, F.one_hot(labels, num_classes).to(x.dtype)], dim=1)
