"""Random numbers of several ranks: their own, and noise that they draw together and divide."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.ranks import ranks
from lab.seeding import derive_seed

_noise: dict[str, torch.Generator] = {}


def separate_generators(seed: int, device: torch.device) -> None:
    """From here on each rank draws numbers of its own, but for the noise that `randn` and `rand` divide."""
    if ranks.num_ranks() == 1:
        return
    for kind in {"cpu", device.type}:
        generator = torch.Generator(kind)
        state = torch.get_rng_state() if kind == "cpu" else torch.cuda.get_rng_state(device)
        generator.set_state(state)
        _noise[kind] = generator
    own = derive_seed(seed, "rank", ranks.rank())
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
    if ranks.num_ranks() == 1:
        drawn: Tensor = draw(*shape, device=device)
        return drawn
    whole = list(shape)
    whole[dim] *= ranks.num_ranks()
    drawn = draw(*whole, generator=_noise[device.type], device=device)
    return drawn.narrow(dim, ranks.rank() * shape[dim], shape[dim]).contiguous()
