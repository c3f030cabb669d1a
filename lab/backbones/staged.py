"""Networks whose inner outputs are maps that a head may ask for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class GivesMaps(Protocol):
    """A network with inner outputs at strides, finest first; without any, it has no maps."""

    @property
    def strides(self) -> tuple[int, ...]: ...

    def maps(self, x: Tensor) -> tuple[Tensor, ...]: ...


class Staged(nn.Sequential):
    """Layers one after the other, some of whose outputs are maps (B, C, H, W).

    Args:
        ends: the index of each layer that ends a stage, finest first, with its stride: how many pixels of the input lie
            between two places of its map. A part of such layers has none.
        auxiliary: indices of layers whose outputs may feed auxiliary heads.
    """

    def __init__(
        self, *layers: nn.Module, ends: Mapping[int, int] | None = None, auxiliary: Sequence[int] = ()
    ) -> None:
        super().__init__(*layers)
        self.ends, self.auxiliary = dict(ends or {}), tuple(auxiliary)

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each map, finest first."""
        return tuple(self.ends.values())

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """The output of each stage, finest first."""
        return self._outputs(x, self.ends, max(self.ends, default=-1))[1]

    def with_auxiliary(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output of all layers, and the maps that auxiliary heads read."""
        return self._outputs(x, self.auxiliary, len(self) - 1)

    def _outputs(self, x: Tensor, places: Collection[int], last: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output of the layer `last`, and those of layers at or before it."""
        inner = []
        for index, layer in enumerate(self):
            if index > last:
                break
            x = layer(x)
            if index in places:
                inner.append(x)
        return x, tuple(inner)
