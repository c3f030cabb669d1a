"""One experiment on W workers (data parallelism): which rank this process is.

Every rank runs the same `train` on its share of each minibatch and of the environments, and the updater averages the
gradients over ranks: the weights become those of one process that has all minibatches. A process that was not started
as one of several is rank 0 of 1. cluster/ranks/ starts the ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from lab.ranks.shared_memory import SharedMemoryGroup, path_fits
from lab.seeding import derive_seed

TIMEOUT_SECONDS = 3600.0
"""how long a rank waits for the others; evaluation, which rank 0 does alone, must end within it"""

_alone = False
_shared_memory: SharedMemoryGroup | None = None


@contextmanager
def joined(init_method: str, rank: int, num_ranks: int) -> Iterator[None]:
    """Be one of several ranks until the context ends.

    `init_method` is where they meet (see torch.distributed.init_process_group): a `file://` means that all run on this
    machine, and then they sum through shared memory.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    timeout = timedelta(seconds=TIMEOUT_SECONDS)
    dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=num_ranks, timeout=timeout)
    global _shared_memory
    try:
        folder = Path(init_method.removeprefix("file://") + "-machine")
        if init_method.startswith("file://") and path_fits(folder):
            _shared_memory = SharedMemoryGroup(folder, rank, num_ranks, TIMEOUT_SECONDS)
        yield
    finally:
        if _shared_memory is not None:
            _shared_memory.close()
            _shared_memory = None
        dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """A context for what one rank does by itself, such as evaluation: in it this process is rank 0 of 1.

    Others' code sees no process group either: metrics that gather from all ranks would wait for ever.
    """
    global _alone
    before, _alone = _alone, True
    group = dist.GroupMember.WORLD if is_joined() else None
    if group is not None:
        dist.GroupMember.WORLD = None
    try:
        yield
    finally:
        _alone = before
        if group is not None:
            dist.GroupMember.WORLD = group


def is_joined() -> bool:
    """Whether this process is a rank, be it the only one."""
    return dist.is_available() and dist.is_initialized()


def num_ranks() -> int:
    """The world size W."""
    return dist.get_world_size() if is_joined() and not _alone else 1


def rank() -> int:
    """This process's number in [0, W)."""
    return dist.get_rank() if is_joined() and not _alone else 0


def shared_memory() -> SharedMemoryGroup | None:
    """The ranks as a group that shares memory, where all of them run on this machine."""
    return _shared_memory


def shard(length: int) -> slice:
    """This rank's equal share of `length` rows."""
    share = length // num_ranks()
    return slice(rank() * share, (rank() + 1) * share)


def rank_seed(seed: int, name: str) -> int:
    """A rank's own seed for the role `name`; where there is one rank it is `seed` itself."""
    return seed if num_ranks() == 1 else derive_seed(seed, name, rank())
