"""Real numbers: what regression predicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lab.data.targets.arrays import Array, mean_and_spread
from lab.errors import UserError


class RealValues(NamedTuple):
    """Real numbers by name; a batch holds y (B, T) float64 in the data's own units, which float32 may round.

    `mean` and `scale` (the standard deviation; 1 where all values are alike) are those of the training split.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def fitted(self, y: Array) -> RealValues:
        """With the statistics of the training values (N, T). Raises UserError for values too large to be squared."""
        mean, spread = mean_and_spread(y.astype(np.float64))
        for name, each in zip(self.names, spread.tolist(), strict=True):
            if math.isinf(each):
                raise UserError(f"the values of {name!r} go up to {np.abs(y).max():.3g}: too large to learn from.")
        return self._replace(mean=tuple(mean.tolist()), scale=tuple(spread.tolist()))


def read_real_values(
    values: Mapping[str, Array], name: str, value_names: tuple[str, ...] = ()
) -> tuple[dict[str, Array], RealValues]:
    """Rows (N, T) float64 of each split, from numbers (N,) or (N, T).

    Raises UserError for what is no finite number, and for splits of other numbers of values.
    """
    rows = {}
    for split, y in values.items():
        row = y[:, None] if y.ndim == 1 else y
        if row.ndim != 2 or row.dtype.kind not in "iufb" or not row.shape[1]:
            raise UserError(
                f"the {split} split of {name!r} has labels of {y.dtype}, shape {y.shape}; what is predicted are "
                f"numbers, one or a row of them for each sample."
            )
        if not np.isfinite(row).all():
            where = int((~np.isfinite(row)).any(1).argmax())
            raise UserError(f"the {split} split of {name!r} has {row[where].tolist()} at sample {where}: not finite.")
        rows[split] = row
        if row.shape[1] != rows["train"].shape[1]:
            raise UserError(
                f"the {split} split of {name!r} has {row.shape[1]} values a sample, the train split has "
                f"{rows['train'].shape[1]}."
            )
    num = rows["train"].shape[1]
    names = value_names or (("value",) if num == 1 else tuple(f"value_{i}" for i in range(num)))
    return {split: row.astype(np.float64) for split, row in rows.items()}, RealValues(names)
