"""A rank's share of an experiment, and of what another number of ranks left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lab.errors import UserError

if TYPE_CHECKING:
    from lab.experiment import Experiment
from lab.ranks import ranks

_EQUAL_SHARES = ("data.batch_size", "data.num_envs", "data.collector.num", "module.batch_size", "module.minibatch_size")
_ROUNDED_SHARES = ("data.learning_starts", "data.replay.capacity")


def share(experiment: Experiment, num_ranks: int) -> Experiment:
    """One rank's experiment: batch sizes, environments and replay are those of all ranks together.

    Raises UserError when they cannot be divided equally.
    """
    from lab.config import serialization

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
        mine = ranks.part(whole.shape[dim])
        found[key] = whole.narrow(dim, mine.start, mine.stop - mine.start).contiguous()
    return found
