"""Recordings of loss and gradient, one for each batch shape, that are compared with autograd before they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lab.engine.cuda_graphs import recording
from lab.engine.loss import LossFunction, Metrics
from lab.engine.tracing import trace, undone
from lab.errors import UserError

_MOST = 16
_NEAR, _NEGLIGIBLE = 0.1, 1e-3
"""how far a recorded gradient may be from autograd's, of its own norm and of all"""


class Recordings:
    """The gradient of `loss` by the operators that a first minibatch of each shape has run through.

    Args:
        module: to which the parameters belong.
        names: of the parameters whose gradient is wanted, among those of `module`.
        loss: a minibatch (NamedTuple of tensors) -> Loss; it must not branch on tensor values.
        views: where gradients are written.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], loss: LossFunction, views: list[Tensor]) -> None:
        self.module, self.names, self.loss, self.views = module, names, loss, views
        self._by_shape: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def gradients(self, batch: Any) -> tuple[list[Tensor], Metrics, dict[str, Tensor]]:
        """Gradients, metrics and extras of one minibatch, valid until the next one is asked for.

        Raises UserError where the recorded gradient is not autograd's.
        """
        key = tuple(None if t is None else (t.shape, t.dtype) for t in batch)
        replay = self._by_shape.get(key)
        result: tuple[list[Tensor], Metrics, dict[str, Tensor]]
        if replay is not None:
            result = replay(batch)
            return result
        if len(self._by_shape) >= _MOST:
            self._by_shape.clear()
        if any(t is not None and t.requires_grad for t in batch):
            raise UserError(
                "trainer.engine='traced' does not fit this module: the loss takes inputs that carry a gradient, "
                "which a recording would lose; use trainer.engine=eager."
            )
        with recording():
            expected = self._expected(batch)
            self._by_shape[key] = trace(self.module, self.names, self.loss, batch, self.views)
            result = self._by_shape[key](batch)
        self._compare(result[0], expected)
        return result

    def _expected(self, batch: Any) -> list[Tensor] | None:
        """What autograd gives; None on a GPU where the loss draws noise, which a CUDA graph draws otherwise."""
        parameters = dict(self.module.named_parameters())
        with undone(self.module) as drew_noise:
            value = self.loss(batch)[0]
            gradients = torch.autograd.grad(value, [parameters[name] for name in self.names], materialize_grads=True)
        return None if drew_noise() and gradients[0].is_cuda else list(gradients)

    def _compare(self, gradients: list[Tensor], expected: list[Tensor] | None) -> None:
        """Raises UserError when a recorded gradient is not autograd's: the loss depends on more than it is given."""
        if expected is None:
            return
        with torch.no_grad():
            norms = torch.stack([gradient.float().norm() for gradient in expected])
            apart = torch.stack([(a.float() - b.float()).norm() for a, b in zip(gradients, expected, strict=True)])
            wrong = apart > _NEAR * norms + _NEGLIGIBLE * norms.norm()
        if wrong.any():
            name = self.names[int(wrong.nonzero()[0])]
            raise UserError(
                f"trainer.engine='traced' does not fit this module: the recorded gradient of {name} is not autograd's, "
                f"since the loss reaches it by another way than its inputs and the updater's module; "
                f"use trainer.engine=eager."
            )
