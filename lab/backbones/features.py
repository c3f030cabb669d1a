"""What a head gets of a backbone: a vector, a map, a pyramid of maps, or a sequence; the head asks for it.

    features = Features(BackboneConfig("resnet"), (3, 32, 32), "pyramid")
    features.spec.shapes      ((16, 32, 32), (32, 16, 16), (64, 8, 8))
    features.spec.strides     (1, 2, 4)

Any backbone gives a vector. Maps come from networks that are Staged, or timm's, sequences from those that read some, an
image row by row. `places` are what attention chooses from: the steps of a sequence, or the places of a map, row by row,
with where they lie as two more features.
B batch, C channels, H rows, W columns, T steps, D numbers of a step, F features, M places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lab.backbones.registry import BACKBONES, BackboneConfig, Registered, build_backbone
from lab.backbones.sequences import last_steps
from lab.backbones.staged import GivesMaps
from lab.errors import UserError

FeatureKind = Literal["vector", "map", "pyramid", "sequence", "places"]
Pooling = Literal["last", "mean", "max"]
"""what becomes the vector of a sequence: what the backbone gives at its end, or the mean or the largest of its steps"""


class Places(NamedTuple):
    """Features of places (B, M, F), of which the first `lengths` (B,) are there."""

    values: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """Which are there (B, M)."""
        return torch.arange(self.values.shape[1], device=self.lengths.device) < self.lengths[:, None]


class FeatureSpec(NamedTuple):
    """What features are like, without the batch dimension.

    shapes: of a vector ((F,),), a map ((C, H, W),), a pyramid one such a map, finest first, of a sequence ((T, F),),
        of places ((M, F),)
    strides: of a map or a pyramid, how many input pixels lie between two of its places
    """

    kind: FeatureKind
    shapes: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...] = ()


class Features(nn.Module):
    """Inputs to features: images (B, C, H, W), vectors (B, D) or sequences (B, T, D), of `lengths` (B,) where given.

    Gives a vector (B, F), a map (B, C, H, W), a pyramid (a tuple of maps), a sequence (B, T, F) or Places. A recurrent
    backbone gives its last output, at a sequence's own end, as the vector. Of trees, which are sequences of nodes,
    `tree` (B, T, 3) says what is over what (lab/backbones/trees.py).

    Raises UserError when the backbone cannot give what is asked for, or cannot read such inputs.
    """

    def __init__(
        self,
        config: BackboneConfig,
        input_shape: Sequence[int],
        kind: FeatureKind = "vector",
        pooling: Pooling = "last",
    ) -> None:
        super().__init__()
        self.kind: FeatureKind = kind
        self.pooling: Pooling = pooling
        self.recurrent, self.sequential = config.recurrent, BACKBONES[config.name].sequential
        shape = tuple(input_shape)
        self.num_steps, step_shape = _steps(config, shape) if self.recurrent or self.sequential else (0, shape)
        self.backbone = build_backbone(config, (self.num_steps, *step_shape) if self.sequential else step_shape)
        self.spec = self._specify(config, input_shape)

    @property
    def num_features(self) -> int:
        """Numbers in a vector, or in one step of a sequence."""
        return self.spec.shapes[0][-1]

    def forward(self, x: Tensor, lengths: Tensor | None = None, tree: Tensor | None = None) -> Any:
        if self.recurrent or self.sequential:
            return self._read(x, lengths, tree)
        if self.kind == "vector":
            return torch.flatten(self.backbone(x), 1)
        maps = self.backbone.net.maps(x)  # type: ignore[operator]
        if self.kind == "places":
            return _all_places(torch.cat([maps[-1], _coordinates(maps[-1])], 1).flatten(2).transpose(1, 2))
        return maps[-1] if self.kind == "map" else maps

    def _read(self, x: Tensor, lengths: Tensor | None, tree: Tensor | None) -> Any:
        if self.sequential:
            steps = x.transpose(1, 2).flatten(2) if x.dim() == 4 else x
            outputs = self.backbone(steps, *(each for each in (lengths, tree) if each is not None))  # (B, T, F)
            if self.kind == "vector" and self.pooling == "last":
                return self.backbone.net.summary(outputs, lengths)  # type: ignore[operator]
        else:
            steps = x.permute(2, 0, 1, 3).flatten(2) if x.dim() == 4 else x.transpose(0, 1)  # (T, B, D)
            reset = torch.zeros(steps.shape[:2], dtype=torch.bool, device=x.device)
            outputs = self.backbone(steps, self.backbone.initial_state(x.shape[0]), reset)[0].transpose(0, 1)
            if self.kind == "vector" and self.pooling == "last":
                return last_steps(outputs, lengths)
        if self.kind == "vector":
            return _pooled(_all_places(outputs) if lengths is None else Places(outputs, lengths), self.pooling)
        if self.kind == "sequence":
            return outputs
        return _all_places(outputs) if lengths is None else Places(outputs, lengths)

    def _specify(self, config: BackboneConfig, input_shape: Sequence[int]) -> FeatureSpec:
        if self.kind == "vector":
            shape = self.backbone.output_shape
            return FeatureSpec("vector", (shape[-1:] if self.sequential else (math.prod(shape),),))
        reads_steps = self.recurrent or self.sequential
        if self.kind == "sequence" and not reads_steps:
            raise _refusal(config.name, "a sequence", lambda each: each.recurrent or each.sequential)
        if self.kind in ("sequence", "places") and reads_steps:
            return FeatureSpec(self.kind, ((self.num_steps, self.backbone.output_shape[-1]),))
        net = self.backbone.net
        if not isinstance(net, GivesMaps) or not net.strides:
            wanted = "a pyramid of maps" if self.kind == "pyramid" else "a map"
            raise _refusal(config.name, wanted, lambda each: each.staged)
        with torch.no_grad():
            shapes = tuple(tuple(each.shape[1:]) for each in net.maps(torch.zeros(1, *input_shape)))
        if self.kind == "map":
            return FeatureSpec("map", shapes[-1:], net.strides[-1:])
        if self.kind == "places":
            channels, height, width = shapes[-1]
            return FeatureSpec("places", ((height * width, channels + 2),), net.strides[-1:])
        return FeatureSpec("pyramid", shapes, net.strides)


def _steps(config: BackboneConfig, input_shape: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """How many steps a recurrent backbone reads of such an input, and the shape of one."""
    if len(input_shape) == 3:
        channels, height, width = input_shape
        return height, (channels * width,)
    if len(input_shape) == 2:
        return input_shape[0], (input_shape[1],)
    raise UserError(
        f"module.backbone.name={config.name!r} reads sequences; inputs of shape {tuple(input_shape)} are none. "
        f"Take another backbone, for example mlp."
    )


def _pooled(steps: Places, pooling: Pooling) -> Tensor:
    mask = steps.mask[..., None]
    if pooling == "max":
        return steps.values.masked_fill(~mask, -torch.inf).amax(1)
    return (steps.values * mask).sum(1) / steps.lengths[:, None]


def _coordinates(images: Tensor) -> Tensor:
    """Where each place of maps (B, C, H, W) lies, (B, 2, H, W) from -1 to 1 (CoordConv, Liu et al. 2018)."""
    rows, columns = (torch.linspace(-1, 1, size, device=images.device, dtype=images.dtype) for size in images.shape[2:])
    both = torch.stack([rows[:, None].expand(-1, len(columns)), columns.expand(len(rows), -1)])
    return both.expand(images.shape[0], -1, -1, -1)


def _all_places(values: Tensor) -> Places:
    return Places(values, torch.full(values.shape[:1], values.shape[1], device=values.device))


def _refusal(name: str, wanted: str, gives: Callable[[Registered], bool]) -> UserError:
    choices = [each for each in BACKBONES.names() if gives(BACKBONES[each])]
    return UserError(
        f"module.backbone.name={name!r} gives no {wanted.removeprefix('a ')}, which the task needs. "
        f"Valid choices: {', '.join(sorted(choices))}."
    )
