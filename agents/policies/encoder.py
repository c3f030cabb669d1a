"""From observations of any spec to features: one backbone, or for a dict with pictures a network for each kind of part.

B batch, D numbers of an observation side by side, F features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.types import Obs, to_float
from lab.backbones import BACKBONES, Backbone, BackboneConfig, build_backbone
from lab.data.spec import TensorSpec

_NATURE_PIXELS = 36
"""the least width and height that the network of the Nature DQN takes"""


class Encoder(nn.Module):
    """A backbone for observations of any spec, and `prepare`, which makes them the one tensor that it takes.

    Discrete observations become one-hot vectors; the parts of a dict lie side by side. Where some of them are pictures
    (C, H, W), the backbone is `JoinedNetworks`; one with a memory reads all parts as one vector, but for a picture that
    its own encoder reads.
    """

    def __init__(self, config: BackboneConfig, inputs: TensorSpec | dict[str, TensorSpec]) -> None:
        super().__init__()
        self.inputs = inputs
        if isinstance(inputs, dict) and not config.recurrent and any(map(_is_picture, inputs.values())):
            self.backbone = Backbone(JoinedNetworks(config, inputs), (_num_inputs(inputs),))
        elif not isinstance(inputs, dict) and _is_picture(inputs) and getattr(config, "encoder", None) is not None:
            self.backbone = build_backbone(config, inputs.shape)
        elif config.recurrent or isinstance(inputs, dict) or inputs.dtype == torch.int64:
            self.backbone = build_backbone(config, (_num_inputs(inputs),))
        else:
            self.backbone = build_backbone(config, inputs.shape)
        self.num_features = self.backbone.num_features

    def prepare(self, obs: Obs, leading: int = 1) -> Tensor:
        """Observations, with `leading` dimensions before their own, as the one tensor that the backbone takes.

        It is float32, or float64 where the environment's numbers are: to be normalised first, then float32.
        """
        if isinstance(obs, dict):
            assert isinstance(self.inputs, dict)
            parts = [_prepare(obs[key], spec).flatten(leading) for key, spec in self.inputs.items()]
            return torch.cat(parts, dim=-1)
        assert isinstance(self.inputs, TensorSpec)
        return _prepare(obs, self.inputs)


class JoinedNetworks(nn.Module):
    """(B, D) -> (B, F): a convolutional network for each picture, another network for all other parts, side by side.

    A convolutional `config` is the pictures' network, and an MLP that of the rest; any other `config` is that of the
    rest, and pictures have the network of the Nature DQN, or a LeNet where they are smaller than 36x36.
    """

    def __init__(self, config: BackboneConfig, inputs: dict[str, TensorSpec]) -> None:
        super().__init__()
        convolutional = len(BACKBONES[config.name].example_shape) == 3
        self.shapes = [spec.shape if _is_picture(spec) else None for spec in inputs.values()]
        self.sizes = [_num_inputs(spec) for spec in inputs.values()]
        self.pictures = nn.ModuleList(
            build_backbone(config if convolutional else _picture_network(shape), shape)
            for shape in self.shapes
            if shape is not None
        )
        num_others = sum(size for size, shape in zip(self.sizes, self.shapes, strict=True) if shape is None)
        rest = BackboneConfig("mlp", hidden=(64,)) if convolutional else config
        self.others = build_backbone(rest, (num_others,)) if num_others else None

    def forward(self, x: Tensor) -> Tensor:
        parts = list(zip(x.split(self.sizes, -1), self.shapes, strict=True))
        pictures = [part.unflatten(-1, shape) for part, shape in parts if shape is not None]
        features = [net(picture).flatten(1) for net, picture in zip(self.pictures, pictures, strict=True)]
        if self.others is not None:
            others = torch.cat([part for part, shape in parts if shape is None], -1)
            features.append(self.others(others).flatten(1))
        return torch.cat(features, -1)


def _picture_network(shape: tuple[int, ...]) -> BackboneConfig:
    return BackboneConfig("nature_cnn" if min(shape[1:]) >= _NATURE_PIXELS else "lenet")


def _is_picture(spec: TensorSpec) -> bool:
    return len(spec.shape) == 3


def _prepare(obs: Tensor, spec: TensorSpec) -> Tensor:
    if spec.dtype == torch.int64:
        return F.one_hot(obs.long(), int(spec.high) + 1).float()
    return obs if obs.dtype == torch.float64 else to_float(obs)


def _num_inputs(inputs: TensorSpec | dict[str, TensorSpec]) -> int:
    if isinstance(inputs, dict):
        return sum(_num_inputs(spec) for spec in inputs.values())
    return int(inputs.high) + 1 if inputs.dtype == torch.int64 else math.prod(inputs.shape)
