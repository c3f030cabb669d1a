"""A rank's share of an experiment, and of the state that another number of ranks has left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lab.config import serialization
from lab.errors import UserError
from lab.experiment import Experiment
from lab.ranks import ranks

_EQUAL_SHARES = ("data.batch_size", "data.num_envs", "data.collector.num", "module.batch_size", "module.minibatch_size")
_ROUNDED_SHARES = ("data.learning_starts", "data.replay.capacity")


def share(experiment: Experiment, num_ranks: int) -> Experiment:
    """The experiment of one of `num_ranks` ranks: it has its share of batch sizes, environments and replay.

    Raises UserError when these cannot be divided equally.
    """
    if num_ranks == 1:
        return experiment
    tree = serialization.dump(experiment)
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
    return serialization.validate(tree)


def regrouped(
    states: Sequence[dict[str, Any]], dims: Mapping[str, int | None], fresh: Mapping[str, Any]
) -> dict[str, Any]:
    """This rank's shard of the entries of a train state that another number of ranks has left.

    Args:
        states: one of each rank that there was.
        dims: the dimension along which the ranks' tensors are joined and divided anew, for each entry.
        fresh: the entries for which there is no dimension, or no tensor in some state.
    """
    entries: dict[str, Any] = {}
    for key, dim in dims.items():
        values = [state.get(key) for state in states]
        tensors = [value for value in values if isinstance(value, Tensor)]
        if dim is None or len(tensors) < len(values):
            entries[key] = fresh[key]
            continue
        whole = torch.cat(tensors, dim)
        rows = ranks.shard(whole.shape[dim])
        entries[key] = whole.narrow(dim, rows.start, rows.stop - rows.start).contiguous()
    return entries
