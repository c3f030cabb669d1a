"""DenseNet: each layer reads the maps of all layers before it in its block (Huang et al. 2017). B batch, C channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lab.backbones.layers import Form, Share, initialized, is_small
from lab.backbones.registry import register
from lab.backbones.staged import Staged


class DenseLayer(nn.Module):
    """BN, ReLU and a 3x3 convolution to `growth` channels, with a 1x1 bottleneck of 4 times as many before it."""

    def __init__(self, before: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.ReLU(),
            nn.Conv2d(before, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], 1)


def _densenet(
    input_shape: tuple[int, ...],
    depths: tuple[int, ...],
    growth: int,
    stem: int,
    form: Form,
    dropout: float,
) -> nn.Module:
    """Blocks of so many layers; between them the channels are halved by 1x1 convolutions (DenseNet-BC), then pooled."""
    small = is_small(input_shape, form, least=32)
    layers: list[nn.Module] = [nn.Conv2d(input_shape[0], stem, 3, padding=1, bias=False)]
    if not small:
        layers = [nn.Conv2d(input_shape[0], stem, 7, 2, 3, bias=False), nn.BatchNorm2d(stem), nn.ReLU()]
        layers.append(nn.MaxPool2d(3, 2, 1))
    width, stride, ends = stem, (1 if small else 4), {}
    for block, depth in enumerate(depths):
        for _ in range(depth):
            layers.append(DenseLayer(width, growth, dropout))
            width += growth
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        ends[len(layers) - 1] = stride
        if block < len(depths) - 1:
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width, stride = width // 2, stride * 2
    return initialized(Staged(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), ends=ends))


@register("densenet_bc", example_shape=(3, 32, 32), staged=True)
def densenet_bc(
    input_shape: tuple[int, ...], *, depth: int = 40, growth: int = 12, form: Form = "small", dropout: Share = 0.0
) -> nn.Module:
    """DenseNet-BC of three blocks (Huang et al. 2017); depth 100, growth 12: 0.8 M parameters."""
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth={depth} is none of 10, 16, 22, 40, 100, 190, 250, ... (6 n + 4)")
    return _densenet(input_shape, ((depth - 4) // 6,) * 3, growth, 2 * growth, form, dropout)


@register("densenet121", example_shape=(3, 32, 32), staged=True)
def densenet121(input_shape: tuple[int, ...], *, form: Form = "auto", dropout: Share = 0.0) -> nn.Module:
    """DenseNet-121 (Huang et al. 2017): 8.0 M parameters with 1,000 classes."""
    return _densenet(input_shape, (6, 12, 24, 16), 32, 64, form, dropout)


@register("densenet169", example_shape=(3, 32, 32), staged=True)
def densenet169(input_shape: tuple[int, ...], *, form: Form = "auto", dropout: Share = 0.0) -> nn.Module:
    """DenseNet-169 (Huang et al. 2017): 14.1 M parameters with 1,000 classes."""
    return _densenet(input_shape, (6, 12, 32, 32), 32, 64, form, dropout)
