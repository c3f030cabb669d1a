"""A rank's share of an experiment, and of the state that another number of ranks has left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from lab.config import serialization
from lab.errors import UserError
from lab.experiment import Experiment, Shared
from lab.ranks import ranks


def share(experiment: Experiment, num_ranks: int) -> Experiment:
    """The experiment of one of `num_ranks` ranks: each field that is marked as `Shared` holds its part.

    Raises UserError when one cannot be divided equally.
    """
    if num_ranks == 1:
        return experiment
    tree = serialization.dump(experiment)
    for path, parts in _shared_fields(experiment):
        *parents, field = path
        node: dict[str, Any] = tree
        for key in parents:
            node = node[key]
        if parts == "equal" and node[field] % num_ranks:
            raise UserError(
                f"{'.'.join(path)}={node[field]} cannot be divided equally among {num_ranks} workers "
                f"(trainer.num_workers): it counts those of all workers together."
            )
        node[field] = -(-node[field] // num_ranks)
    return serialization.validate(tree)


def _shared_fields(config: BaseModel, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The paths of the whole numbers that are marked as shared, with how they are divided."""
    for name, field in type(config).model_fields.items():
        path, value = (*above, name), getattr(config, name)
        if isinstance(value, BaseModel):
            yield from _shared_fields(value, path)
        for mark in field.metadata:
            if isinstance(mark, Shared) and isinstance(value, int):
                yield path, mark.parts


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
