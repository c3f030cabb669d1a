"""A tag for each word of a sequence."""

from __future__ import annotations

from typing import NamedTuple

NO_TAG = -1
"""what stands in a batch after a sequence's end"""


class Tags(NamedTuple):
    """One of `names` for each step; a batch holds y (B, T) int64, NO_TAG after the end.

    `mean_length` is that of training sequences.
    """

    names: tuple[str, ...]
    mean_length: float

    @property
    def are_spans(self) -> bool:
        """Whether tags mark spans of words: O outside, B-KIND at the beginning of one, I-KIND within."""
        return any(name.startswith("B-") for name in self.names) and all(
            name == "O" or name[:2] in ("B-", "I-", "E-", "S-") for name in self.names
        )
