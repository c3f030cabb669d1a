"""Batch normalisation by the moments of all ranks' minibatches (torch's SyncBatchNorm knows GPUs only)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lab.ranks import collectives, ranks


class _AllReduce(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        x = x.clone()
        collectives.all_reduce(x)
        return x

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total: Tensor = _AllReduce.apply(gradients[0])
        return total


class _OverRanks(nn.Module):
    """Training mode of BatchNorm*d over the equal minibatches of all ranks; the rest is theirs."""

    eps: float
    momentum: float | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    weight: Any
    bias: Any

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, ...) -> the same shape.

        The moments are those of x - shift for a shift near the mean: sums of squares of x itself lose the variance in
        float32 where the mean is large. As a constant the shift has no part in the gradient.
        """
        if not self.training or ranks.num_ranks() == 1:
            output: Tensor = super().forward(x)
            return output
        dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        num_rows = x.numel() // x.shape[1] * ranks.num_ranks()
        shift = x.detach().sum(dims)  # (C,)
        collectives.all_reduce(shift)
        shift /= num_rows
        shifted = x - shift.view(shape)
        first, second = _AllReduce.apply(torch.stack([shifted.sum(dims), shifted.square().sum(dims)])) / num_rows
        var = second - first.square()
        self._update_running_statistics((shift + first).detach(), var.detach() * (num_rows / max(num_rows - 1, 1)))
        normalized = (shifted - first.view(shape)) * (var.view(shape) + self.eps).rsqrt()
        if self.weight is not None and self.bias is not None:
            normalized = normalized * self.weight.view(shape) + self.bias.view(shape)
        return normalized.to(dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, unbiased_var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        weight = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(unbiased_var, weight)


class _BatchNorm1d(_OverRanks, nn.BatchNorm1d):
    pass


class _BatchNorm2d(_OverRanks, nn.BatchNorm2d):
    pass


class _BatchNorm3d(_OverRanks, nn.BatchNorm3d):
    pass


_OVER_RANKS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _BatchNorm1d,
    nn.BatchNorm2d: _BatchNorm2d,
    nn.BatchNorm3d: _BatchNorm3d,
}


def normalize_whole_batches(modules: Iterable[nn.Module]) -> bool:
    """Let batch normalisation see the minibatches of all ranks, in place; returns whether there is any."""
    layers = [module for module in modules if type(module) in _OVER_RANKS] if ranks.num_ranks() > 1 else []
    for layer in layers:
        layer.__class__ = _OVER_RANKS[type(layer)]
    return bool(layers)
