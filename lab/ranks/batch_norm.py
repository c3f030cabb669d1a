"""Batch normalisation by the moments of all ranks' minibatches (torch's SyncBatchNorm knows GPUs only)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lab.ranks import collectives, ranks


class _Sum(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        x = x.clone()
        collectives.all_reduce(x)
        return x

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        summed: Tensor = _Sum.apply(gradients[0])
        return summed


class _WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Training mode of BatchNorm*d over all ranks; the rest is theirs."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or ranks.num_ranks() == 1:
            return super().forward(x)
        dims = [d for d in range(x.dim()) if d != 1]
        rows = x.numel() // x.shape[1] * ranks.num_ranks()
        first, second = _Sum.apply(torch.stack([x.sum(dims), x.square().sum(dims)])) / rows
        var = second - first.square()
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                assert self.num_batches_tracked is not None
                self.num_batches_tracked += 1
                share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
                self.running_mean.lerp_(first.detach(), share)
                self.running_var.lerp_(var.detach() * (rows / max(rows - 1, 1)), share)
        shape = [1, -1] + [1] * (x.dim() - 2)
        x = (x - first.view(shape)) * (var.view(shape) + self.eps).rsqrt()
        return x if self.weight is None else x * self.weight.view(shape) + self.bias.view(shape)


class _BatchNorm1d(_WholeBatchNorm, nn.BatchNorm1d):
    pass


class _BatchNorm2d(_WholeBatchNorm, nn.BatchNorm2d):
    pass


class _BatchNorm3d(_WholeBatchNorm, nn.BatchNorm3d):
    pass


_WHOLE: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _BatchNorm1d,
    nn.BatchNorm2d: _BatchNorm2d,
    nn.BatchNorm3d: _BatchNorm3d,
}


def normalize_whole_batches(modules: Iterable[nn.Module]) -> bool:
    """Let batch normalisation see the minibatches of all ranks; returns whether there is any."""
    found = [module for module in modules if type(module) in _WHOLE] if ranks.num_ranks() > 1 else []
    for module in found:
        module.__class__ = _WHOLE[type(module)]
    return bool(found)
