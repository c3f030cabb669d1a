"""The discriminator of DCGAN (Radford et al. 2016), and with `flatten=False` the encoder of a VQ-VAE."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from lab.backbones.layers import channels_of, norm_layer
from lab.backbones.registry import register


@register("dcgan", example_shape=(1, 28, 28))
def dcgan(
    input_shape: tuple[int, ...],
    *,
    channels: tuple[int, ...] = (32, 64),
    norm: str = "none",
    dropout: float = 0.0,
    hidden: int = 0,
    flatten: bool = True,
) -> nn.Module:
    """4x4 convolutions that halve the size, leaky ReLU (Radford et al. 2016), and a hidden layer where asked for."""
    if len(input_shape) != 3:
        raise ValueError("it needs an image (channels, height, width)")
    if hidden and not flatten:
        raise ValueError("a hidden layer needs flatten=true")
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise((channels_of(input_shape), *channels))):
        layers.append(nn.Conv2d(before, after, 4, 2, 1))
        if i > 0:
            layers.append(norm_layer(norm, after))
        layers += [nn.LeakyReLU(0.2), nn.Dropout2d(dropout)]
    net = nn.Sequential(*layers)
    if flatten:
        net.append(nn.Flatten())
    if hidden:
        with torch.no_grad():
            num_features = net(torch.zeros(1, *input_shape)).shape[1]
        net.extend([nn.Linear(num_features, hidden), nn.LeakyReLU(0.2)])
    return net
