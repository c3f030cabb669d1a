"""One experiment on W workers (data parallelism): what a worker must know of its rank, and how the ranks agree.

Every rank runs the same `train` on its share of each minibatch and of the environments, and `lab.optim` averages the
gradients: what is learned is what one process learns from the whole. A process that was not started as one of several
is rank 0 of 1, and everything here is then the identity. cluster/data_parallel.py starts the ranks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lab.errors import Failure, UserError
from lab.near import NearRanks, fits
from lab.seeding import derive_seed

if TYPE_CHECKING:
    from lab.experiment import Experiment

TIMEOUT_SECONDS = 3600.0
"""how long a rank waits for the others; evaluation, which rank 0 does alone, is within it"""

_EQUAL_SHARES = ("data.batch_size", "data.num_envs", "data.collector.num", "module.batch_size", "module.minibatch_size")
_ROUNDED_SHARES = ("data.learning_starts", "data.replay.capacity")

_alone = False
_near: NearRanks | None = None
_noise: dict[str, torch.Generator] = {}


# ------------------------------------------------------------------ ranks


@contextmanager
def joined(init_method: str, rank: int, num_ranks: int) -> Iterator[None]:
    """Be one of several ranks, which meet at `init_method` (see torch.distributed.init_process_group).

    A file means that they all run on this machine.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    timeout = timedelta(seconds=TIMEOUT_SECONDS)
    dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=num_ranks, timeout=timeout)
    global _near
    try:
        folder = Path(init_method.removeprefix("file://") + "-near")
        if init_method.startswith("file://") and fits(folder):
            _near = NearRanks(folder, rank, num_ranks, TIMEOUT_SECONDS)
        yield
    finally:
        if _near is not None:
            _near.close()
            _near = None
        dist.destroy_process_group()
        _noise.clear()


@contextmanager
def alone() -> Iterator[None]:
    """Work that one rank does by itself, like evaluation: nothing in it waits for the others."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def is_joined() -> bool:
    """Whether this process is a rank, be it the only one."""
    return dist.is_available() and dist.is_initialized()


def num_ranks() -> int:
    """W."""
    return dist.get_world_size() if is_joined() and not _alone else 1


def rank() -> int:
    """This process's number in [0, W)."""
    return dist.get_rank() if is_joined() and not _alone else 0


def part(length: int) -> slice:
    """This rank's equal share of `length` things in a row."""
    share = length // num_ranks()
    return slice(rank() * share, (rank() + 1) * share)


def rank_seed(seed: int, name: str) -> int:
    """A rank's own seed for a role; the only rank's is `seed` itself."""
    return seed if num_ranks() == 1 else derive_seed(seed, name, rank())


# ------------------------------------------------------------------ shares of an experiment


def share(experiment: Experiment, num_ranks: int) -> Experiment:
    """One rank's experiment: batch sizes, environments and replay are those of all ranks together.

    Raises UserError when they cannot be divided equally.
    """
    from lab import config

    if num_ranks == 1:
        return experiment
    tree = config.dump(experiment)
    for path in (*_EQUAL_SHARES, *_ROUNDED_SHARES):
        *parents, field = path.split(".")
        node: Any = tree
        for key in parents:
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict) or not isinstance(node.get(field), int):
            continue
        if path in _EQUAL_SHARES and node[field] % num_ranks:
            raise UserError(
                f"{path}={node[field]} cannot be divided equally among {num_ranks} workers (trainer.num_workers): "
                f"it counts those of all workers together."
            )
        node[field] = -(-node[field] // num_ranks)
    return config.validate(tree)


def regrouped(
    states: Sequence[dict[str, Any]], dims: Mapping[str, int | None], fresh: Mapping[str, Any]
) -> dict[str, Any]:
    """This rank's part of entries that another number of ranks left: joined along their dimension and divided anew.

    Where there is no dimension, or nothing to join, the entry is as `fresh` has it.
    """
    found: dict[str, Any] = {}
    for key, dim in dims.items():
        values = [state.get(key) for state in states]
        if dim is None or not all(isinstance(value, Tensor) for value in values):
            found[key] = fresh[key]
            continue
        whole = torch.cat([value for value in values if isinstance(value, Tensor)], dim)
        mine = part(whole.shape[dim])
        found[key] = whole.narrow(dim, mine.start, mine.stop - mine.start).contiguous()
    return found


# ------------------------------------------------------------------ agreement


def add_up(x: Tensor) -> None:
    """Replace x by its sum over ranks, of which there are several."""
    if _near is not None and x.device.type == "cpu":
        _near.add_up(x)
    else:
        dist.all_reduce(x)


def totals(values: Sequence[float]) -> list[float]:
    """The sum over ranks of each number."""
    if num_ranks() == 1:
        return list(values)
    numbers = torch.tensor(values, dtype=torch.float64)
    add_up(numbers)
    return list(numbers.tolist())


def total(value: float) -> float:
    """The sum of a number over ranks."""
    return totals([value])[0]


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over ranks."""
    if num_ranks() == 1:
        return value
    value = value.detach().float().clone()
    add_up(value)
    return value / num_ranks()


def largest(value: int) -> int:
    """The largest of the ranks' numbers."""
    if num_ranks() == 1:
        return value
    number = torch.tensor(value)
    dist.all_reduce(number, dist.ReduceOp.MAX)
    return int(number)


def gather(value: Any) -> list[Any]:
    """Every rank's value, in order, on rank 0; an empty list elsewhere."""
    if num_ranks() == 1:
        return [value]
    values: list[Any] | None = [None] * num_ranks() if rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def wait() -> None:
    """Return when every rank has come here."""
    if num_ranks() > 1:
        totals([0.0])


def mean_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """On rank 0 the mean of each metric over the ranks that have it; elsewhere what was given."""
    if num_ranks() == 1:
        return metrics
    rows = gather({key: float(value) for key, value in metrics.items()})
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: float(np.mean([row[key] for row in rows if key in row])) for key in keys} or metrics


