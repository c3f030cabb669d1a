"""What a batch carries beside its inputs, to be predicted from them: one file a kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from lab.data.targets.arrays import Array, column
from lab.data.targets.classes import Classes, are_whole, is_one_hot, read_classes
from lab.data.targets.multi_label import MultiLabel, are_zero_or_one, read_multi_label
from lab.data.targets.real_values import RealValues, read_real_values
from lab.data.targets.sentence import Sentence
from lab.data.targets.symbols import Symbols
from lab.data.targets.tags import NO_TAG, Tags
from lab.data.targets.tree_classes import TreeClasses

Labelled = Classes | MultiLabel | RealValues
"""targets that are labels of samples"""
Target = Labelled | Sentence | Symbols | Tags | TreeClasses
TargetKind = Literal["auto", "classes", "multi_label", "real"]


def read_targets(
    labels: Mapping[str, Array], name: str, kind: TargetKind = "auto", names: tuple[str, ...] = ()
) -> tuple[dict[str, Array], Labelled]:
    """The labels of each split as a target's batches hold them, and the target.

    Args:
        labels: those of the splits, `train` among them.
        name: what the data are called in messages.
        kind: auto takes rows of several 0 and 1 for several labels, names, whole numbers and one-hot rows for classes,
            other numbers for real values.
        names: of the classes, labels or values, where they have some.

    Raises UserError for labels that do not fit the kind, or one another.
    """
    if kind == "auto":
        kind = _kind_of(list(labels.values()))
    if kind == "multi_label":
        return read_multi_label(labels, name, names)
    if kind == "real":
        return read_real_values(labels, name, names)
    return read_classes(labels, name, names)


def _kind_of(labels: list[Array]) -> TargetKind:
    plain = [column(y) for y in labels]
    if all(y.dtype.kind in "US" or is_one_hot(y) or are_whole(y) for y in plain):
        return "classes"
    if all(y.ndim == 2 and are_zero_or_one(y) for y in plain):
        return "multi_label"
    if all(y.dtype.kind == "f" and y.ndim <= 2 for y in plain):
        return "real"
    return "classes"  # which says what labels can be


__all__ = [
    "NO_TAG",
    "Classes",
    "Labelled",
    "MultiLabel",
    "RealValues",
    "Sentence",
    "Symbols",
    "Tags",
    "Target",
    "TargetKind",
    "TreeClasses",
    "read_targets",
]
