"""Which samples are held out, the same on every machine. N samples."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from lab.data.targets import Classes, Labelled
from lab.data.targets.arrays import Array

log = logging.getLogger("lab")


def held_out(labels: Array, num: int, seed: int = 0) -> tuple[Array, Array]:
    """Indices of all but `num` entries, and of those: drawn so that each class gives its share; a function of the seed.

    Of labels (N, ...) that are no class numbers, whichever are drawn.
    """
    if labels.ndim > 1:
        labels = np.zeros(len(labels), np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    chosen = np.zeros(len(labels), bool)
    chosen[by_class[((np.arange(num) + 0.5) * len(labels) / max(num, 1)).astype(np.int64)]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def tell_absent(target: Labelled, labels: Mapping[str, Array], name: str) -> None:
    """Log a warning for each split (of labels as `target` has them) that lacks a class, or in which a label is never
    set."""
    if not isinstance(target, Classes):
        return
    for split, y in labels.items():
        absent = np.flatnonzero(np.bincount(y, minlength=target.num) == 0)
        if len(absent) and target.num > 1:
            names = ", ".join(target.name(number) for number in absent[:5])
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            log.warning("the %s split of %r has no sample of the classes %s%s", split, name, names, more)
