"""Networks whose inner outputs are maps that a head may ask for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class Staged(nn.Sequential):
    """Layers one after the other, some of whose outputs are maps (B, C, H, W).

    Args:
        ends: the index of each layer that ends a stage, finest first, with its stride: how many pixels of the input lie
            between two places of its map. A part of such layers has none.
    """

    def __init__(self, *layers: nn.Module, ends: Mapping[int, int] | None = None) -> None:
        super().__init__(*layers)
        self.ends = dict(ends or {})

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each map, finest first."""
        return tuple(self.ends.values())

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """The output of each stage, finest first."""
        maps = []
        for index, layer in enumerate(self):
            x = layer(x)
            if index in self.ends:
                maps.append(x)
            if len(maps) == len(self.ends):
                break
        return tuple(maps)
