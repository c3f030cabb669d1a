"""What a loss function makes of a minibatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

Metrics = dict[str, Tensor]
"""scalars without gradient, by name"""


class Loss(NamedTuple):
    """The value whose gradient is descended, what is logged of it, and what the caller goes on with.

    value: a scalar with gradient
    metrics: detached scalars
    extras: detached tensors of any shape: TD errors, recurrent states, codes
    """

    value: Tensor
    metrics: Metrics
    extras: dict[str, Tensor] = {}


LossFunction = Callable[[Any], Loss]
"""one minibatch, a NamedTuple of tensors (or of None where a field is not used), -> its Loss"""
