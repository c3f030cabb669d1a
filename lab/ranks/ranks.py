"""One experiment on W workers (data parallelism): which of them this process is.

Every rank runs the same `train` on its share of each minibatch and of the environments, and the updater averages the
gradients: what is learned is what one process learns from the whole. A process that was not started as one of several
is rank 0 of 1, and everything in this room is then the identity. cluster/ranks/ starts the ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from lab.ranks.shared_memory import MachineRanks, fits
from lab.seeding import derive_seed

TIMEOUT_SECONDS = 3600.0
"""how long a rank waits for the others; evaluation, which rank 0 does alone, is within it"""
_alone = False
_machine: MachineRanks | None = None


@contextmanager
def joined(init_method: str, rank: int, num_ranks: int) -> Iterator[None]:
    """Be one of several ranks, which meet at `init_method` (see torch.distributed.init_process_group).

    A file means that they all run on this machine.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    timeout = timedelta(seconds=TIMEOUT_SECONDS)
    dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=num_ranks, timeout=timeout)
    global _machine
    try:
        folder = Path(init_method.removeprefix("file://") + "-machine")
        if init_method.startswith("file://") and fits(folder):
            _machine = MachineRanks(folder, rank, num_ranks, TIMEOUT_SECONDS)
        yield
    finally:
        if _machine is not None:
            _machine.close()
            _machine = None
        dist.destroy_process_group()


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


def shared_memory() -> MachineRanks | None:
    """The sums through shared memory, where all ranks run on this machine."""
    return _machine


def part(length: int) -> slice:
    """This rank's equal share of `length` things in a row."""
    share = length // num_ranks()
    return slice(rank() * share, (rank() + 1) * share)


def rank_seed(seed: int, name: str) -> int:
    """A rank's own seed for a role; the only rank's is `seed` itself."""
    return seed if num_ranks() == 1 else derive_seed(seed, name, rank())
