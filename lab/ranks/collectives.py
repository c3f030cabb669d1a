"""Collective operations: every rank calls them in the same order, and where there is one rank they do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lab.errors import Failure
from lab.ranks import ranks


def all_reduce(x: Tensor) -> None:
    """Replace x by its sum over ranks, the same bits on each; there must be several."""
    memory = ranks.shared_memory()
    if memory is not None and x.device.type == "cpu":
        memory.all_reduce(x)
    else:
        dist.all_reduce(x)


def totals(values: Sequence[float]) -> list[float]:
    """The sum over ranks of each number."""
    if ranks.num_ranks() == 1:
        return list(values)
    numbers = torch.tensor(values, dtype=torch.float64)
    all_reduce(numbers)
    return list(numbers.tolist())


def total(value: float) -> float:
    """The sum of a number over ranks."""
    return totals([value])[0]


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over ranks."""
    if ranks.num_ranks() == 1:
        return value
    value = value.detach().float().clone()
    all_reduce(value)
    return value / ranks.num_ranks()


def all_reduce_max(value: int) -> int:
    """The maximum over ranks of a number."""
    if ranks.num_ranks() == 1:
        return value
    number = torch.tensor(value)
    dist.all_reduce(number, dist.ReduceOp.MAX)
    return int(number)


def gather(value: Any) -> list[Any]:
    """On rank 0 the value of every rank (anything that pickles), in order; elsewhere an empty list."""
    if ranks.num_ranks() == 1:
        return [value]
    values: list[Any] | None = [None] * ranks.num_ranks() if ranks.rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def barrier() -> None:
    """Return when every rank has called this."""
    if ranks.num_ranks() > 1:
        totals([0.0])


def mean_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """On rank 0 the mean of each metric over the ranks that have it; elsewhere this rank's own metrics."""
    if ranks.num_ranks() == 1:
        return metrics
    rows = gather({key: float(value) for key, value in metrics.items()})
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: float(np.mean([row[key] for row in rows if key in row])) for key in keys} or metrics


def moments(x: Tensor) -> tuple[int, Tensor, Tensor]:
    """Count, variance and mean of the rows of x (B, ...), float64, over all ranks; some may have none."""
    if ranks.num_ranks() == 1:
        return len(x), *torch.var_mean(x, 0, correction=0)
    sums = torch.cat([x.new_full((1,), len(x)), x.sum(0).flatten()])
    all_reduce(sums)
    average = (sums[1:] / sums[0]).view(x.shape[1:])
    squares = (x - average).square().sum(0).flatten()
    all_reduce(squares)
    return int(sums[0]), (squares / sums[0]).view(x.shape[1:]), average


def broadcast_parameters(module: nn.Module) -> None:
    """Set every rank's parameters to those of rank 0: machines may differ in how they initialise."""
    if ranks.num_ranks() > 1:
        for parameter in module.parameters():
            value = parameter.detach().contiguous()
            dist.broadcast(value, 0)
            parameter.data.copy_(value)


def check_agreement(module: nn.Module) -> None:
    """Raise Failure when parameters or running statistics differ between ranks, which no update may cause."""
    if ranks.num_ranks() == 1:
        return
    values = dict(module.named_parameters()) | {k: v for k, v in module.named_buffers() if v.dim()}
    sums = torch.stack([value.detach().double().sum() for value in values.values()]).cpu()
    high, low = sums.clone(), sums.clone()
    dist.all_reduce(high, dist.ReduceOp.MAX)
    dist.all_reduce(low, dist.ReduceOp.MIN)
    name = next((name for name, h, lo in zip(values, high, low, strict=True) if h != lo), None)
    if name is not None:
        raise Failure(f"the workers' weights have come apart ({name}); this module cannot be trained on several.")
