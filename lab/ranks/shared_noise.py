"""Random numbers on several ranks: each draws its own, but for noise of which each takes its rows.

That noise comes from generators that are in the same state on every rank, so that the rows of all ranks together are
those of one process.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.ranks import ranks
from lab.seeding import derive_seed

_shared: dict[str, torch.Generator] = {}  # by the kind of device


def separate_generators(seed: int, device: torch.device) -> None:
    """From here on the global generators of ranks differ, and `randn` and `rand` go on with the state before."""
    if ranks.num_ranks() == 1:
        return
    for kind in {"cpu", device.type}:
        generator = torch.Generator(kind)
        state = torch.get_rng_state() if kind == "cpu" else torch.cuda.get_rng_state(device)
        generator.set_state(state)
        _shared[kind] = generator
    own = derive_seed(seed, "rank", ranks.rank())
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)


def noise_state() -> dict[str, Tensor]:
    """The state of the generators that ranks share, by the kind of device."""
    return {kind: generator.get_state() for kind, generator in _shared.items()}


def set_noise_state(state: dict[str, Tensor]) -> None:
    """Set the global generators to what `noise_state` gave; `separate_generators` then goes on from it."""
    for kind, value in state.items():
        if kind == "cpu":
            torch.set_rng_state(value.cpu())
        elif torch.cuda.is_available():
            torch.cuda.set_rng_state(value.cpu())


def randn(*shape: int, dim: int = 0, device: torch.device) -> Tensor:
    """Standard normal noise (*shape): this rank's rows along `dim` of what one process would draw for all ranks."""
    return _draw_shard(torch.randn, shape, dim, device)


def rand(*shape: int, dim: int = 0, device: torch.device) -> Tensor:
    """The same of uniform noise on [0, 1)."""
    return _draw_shard(torch.rand, shape, dim, device)


def _draw_shard(draw: Any, shape: tuple[int, ...], dim: int, device: torch.device) -> Tensor:
    if ranks.num_ranks() == 1:
        drawn: Tensor = draw(*shape, device=device)
        return drawn
    whole = list(shape)
    whole[dim] *= ranks.num_ranks()
    drawn = draw(*whole, generator=_shared[device.type], device=device)
    return drawn.narrow(dim, ranks.rank() * shape[dim], shape[dim]).contiguous()
