"""All-reduce over the ranks of one machine, through memory that they share.

On a CPU torch.distributed (gloo) has a thread beside the one that sends, and both want the same lock: on a busy core
one holds it while the other spins until the scheduler's next turn, some 3 ms. Here each rank writes its numbers into a
file that all of them have mapped (1), sums a shard over all ranks (2) and reads all shards (3); between two of these is
a barrier, for which each rank sends a byte to each other one. `benchmarks/data_parallel.py` compares the two.

W ranks, n numbers.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import torch
from torch import Tensor

_LONGEST_PATH = 103  # bytes of a socket's, on any system


def path_fits(folder: Path) -> bool:
    """Whether sockets can lie in a folder: the system limits the length of their paths."""
    return len(os.fsencode(folder / ".rank-9999")) <= _LONGEST_PATH


class SharedMemoryGroup:
    """W ranks that share a folder of one machine.

    Args:
        folder: for this group alone; made by the first rank.
        timeout: seconds to wait for the others.

    Raises TimeoutError when they do not come.
    """

    def __init__(self, folder: Path, rank: int, num_ranks: int, timeout: float) -> None:
        self.folder, self.rank, self.num_ranks = folder, rank, num_ranks
        self._shared: dict[tuple[torch.dtype, int], Tensor] = {}
        self._peers = _connect_peers(folder, rank, num_ranks, timeout)

    def all_reduce(self, x: Tensor) -> None:
        """Replace x (any shape, on the CPU) by its sum over ranks, the same bits on each.

        Raises OSError when another rank has ended, or does not come in time.
        """
        n = x.numel()
        rows = self._rows(x.dtype, n)  # (W + 1, n): the numbers of each rank, and their sum
        rows[self.rank].view(x.shape).copy_(x)
        self._barrier()
        shard = slice(self.rank * n // self.num_ranks, (self.rank + 1) * n // self.num_ranks)
        torch.sum(rows[:-1, shard], 0, out=rows[-1, shard])
        self._barrier()
        x.copy_(rows[-1].view(x.shape))

    def close(self) -> None:
        """Leave the group; an all-reduce of another rank then raises OSError."""
        for peer in self._peers:
            peer.close()

    def _rows(self, dtype: torch.dtype, n: int) -> Tensor:
        if (dtype, n) not in self._shared:
            path, size = self.folder / f"{dtype}-{n}", (self.num_ranks + 1) * n
            self._shared[dtype, n] = torch.from_file(str(path), True, size, dtype=dtype).view(-1, n)
        return self._shared[dtype, n]

    def _barrier(self) -> None:
        """Return when every rank has called this."""
        for peer in self._peers:
            peer.send(b".")
        if not all(peer.recv(1) for peer in self._peers):
            raise ConnectionError("another worker has ended")


def _connect_peers(folder: Path, rank: int, num_ranks: int, timeout: float) -> list[socket.socket]:
    """A socket to each other rank, in order: each rank connects to the lower ones and accepts the higher ones."""
    folder.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / f".rank-{rank}"))
        listener.listen(num_ranks)
        listener.settimeout(timeout)
        (folder / f".rank-{rank}").rename(folder / f"rank-{rank}")  # others connect from now on
        peers = [_connect(folder / f"rank-{other}", timeout) for other in range(rank)]
        peers += [listener.accept()[0] for _ in range(rank + 1, num_ranks)]
    for peer in peers:
        peer.settimeout(timeout)
    return peers


def _connect(path: Path, timeout: float) -> socket.socket:
    deadline = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("another worker did not come")
        time.sleep(0.01)
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(path))
    return peer
