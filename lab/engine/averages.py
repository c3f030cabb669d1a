"""Averages of weights over the course of training, by which a model is evaluated while training goes on with its own.

    ema    a_n = sum over k <= n of (1 - d) d^(n - k) w_k / (1 - d^n)     (corrected as by Kingma and Ba 2015)
    swa    the mean of w over the last part of the run                     (Izmailov et al. 2018)

Running statistics of batch norms are averaged by ema; after swa they are those of the averaged weights on training
data, made anew (`renew_statistics`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lab.engine.torch_private import foreach_copy_, foreach_lerp_
from lab.experiment import AverageConfig

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class Average:
    """The average of an optimizer's parameters, and of the statistics of the batch norms that learn beside them.

    Args:
        names: of the parameters of `module` that are updated, in place.
    """

    def __init__(self, config: AverageConfig, module: nn.Module, names: Sequence[str]) -> None:
        parameters = dict(module.named_parameters())
        self.config, self.names = config, list(names)
        self.parameters: list[Tensor] = [parameters[name] for name in names]
        self.batch_norms = batch_norms(module)
        self.num_seen = self.num_averaged = 0
        self._values: list[Tensor] = []
        """averages of the parameters, then those of the statistics, where there are any yet"""

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Take in the weights after an update, at this progress through the budget."""
        config = self.config
        if config.name == "swa" and progress < config.start:
            self.num_seen, self.num_averaged, self._values = 0, 0, []  # of an earlier, smaller budget's last part
            return
        self.num_seen += 1
        if config.name == "swa" and (self.num_seen - 1) % config.period:
            return
        self.num_averaged += 1
        averaged = self.parameters if config.name == "swa" else self._tensors()
        if not self._values:
            self._values = [t.detach().clone() for t in self._tensors()]
            return
        if config.name == "swa":
            weight = 1 / self.num_averaged
        else:
            weight = (1 - config.decay) / (1 - config.decay**self.num_averaged)
        foreach_lerp_(self._values[: len(averaged)], averaged, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, parameters and statistics are their averages, if there are any; afterwards they are as before."""
        if not self._values:
            yield
            return
        tensors = self._tensors()
        own = [t.detach().clone() for t in tensors]
        self.take()
        try:
            yield
        finally:
            _copy(tensors, own)

    def take(self) -> None:
        """Set parameters and statistics to their averages, if there are any."""
        if self._values:
            _copy(self._tensors(), self._values)

    @torch.no_grad()
    def keep_statistics(self) -> None:
        """The statistics as they are now, made by the averaged weights, go with these."""
        if self._values and self.batch_norms:
            foreach_copy_(self._values[len(self.parameters) :], self._statistics())

    def state_dict(self) -> dict[str, Any]:
        """The averages, of how many weights they are, and of which."""
        of = {"name": self.config.name, "parameters": self.names}
        return {**of, "num_seen": self.num_seen, "num_averaged": self.num_averaged, "values": list(self._values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; of another kind or of other parameters (some were frozen) it begins anew."""
        values, tensors = state["values"], self._tensors()
        if state["name"] != self.config.name or state["parameters"] != self.names:
            return
        self.num_seen, self.num_averaged = state["num_seen"], state["num_averaged"]
        self._values = [value.to(t.device, copy=True) for value, t in zip(values, tensors, strict=False)]

    def _tensors(self) -> list[Tensor]:
        return [*self.parameters, *self._statistics()]

    def _statistics(self) -> list[Tensor]:
        """As they are now: a module that moves to another device has others."""
        statistics = (t for layer in self.batch_norms for t in (layer.running_mean, layer.running_var))
        return [t for t in statistics if t is not None]


def batch_norms(module: nn.Module) -> list[BatchNorm]:
    """The layers with running statistics that follow the data: none whose weights are frozen."""
    layers = [layer for layer in module.modules() if isinstance(layer, BatchNorm) and layer.track_running_stats]
    return [layer for layer in layers if not layer.affine or layer.weight.requires_grad]


@torch.no_grad()
def renew_statistics(layers: Sequence[BatchNorm], passes: Iterable[Any]) -> None:
    """Set running statistics to their mean over minibatches, as torch.optim.swa_utils.update_bn does.

    Args:
        passes: each step of it sends a minibatch through the layers, which are in training mode for that alone.
    """
    before = [(layer.momentum, layer.training, layer.num_batches_tracked) for layer in layers]
    own = [[t.clone() for t in (layer.running_mean, layer.running_var)] for layer in layers]  # type: ignore[union-attr]
    for layer in layers:
        layer.num_batches_tracked = torch.zeros_like(layer.num_batches_tracked)  # type: ignore[arg-type]
        layer.momentum, layer.training = None, True
    try:
        for _ in passes:
            pass
    finally:
        for layer, (momentum, training, count), statistics in zip(layers, before, own, strict=True):
            if not layer.num_batches_tracked:  # nothing went through it
                _copy([layer.running_mean, layer.running_var], statistics)  # type: ignore[list-item]
            layer.momentum, layer.training, layer.num_batches_tracked = momentum, training, count


@torch.no_grad()
def _copy(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """In place, since recordings follow the memory; what autocast has cast of it before is out of date."""
    foreach_copy_(list(tensors), list(values))
    torch.clear_autocast_cache()
