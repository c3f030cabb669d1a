"""Units that a network has lost: rectified ones that were 0 for every input of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

MANY = 0.9
"""share of a layer's units from which on it is worth a warning"""


class DeadUnits:
    """Which units of a module's ReLUs have not fired while it was watched.

    A unit is a column of (..., F), or a channel of (B, C, L) or (B, C, H, W) behind a convolution. Dead units get no
    gradient, and so stay dead for these inputs: a learning rate that is too high makes them (Lu et al. 2020, Dying ReLU
    and Initialization).
    """

    def __init__(self) -> None:
        self._fired: dict[tuple[str, int], Tensor] = {}
        """by a layer's name and width: one that is used again and again may have several"""

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Watch the module's forward passes within."""
        handles, channels_first = [], False
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.RNNBase):
                channels_first = not isinstance(layer, nn.Linear | nn.RNNBase)
            if isinstance(layer, nn.ReLU):
                see = partial(self._see, name, channels_first)
                handles.append(layer.register_forward_hook(see))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def share(self) -> float | None:
        """Dead units among all rectified ones; None where there are none."""
        fired = [each for layer in self._fired.values() for each in layer.tolist()]
        return 1 - sum(fired) / len(fired) if fired else None

    def metrics(self) -> dict[str, float]:
        """eval/dead_units: their share; nothing where there are no rectified units."""
        return {} if self.share is None else {"eval/dead_units": self.share}

    def warning(self, inputs: str = "of the evaluation") -> str | None:
        """A sentence about the worst layer, where nearly all of its units are dead; `inputs` says what was watched."""
        shares = {name: 1 - float(fired.double().mean()) for name, fired in self._fired.items()}
        worst = max(shares, key=shares.__getitem__, default=None)
        if worst is None or shares[worst] < MANY:
            return None
        name, num = worst
        return (
            f"{round(shares[worst] * num)} of the {num} units of {name} are 0 for every input {inputs}, and "
            f"learn nothing any more. A lower module.optimizer.lr or another activation keeps them alive"
        )

    def _see(self, name: str, channels_first: bool, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.ndim < 2:
            return
        axis = 1 if output.ndim == 4 or (output.ndim == 3 and channels_first) else output.ndim - 1
        fired = output.any([i for i in range(output.ndim) if i != axis])
        before = self._fired.setdefault((name, len(fired)), fired)
        if before is not fired:
            before |= fired
