"""One class of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lab.data.targets.arrays import Array, column
from lab.errors import UserError

_MAX_CLASSES = 10_000
"""that a data set of fewer samples may count"""


class Classes(NamedTuple):
    """A class label in [0, num); a batch holds y (B,) int64. `counts` are how often each class is in training."""

    num: int
    names: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()

    def name(self, number: int) -> str:
        """What a class is called."""
        return self.names[number] if number < len(self.names) else str(number)

    def fitted(self, y: Array) -> Classes:
        """With the counts of the training labels (N,)."""
        return self._replace(counts=tuple(np.bincount(y, minlength=self.num).tolist()))


def read_classes(
    labels: Mapping[str, Array], name: str, class_names: tuple[str, ...] = ()
) -> tuple[dict[str, Array], Classes]:
    """Class numbers (N,) int64 of each split: labels are numbers, names, one-hot rows, or whole numbers as floats.

    Raises UserError for labels that are none of these, and for classes that the train split lacks.
    """
    plain = {split: column(y) for split, y in labels.items()}
    if all(y.ndim == 1 and y.dtype.kind in "US" for y in plain.values()):
        class_names = class_names or tuple(sorted({str(each) for each in plain["train"].astype(str)}))
        numbers = {each: number for number, each in enumerate(class_names)}
        for split, y in plain.items():
            for each in y.astype(str):
                if each not in numbers:
                    raise UserError(
                        f"the {split} split of {name!r} has the class {str(each)!r}; the train split has none."
                    )
        plain = {split: np.asarray([numbers[each] for each in y.astype(str)], np.int64) for split, y in plain.items()}
    else:
        plain = {split: _numbers(y, split, name) for split, y in plain.items()}
    num = max(int(plain["train"].max(initial=0)) + 1, len(class_names))
    for split, y in plain.items():
        if int(y.max(initial=0)) >= num:
            raise UserError(
                f"the {split} split of {name!r} has the class {int(y.max())}; the train split has none above {num - 1}."
            )
    if num > max(_MAX_CLASSES, len(plain["train"])):
        raise UserError(
            f"the labels of {name!r} go up to {num - 1:,}, for {len(plain['train']):,} samples; "
            f"they need to be class numbers from 0 up."
        )
    names = class_names or tuple(map(str, range(num)))
    return plain, Classes(num, names)


def is_one_hot(y: Array) -> bool:
    """Whether rows (N, K) have a 1 each, and zeros beside it."""
    return bool(y.ndim == 2 and y.dtype.kind in "iufb" and ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())


def are_whole(y: Array) -> bool:
    """Whether labels (N,) are whole numbers, of whatever type; of floats, those that can tell two of them apart."""
    if y.dtype.kind == "f":
        return y.ndim == 1 and bool((y == np.floor(y)).all()) and float(np.abs(y).max(initial=0)) < 2**53
    return y.ndim == 1 and y.dtype.kind in "iub"


def _numbers(y: Array, split: str, name: str) -> Array:
    if is_one_hot(y):
        return y.argmax(1)
    if not are_whole(y) or (len(y) and not 0 <= y.min() <= y.max() < 2**62):
        raise UserError(
            f"the {split} split of {name!r} has labels of {y.dtype}, shape {y.shape}; "
            f"each sample needs a class: a number from 0 up, a name, or a one-hot row."
        )
    return y.astype(np.int64)
