"""GoogLeNet: inception modules, convolutions of several sizes side by side (Szegedy et al. 2015), with the batch
normalisation of the year after (Ioffe and Szegedy 2015). B batch, C channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lab.backbones.layers import Form, Share, conv_norm, initialized, is_small
from lab.backbones.registry import register
from lab.backbones.staged import Staged

_MODULES = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}
"""table 1: channels of the 1x1, of the 3x3 and the 5x5 with the 1x1 before each, and after the pooling"""
_AUXILIARY = ("4a", "4d")


class Inception(nn.Module):
    """1x1, 3x3 and 5x5 convolutions and a pooling beside each other, the large ones behind 1x1 bottlenecks."""

    def __init__(self, before: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int) -> None:
        super().__init__()
        self.one = _convolution(before, one, 1)
        self.three = nn.Sequential(*_convolution(before, three[0], 1), *_convolution(*three, 3))
        self.five = nn.Sequential(*_convolution(before, five[0], 1), *_convolution(*five, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), *_convolution(before, pool, 1))
        self.num_channels = one + three[1] + five[1] + pool

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


@register("googlenet", example_shape=(3, 32, 32), staged=True)
def googlenet(input_shape: tuple[int, ...], *, form: Form = "auto", dropout: Share = 0.4) -> nn.Module:
    """GoogLeNet (Szegedy et al. 2015): 7.0 M parameters with 1,000 classes; auxiliary heads at 4a and 4d may help."""
    small = is_small(input_shape, form, least=32)
    if small:
        layers: list[nn.Module] = [*_convolution(input_shape[0], 192, 3)]
    else:
        layers = [*_convolution(input_shape[0], 64, 7, 2), nn.MaxPool2d(3, 2, ceil_mode=True)]
        layers += [*_convolution(64, 64, 1), *_convolution(64, 192, 3), nn.MaxPool2d(3, 2, ceil_mode=True)]
    before, stride, ends, auxiliary = 192, (1 if small else 8), {}, []
    for name, widths in _MODULES.items():
        if name in ("4a", "5a"):
            ends[len(layers) - 1] = stride
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            stride *= 2
        layers.append(Inception(before, *widths))
        before = layers[-1].num_channels  # type: ignore[assignment]
        if name in _AUXILIARY:
            auxiliary.append(len(layers) - 1)
    ends[len(layers) - 1] = stride
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)]
    return initialized(Staged(*layers, ends=ends, auxiliary=auxiliary))


def _convolution(before: int, after: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_norm(before, after, kernel, stride), nn.ReLU())
