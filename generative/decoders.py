"""Decoders: latents to images. VAEs call them decoders, GANs generators; both take any of them.

Latents are vectors (B, D), or for a VQ-VAE grids of vectors (B, D, h, w).
B batch, D latents, C channels, H height, W width, h x w grid.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones.layers import Activation, activation_layer, norm_layer
from lab.errors import UserError
from lab.experiment import KindConfig

Norm = Literal["batch", "group", "none"]
InputShape = tuple[int, ...]
"""(D,) or (D, h, w)"""


class DecoderConfig(KindConfig):
    """`build` gives a network (B, *input_shape) -> (B, C, H, W) of unbounded values."""

    def build(self, input_shape: InputShape, image_shape: tuple[int, ...]) -> nn.Module:
        raise NotImplementedError


class MlpDecoder(DecoderConfig):
    """Multi-layer perceptron."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = Field(default=(512,), min_length=1)
    activation: Activation = "relu"
    norm: Literal["batch", "none"] = "none"

    def build(self, input_shape: InputShape, image_shape: tuple[int, ...]) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) > 1 else []
        before = math.prod(input_shape)
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
    hidden: tuple[int, ...] = ()
    """of the perceptron before the smallest map, for vectors of latents"""
    norm: Norm = "batch"
    activation: Activation = "relu"

    def build(self, input_shape: InputShape, image_shape: tuple[int, ...]) -> nn.Module:
        layers: list[nn.Module] = []
        if self.hidden and len(input_shape) > 1:
            raise UserError("module.decoder.hidden is for vectors of latents, not for grids.")
        for before, after in itertools.pairwise((math.prod(input_shape), *self.hidden)):
            layers += [nn.Linear(before, after), activation_layer(self.activation)]
            input_shape = (after,)
        layers.append(_smallest_map(input_shape, self.channels, image_shape))
        layers += [norm_layer(self.norm, self.channels[0]), activation_layer(self.activation)]
        for channels_in, channels_out in itertools.pairwise(self.channels):
            layers.append(nn.ConvTranspose2d(channels_in, channels_out, 4, 2, 1, bias=False))
            layers += [norm_layer(self.norm, channels_out), activation_layer(self.activation)]
        layers.append(nn.ConvTranspose2d(self.channels[-1], image_shape[0], 4, 2, 1))
        return nn.Sequential(*layers, Crop(image_shape))


class ResNetDecoder(DecoderConfig):
    """Residual blocks of 3x3 convolutions, each at double the size (the generator of Miyato et al. 2018)."""

    kind: Literal["resnet"] = "resnet"
    channels: tuple[int, ...] = Field(default=(64, 32), min_length=1)
    """channels before each doubling; the first is the smallest map's"""
    norm: Norm = "batch"

    def build(self, input_shape: InputShape, image_shape: tuple[int, ...]) -> nn.Module:
        layers: list[nn.Module] = [_smallest_map(input_shape, self.channels, image_shape)]
        for before, after in zip(self.channels, (*self.channels[1:], self.channels[-1]), strict=True):
            layers.append(UpBlock(before, after, self.norm))
        layers += [norm_layer(self.norm, self.channels[-1]), nn.ReLU()]
        layers.append(nn.Conv2d(self.channels[-1], image_shape[0], 3, padding=1))
        return nn.Sequential(*layers, Crop(image_shape))


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


def _smallest_map(input_shape: InputShape, channels: tuple[int, ...], image_shape: tuple[int, ...]) -> nn.Module:
    """Latents to the map before the first doubling: (B, channels[0], H / 2^doublings, W / 2^doublings), rounded up.

    Raises UserError for a grid of another size.
    """
    doublings = len(channels)
    height, width = (math.ceil(size / 2**doublings) for size in image_shape[1:])
    if len(input_shape) == 1:
        project = nn.Linear(input_shape[0], channels[0] * height * width)
        return nn.Sequential(project, nn.Unflatten(1, (channels[0], height, width)))
    if tuple(input_shape[1:]) != (height, width):
        raise UserError(
            f"a decoder of {doublings} doublings makes {image_shape[1]}x{image_shape[2]} pixels from a grid of "
            f"{height}x{width}, not {input_shape[1]}x{input_shape[2]}; give module.decoder.channels one entry for each "
            f"halving of the encoder."
        )
    return nn.Conv2d(input_shape[0], channels[0], 3, padding=1)


class Crop(nn.Module):
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
