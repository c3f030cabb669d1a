"""A worker that is one of several ranks of a run (team.py)."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster.ranks.worker import Outcome, Worker
from cluster.session import cores
from lab.errors import Failure, UserError
from lab.ranks import ranks
from lab.training.train import Result


class RankOutcome(NamedTuple):
    """How a rank's work ended, and whether the user's input was wrong."""

    outcome: Outcome
    bad_input: bool = False


class RankWorker(Worker):
    """A worker that can be one of several ranks."""

    def sees(self, path: str) -> bool:
        """Whether a file that the driver has written is visible here, as it is on shared storage."""
        return Path(path).is_file()

    def node(self) -> str:
        """Ray's id of the machine."""
        import ray

        name: str = ray.get_runtime_context().get_node_id()
        return name

    def meeting_point(self) -> str:
        """Where ranks on several machines meet: a free TCP port of this one, as an init_method."""
        import ray

        address = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((address, 0))
            return f"tcp://{address}:{probe.getsockname()[1]}"

    def train_rank(
        self,
        tree: dict[str, Any],
        path: str,
        init_method: str,
        rank: int,
        num_ranks: int,
        own_cores: Sequence[int] | None,
    ) -> RankOutcome:
        """Train the experiment `tree` as one of `num_ranks`, on from the run directory's newest checkpoint.

        Args:
            tree: the experiment as `lab.config.serialization.dump` gives it.
            path: the run directory.
            init_method: where the ranks meet (`lab.ranks.ranks.joined`).
            own_cores: the cores to keep to; None for all.
        """
        from lab.training.train import train

        if own_cores is not None:
            cores.keep_to(own_cores)
        bad_input = False

        def joined_train(*arguments: Any, **options: Any) -> Result:
            nonlocal bad_input
            try:
                with ranks.joined(init_method, rank, num_ranks):
                    return train(*arguments, **options)
            except UserError:
                bad_input = True
                raise

        os.environ["GLOO_SOCKET_IFNAME"] = _interface(init_method)
        self._train = joined_train
        return RankOutcome(self.train(tree, path), bad_input)


def _interface(init_method: str) -> str:
    """The network interface through which ranks talk."""
    import psutil
    import ray

    address = "127.0.0.1" if init_method.startswith("file:") else ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return name
    raise Failure(f"no network interface has this machine's address {address}")
