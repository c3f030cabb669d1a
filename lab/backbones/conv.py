"""Convolutional backbones for images (C, H, W); a vector (D,) is read as D channels of one pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones.layers import Activation, AsImage, activation_layer, channels_of, norm_layer
from lab.backbones.registry import register
from lab.backbones.staged import Staged


@register("lenet", example_shape=(1, 28, 28), staged=True)
def lenet(
    input_shape: tuple[int, ...],
    *,
    channels: tuple[int, int] = (16, 32),
    hidden: int = 128,
    dropout: float = 0.0,
) -> nn.Module:
    """Two 5x5 convolutions with pooling and a hidden layer (after LeCun et al. 1998), for images of any size."""
    first, second = channels
    return Staged(
        AsImage(),
        nn.Conv2d(channels_of(input_shape), first, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(first, second, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        _linear(input_shape, second, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        ends={3: 2, 6: 4},
    )


@register("nature_cnn", example_shape=(4, 84, 84), staged=True)
def nature_cnn(
    input_shape: tuple[int, ...], *, hidden: int = 512, activation: Activation = "relu", scale: bool = False
) -> nn.Module:
    """The convolutional network of the Nature DQN (Mnih et al. 2015), for stacks of 84x84 frames."""
    if len(input_shape) != 3 or min(input_shape[1:]) < 36:
        raise ValueError("it needs an image (channels, height, width) of at least 36x36 pixels")
    net = Staged(
        nn.Conv2d(input_shape[0], 32, 8, stride=4),
        activation_layer(activation),
        nn.Conv2d(32, 64, 4, stride=2),
        activation_layer(activation),
        nn.Conv2d(64, 64, 3, stride=1),
        activation_layer(activation),
        nn.Flatten(),
        ends={1: 4, 3: 8, 5: 8},
    )
    with torch.no_grad():
        num_features = net(torch.zeros(1, *input_shape)).shape[1]
    net.extend([nn.Linear(num_features, hidden), activation_layer(activation)])
    return net


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, normalisation first (He et al. 2016, identity mappings)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, norm: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm_layer(norm, channels_in), norm_layer(norm, channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        h = self.conv2(F.relu(self.norm2(self.conv1(h))))
        out: Tensor = self.shortcut(x) + h
        return out


@register("resnet", example_shape=(3, 32, 32), staged=True)
def resnet(
    input_shape: tuple[int, ...],
    *,
    channels: tuple[int, ...] = (16, 32, 64),
    blocks: int = 1,
    norm: str = "group",
    hidden: int = 0,
) -> nn.Module:
    """A small residual network (He et al. 2016): stages of 3x3 blocks, each at half the size, then the mean."""
    if norm not in ("batch", "group", "none"):
        raise ValueError(f"norm={norm!r} is none of batch, group, none")
    layers: list[nn.Module] = [AsImage(), nn.Conv2d(channels_of(input_shape), channels[0], 3, padding=1)]
    before, ends = channels[0], {}
    for stage, width in enumerate(channels):
        for block in range(blocks):
            layers.append(ResidualBlock(before, width, 2 if stage > 0 and block == 0 else 1, norm))
            before = width
        ends[len(layers) - 1] = 2**stage
    ends[len(layers) + 1] = ends.pop(len(layers) - 1)  # of the last stage, normalised and rectified
    layers += [norm_layer(norm, before), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if hidden:
        layers += [nn.Linear(before, hidden), nn.ReLU()]
    return Staged(*layers, ends=ends)


def _linear(input_shape: tuple[int, ...], channels: int, hidden: int) -> nn.Module:
    height, width = (input_shape[1], input_shape[2]) if len(input_shape) == 3 else (1, 1)
    for _ in range(2):
        height, width = -(-height // 2), -(-width // 2)
    return nn.Linear(channels * height * width, hidden)
