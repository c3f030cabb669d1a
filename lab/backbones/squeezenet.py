"""SqueezeNet: few parameters by 1x1 convolutions that squeeze before others expand (Iandola et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lab.backbones.layers import Form, Share, initialized, is_small
from lab.backbones.registry import register
from lab.backbones.staged import Staged

_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
"""channels of each module: squeezed, and of each of the two convolutions that expand"""


class Fire(nn.Module):
    """A 1x1 convolution to few channels, then a 1x1 and a 3x3 one beside each other."""

    def __init__(self, before: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(before, squeezed, 1), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(squeezed, expanded, 1), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(squeezed, expanded, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat([self.one(x), self.three(x)], 1)


@register("squeezenet", example_shape=(3, 32, 32), staged=True)
def squeezenet(input_shape: tuple[int, ...], *, form: Form = "auto", dropout: Share = 0.5) -> nn.Module:
    """SqueezeNet 1.0 (Iandola et al. 2016): 1.2 M parameters with 1,000 classes."""
    small = is_small(input_shape, form, least=21)
    stem, pools = (96, (3,)) if small else (96, (3, 7))
    layers: list[nn.Module] = [
        nn.Conv2d(input_shape[0], stem, *((3, 1, 1) if small else (7, 2))),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
    ]
    before, stride, ends = stem, (2 if small else 4), {}
    for place, (squeezed, expanded) in enumerate(_FIRES):
        if place in pools:
            ends[len(layers) - 1] = stride
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            stride *= 2
        layers.append(Fire(before, squeezed, expanded))
        before = 2 * expanded
    ends[len(layers) - 1] = stride
    layers += [nn.Dropout(dropout), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return initialized(Staged(*layers, ends=ends))
