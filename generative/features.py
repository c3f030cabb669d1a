"""Any registered backbone as a network from images to feature vectors, and the backbone of DCGAN.

B batch, C channels, H rows, W columns, F features.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from lab.backbones import BackboneConfig, build_backbone, register
from lab.backbones.conv import channels_of, norm_layer
from lab.data.spec import TensorSpec


class ImageFeatures(nn.Module):
    """Images (B, C, H, W) to features (B, F). A recurrent backbone reads row by row and gives its last output."""

    def __init__(self, config: BackboneConfig, image: TensorSpec) -> None:
        super().__init__()
        channels, _, width = image.shape
        self.recurrent = config.recurrent
        self.backbone = build_backbone(config, (channels * width,) if self.recurrent else image.shape)
        self.num_features = self.backbone.num_features

    def forward(self, x: Tensor) -> Tensor:
        if self.recurrent:
            rows = x.permute(2, 0, 1, 3).flatten(2)  # (H, B, C * W)
            reset = torch.zeros(rows.shape[:2], dtype=torch.bool, device=x.device)
            out: Tensor = self.backbone(rows, self.backbone.initial_state(x.shape[0]), reset)[0][-1]
            return out
        out = self.backbone(x)
        return out.flatten(1)


@register("dcgan", example_shape=(1, 28, 28))
def dcgan(
    input_shape: tuple[int, ...], *, channels: tuple[int, ...] = (32, 64), norm: str = "none", dropout: float = 0.0
) -> nn.Module:
    """4x4 convolutions that halve the size, leaky ReLU (the discriminator of DCGAN, Radford et al. 2016)."""
    if len(input_shape) != 3:
        raise ValueError("it needs an image (channels, height, width)")
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise((channels_of(input_shape), *channels))):
        layers.append(nn.Conv2d(before, after, 4, 2, 1))
        if i > 0:
            layers.append(norm_layer(norm, after))
        layers += [nn.LeakyReLU(0.2), nn.Dropout2d(dropout)]
    return nn.Sequential(*layers, nn.Flatten())
