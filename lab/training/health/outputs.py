"""What flows through a network: saturated sigmoids and tanhs, sizes of outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from lab.training.health.dead_units import MANY
from lab.training.health.layers import BOUNDED, WEIGHTED, hidden, layers_of, watching

_SATURATED = 0.97
"""|tanh|, or |2 sigmoid - 1|, from which on the slope is below a sixteenth of the largest one"""


class Outputs:
    """Shares of saturated outputs, and sizes of layers' outputs, by layer, while a module was watched.

    saturated: of hidden sigmoids and tanhs, the least share over their forward passes
    sizes: the root of the mean square, the largest over the forward passes
    """

    def __init__(self) -> None:
        self.saturated: dict[str, float] = {}
        self.sizes: dict[str, float] = {}

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Watch the module's forward passes within."""
        with (
            watching(hidden(module, BOUNDED), self._see_bounded),
            watching(layers_of(module, WEIGHTED), self._see_size),
        ):
            yield

    @property
    def worst(self) -> str | None:
        """The layer with the largest share of saturated outputs."""
        return max(self.saturated, key=self.saturated.__getitem__, default=None)

    def saturation(self) -> str | None:
        """A sentence about that layer, where there is one."""
        if self.worst is None:
            return None
        return (
            f"{self.saturated[self.worst]:.0%} of the outputs of {self.worst} are saturated, where the slope is "
            f"nearly 0; try smaller weights (module.backbone.init), inputs of about 1, or a lower rate"
        )

    def warning(self) -> str | None:
        """The same, where nearly all of a layer's outputs are."""
        return self.saturation() if self.worst is not None and self.saturated[self.worst] > MANY else None

    def _see_bounded(self, name: str, layer: nn.Module, output: Tensor) -> None:
        centred = output if isinstance(layer, nn.Tanh) else 2 * output - 1
        share = float((centred.abs() > _SATURATED).double().mean())
        self.saturated[name] = min(share, self.saturated.get(name, 1.0))

    def _see_size(self, name: str, layer: nn.Module, output: Tensor) -> None:
        self.sizes[name] = max(float(output.square().mean().sqrt()), self.sizes.get(name, 0.0))
