"""Scores of a split as a whole, by torchmetrics: what is no mean over samples.

torchmetrics imports scipy's filters for its measures of sound, which takes longer than all else here together; they
wait until somebody uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class Scores(Protocol):
    """Gathers minibatches of predictions and targets, and gives the scores of all of them."""

    def update(self, predictions: Tensor, y: Tensor) -> None: ...

    def compute(self) -> dict[str, Tensor]: ...


class NoScores:
    """Where all scores are means over samples."""

    def update(self, predictions: Tensor, y: Tensor) -> None:
        pass

    def compute(self) -> dict[str, Tensor]:
        return {}


def torchmetrics() -> Any:
    """The package, ready to use."""
    import scipy

    from lab.lazy import Held, used, waiting

    def hamming(*arguments: Any, **options: Any) -> Any:
        """A window that old releases had at this place, where torchmetrics puts it back."""
        return scipy.signal.windows.hamming(*arguments, **options)

    with waiting({"scipy.signal": Held(until_used={"hamming": hamming})}):
        return used("torchmetrics")


def collected(metrics: Mapping[str, Any], device: Any) -> Any:
    """Metrics of torchmetrics by name, as one collection of them, which are Scores."""
    return torchmetrics().MetricCollection(dict(metrics)).to(device)
