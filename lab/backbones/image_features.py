"""Any registered backbone as a network from images to feature vectors.

B batch, C channels, H rows, W columns, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lab.backbones import BackboneConfig, build_backbone


class ImageFeatures(nn.Module):
    """Images (B, C, H, W) to features (B, F). A recurrent backbone reads row by row and gives its last output."""

    def __init__(self, config: BackboneConfig, image_shape: Sequence[int]) -> None:
        super().__init__()
        channels, _, width = image_shape
        self.recurrent = config.recurrent
        self.backbone = build_backbone(config, (channels * width,) if self.recurrent else image_shape)
        self.num_features = self.backbone.num_features

    def forward(self, x: Tensor) -> Tensor:
        if not self.recurrent:
            return torch.flatten(self.backbone(x), 1)
        rows = x.permute(2, 0, 1, 3).flatten(2)  # (H, B, C * W)
        reset = torch.zeros(rows.shape[:2], dtype=torch.bool, device=x.device)
        features, _ = self.backbone(rows, self.backbone.initial_state(x.shape[0]), reset)
        last: Tensor = features[-1]
        return last
