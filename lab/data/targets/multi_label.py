"""Several labels at once, each of which applies or does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lab.data.targets.arrays import Array
from lab.errors import UserError


class MultiLabel(NamedTuple):
    """Labels by name; a batch holds y (B, L) float32 of 0 and 1. `counts` are how often each applies in training."""

    names: tuple[str, ...]
    counts: tuple[int, ...] = ()

    def fitted(self, y: Array) -> MultiLabel:
        """With the counts of the training labels (N, L)."""
        return self._replace(counts=tuple(y.sum(0).astype(int).tolist()))


def read_multi_label(
    labels: Mapping[str, Array], name: str, label_names: tuple[str, ...] = ()
) -> tuple[dict[str, Array], MultiLabel]:
    """Rows (N, L) float32 of each split, from rows (or, of one label, numbers) of 0 and 1, or of -1 and 1.

    Raises UserError for rows of anything else, and for splits of other numbers of labels.
    """
    labels = {split: y[:, None] if y.ndim == 1 else y for split, y in labels.items()}
    num = labels["train"].shape[-1]
    rows = {}
    for split, y in labels.items():
        if y.ndim != 2 or not are_zero_or_one(y):
            raise UserError(
                f"the {split} split of {name!r} has labels of {y.dtype}, shape {y.shape}; several labels are a row of "
                f"0 and 1 for each sample."
            )
        if y.shape[1] != num:
            raise UserError(
                f"the {split} split of {name!r} has {y.shape[1]} labels a sample, the train split has {num}."
            )
        rows[split] = (y > 0).astype(np.float32)
    names = label_names or tuple(map(str, range(num)))
    return rows, MultiLabel(names)


def are_zero_or_one(y: Array) -> bool:
    """Whether all numbers are 0 or 1, or all are -1 or 1."""
    return y.dtype.kind in "iufb" and bool(((y == 0) | (y == 1)).all() or ((y == -1) | (y == 1)).all())
