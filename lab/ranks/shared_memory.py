"""Sums over the ranks of one machine, through memory that they share.

On a CPU torch.distributed (gloo) has a thread beside the one that sends, and both want the same lock: on a busy core
one holds it while the other spins until the scheduler's next turn, some 3 ms. Here each rank writes its numbers into a
file that all have mapped, adds up its part of them, and takes the whole; a byte on a socket says "I have".

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


def fits(folder: Path) -> bool:
    """Whether sockets can lie in a folder: the system limits their paths."""
    return len(os.fsencode(folder / ".rank-9999")) <= _LONGEST_PATH


class MachineRanks:
    """The W ranks that share a folder of one machine.

    Args:
        folder: theirs alone, made by whoever comes first.
        timeout: seconds to wait for the others.
    """

    def __init__(self, folder: Path, rank: int, num_ranks: int, timeout: float) -> None:
        self.folder, self.rank, self.num_ranks = folder, rank, num_ranks
        self._shared: dict[tuple[torch.dtype, int], Tensor] = {}
        self._peers = _connected(folder, rank, num_ranks, timeout)

    def all_reduce(self, x: Tensor) -> None:
        """Replace x (any shape, on the CPU) by its sum over the ranks: the same bits on each."""
        n = x.numel()
        rows = self._rows(x.dtype, n)  # (W + 1, n): what each rank has, and the sum
        rows[self.rank].view(x.shape).copy_(x)
        self._meet()
        mine = slice(self.rank * n // self.num_ranks, (self.rank + 1) * n // self.num_ranks)
        torch.sum(rows[:-1, mine], 0, out=rows[-1, mine])
        self._meet()
        x.copy_(rows[-1].view(x.shape))

    def close(self) -> None:
        for peer in self._peers:
            peer.close()

    def _rows(self, dtype: torch.dtype, n: int) -> Tensor:
        if (dtype, n) not in self._shared:
            path, size = self.folder / f"{dtype}-{n}", (self.num_ranks + 1) * n
            self._shared[dtype, n] = torch.from_file(str(path), True, size, dtype=dtype).view(-1, n)
        return self._shared[dtype, n]

    def _meet(self) -> None:
        """Return when every rank has come here. Raises OSError when one has ended."""
        for peer in self._peers:
            peer.send(b".")
        if not all(peer.recv(1) for peer in self._peers):
            raise ConnectionError("another worker has ended")


def _connected(folder: Path, rank: int, num_ranks: int, timeout: float) -> list[socket.socket]:
    """A socket to each of the other ranks, the lower ones first: they are called, the higher ones call."""
    folder.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / f".rank-{rank}"))
        listener.listen(num_ranks)
        listener.settimeout(timeout)
        (folder / f".rank-{rank}").rename(folder / f"rank-{rank}")  # it can be called from now on
        peers = [_called(folder / f"rank-{other}", timeout) for other in range(rank)]
        peers += [listener.accept()[0] for _ in range(rank + 1, num_ranks)]
    for peer in peers:
        peer.settimeout(timeout)
    return peers


def _called(path: Path, timeout: float) -> socket.socket:
    deadline = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("another worker did not come")
        time.sleep(0.01)
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(path))
    return peer
