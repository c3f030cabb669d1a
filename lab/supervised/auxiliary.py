"""Auxiliary heads: the task's loss at inner maps of a deep network, while it learns (Szegedy et al. 2015)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lab.backbones.features import Features, FeatureSpec
from lab.backbones.staged import Staged
from lab.supervised.tasks import TaskConfig
from lab.supervised.tasks.base import Task

_SIDE, _CHANNELS, _HIDDEN, _DROPOUT = 4, 128, 1024, 0.7


class AuxiliaryHead(nn.Module):
    """Pooling to 4x4, a 1x1 convolution, a hidden layer and the task's own head: of a map (B, C, H, W)."""

    def __init__(self, channels: int, task: TaskConfig, target: Any) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.AdaptiveAvgPool2d(_SIDE),
            nn.Conv2d(channels, _CHANNELS, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(_CHANNELS * _SIDE**2, _HIDDEN),
            nn.ReLU(),
            nn.Dropout(_DROPOUT),
        )
        self.task: Task = task.build(target, FeatureSpec("vector", ((_HIDDEN,),)))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.task(self.features(x))
        return outputs

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The task's, of maps (B, C, H, W) and targets (B, ...)."""
        return self.task.loss(self(x), y).value


def auxiliary_heads(features: Features, task: TaskConfig, target: Any) -> nn.ModuleList:
    """A head for each map that the backbone gives for one; none where heads ask for more than a vector."""
    net = features.backbone.net
    if not isinstance(net, Staged) or features.kind != "vector":
        return nn.ModuleList()
    with torch.no_grad():
        _, maps = net.with_auxiliary(torch.zeros(2, *features.backbone.input_shape))
    return nn.ModuleList(AuxiliaryHead(each.shape[1], task, target) for each in maps)