def moments(x: Tensor) -> tuple[int, Tensor, Tensor]:
    """Count, variance and mean of the rows of x (B, ...), float64, over all ranks; some may have none."""
    if num_ranks() == 1:
        return len(x), *torch.var_mean(x, 0, correction=0)
    sums = torch.cat([x.new_full((1,), len(x)), x.sum(0).flatten()])
    add_up(sums)
    average = (sums[1:] / sums[0]).view(x.shape[1:])
    squares = (x - average).square().sum(0).flatten()
    add_up(squares)
    return int(sums[0]), (squares / sums[0]).view(x.shape[1:]), average


def make_alike(module: nn.Module) -> None:
    """Give every rank rank 0's parameters: machines may differ in how they initialise."""
    if num_ranks() > 1:
        for parameter in module.parameters():
            value = parameter.detach().contiguous()
            dist.broadcast(value, 0)
            parameter.data.copy_(value)


def check_alike(module: nn.Module) -> None:
    """Raise Failure when the ranks' parameters or running statistics have come apart, as no update may let them."""
    if num_ranks() == 1:
        return
    values = dict(module.named_parameters()) | {k: v for k, v in module.named_buffers() if v.dim()}
    sums = torch.stack([value.detach().double().sum() for value in values.values()]).cpu()
    high, low = sums.clone(), sums.clone()
    dist.all_reduce(high, dist.ReduceOp.MAX)
    dist.all_reduce(low, dist.ReduceOp.MIN)
    apart = [name for name, h, lo in zip(values, high, low, strict=True) if h != lo]
    if apart:
        raise Failure(f"the workers' weights have come apart ({apart[0]}); this module cannot be trained on several.")


# ------------------------------------------------------------------ random numbers


def separate_generators(seed: int, device: torch.device) -> None:
    """From here on each rank draws numbers of its own, but for the noise that `randn` and `rand` divide."""
    if num_ranks() == 1:
        return
    for kind in {"cpu", device.type}:
        generator = torch.Generator(kind)
        state = torch.get_rng_state() if kind == "cpu" else torch.cuda.get_rng_state(device)
        generator.set_state(state)
        _noise[kind] = generator
    own = derive_seed(seed, "rank", rank())
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)


def noise_state() -> dict[str, Tensor]:
    """The state of the noise that all ranks draw together."""
    return {kind: generator.get_state() for kind, generator in _noise.items()}


def set_noise_state(state: dict[str, Tensor]) -> None:
    """Go on with what `noise_state` gave in the global generators, before they are separated (or for good)."""
    for kind, value in state.items():
        if kind == "cpu":
            torch.set_rng_state(value.cpu())
        elif torch.cuda.is_available():
            torch.cuda.set_rng_state(value.cpu())


def randn(*shape: int, dim: int = 0, device: torch.device) -> Tensor:
    """Standard normal noise for this rank's rows along `dim`: its part of what one process would draw for all."""
    return _divided(torch.randn, shape, dim, device)


def rand(*shape: int, dim: int = 0, device: torch.device) -> Tensor:
    """The same, uniform on [0, 1)."""
    return _divided(torch.rand, shape, dim, device)


def _divided(draw: Any, shape: tuple[int, ...], dim: int, device: torch.device) -> Tensor:
    if num_ranks() == 1:
        drawn: Tensor = draw(*shape, device=device)
        return drawn
    whole = list(shape)
    whole[dim] *= num_ranks()
    drawn = draw(*whole, generator=_noise[device.type], device=device)
    return drawn.narrow(dim, rank() * shape[dim], shape[dim]).contiguous()
