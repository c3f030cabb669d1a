"""The one way to update parameters: gradients, mean over ranks, clip, step, count.

An `Updater` is given a loss function of a batch and runs it by one of two engines that compute the same:

- eager: plain autograd.
- traced: the operators of loss and gradient are recorded once for each batch shape and replayed (tracing.py): on a
  GPU as a CUDA graph; on a CPU rewritten, which spares a small network a third of its time. The loss must not branch
  on tensor values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lab.engine.cuda_graphs import recording
from lab.engine.flat_step import FlatGradients, fused_step
from lab.engine.loss import LossFunction, Metrics
from lab.engine.optimizers import OptimizerConfig
from lab.engine.tracing import trace, undone
from lab.errors import UserError
from lab.ranks import collectives, ranks

_MAX_TRACES = 16
_NEAR, _NEGLIGIBLE = 0.1, 1e-3
"""how far a recorded gradient may be from autograd's, of its own norm and of all"""


class Updater:
    """Updates the trainable parameters of `module` by the gradient of `loss`.

    Args:
        module: whose parameters are trained.
        loss: a minibatch (NamedTuple of tensors) -> Loss.
        config: optimizer, schedule, clipping.
        engine: "eager" or "traced".
    """

    def __init__(self, module: nn.Module, loss: LossFunction, config: OptimizerConfig, engine: str = "eager") -> None:
        self.module, self.loss, self.config, self.engine = module, loss, config, engine
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters: list[Tensor] = [p for _, p in named]
        self.optimizer = config.build(self.parameters)
        self.num_updates = 0
        self._traces: dict[tuple[Any, ...], Callable[..., Any]] = {}
        self._gradients: FlatGradients | None = None
        self._fused_step: Callable[[FlatGradients], None] | None = None

    def step(self, batch: Any) -> tuple[Metrics, dict[str, Tensor]]:
        """One update on one minibatch.

        Returns:
            The loss function's metrics, with `grad_norm` when gradients are clipped, and its extras.
        """
        gradients, metrics, extras = self.gradients(batch)
        self.apply(gradients, metrics)
        return metrics, extras

    def gradients(self, batch: Any) -> tuple[list[Tensor], Metrics, dict[str, Tensor]]:
        """The gradient of the loss of one minibatch, valid until the next one is asked for; metrics and extras."""
        if self.engine == "traced":
            return self._traced(batch)
        value, metrics, extras = self.loss(batch)
        return list(torch.autograd.grad(value, self.parameters, materialize_grads=True)), metrics, extras

    def apply(self, gradients: list[Tensor], metrics: Metrics) -> None:
        """Mean over ranks, clip, step, count; writes `grad_norm` into `metrics` when clipping."""
        buffer = self._buffer()
        buffer.take(gradients)
        _mean_over_ranks(buffer.buffer)
        if self.config.max_grad_norm is not None:
            metrics["grad_norm"] = buffer.clip_(self.config.max_grad_norm)
        self._optimizer_step(buffer)
        torch.clear_autocast_cache()  # autocast would go on with the bf16 copies of the weights before this update
        self.num_updates += 1

    @property
    def rate(self) -> float:
        """The learning rate now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def set_progress(self, progress: float) -> float:
        """Set the learning rate for `progress` in [0, 1] through the budget, and return it."""
        lr = self.config.lr * self.config.schedule.factor(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def state_dict(self) -> dict[str, Any]:
        """Optimizer state and the number of updates."""
        return {
            "name": self.config.name,
            "optimizer": self.optimizer.state_dict(),
            "num_updates": self.num_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; rates, betas and the like stay those of the config.

        Raises UserError when the state is another optimizer's.
        """
        if state["name"] != self.config.name:
            raise UserError(
                f"optimizer.name={self.config.name!r} cannot go on with the checkpoint's state of {state['name']!r}."
            )
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, setting in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(setting)
        self.num_updates = state["num_updates"]
        self._fused_step = None

    def _buffer(self) -> FlatGradients:
        if self._gradients is None:
            self._gradients = FlatGradients(self.parameters)
        return self._gradients

    def _optimizer_step(self, gradients: FlatGradients) -> None:
        if self._fused_step is None and self.optimizer.state:
            self._fused_step = fused_step(self.optimizer, self.parameters)
        if self._fused_step is not None:
            self._fused_step(gradients)
            return
        for p, gradient in zip(self.parameters, gradients.views, strict=True):
            p.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _traced(self, batch: Any) -> tuple[list[Tensor], Metrics, dict[str, Tensor]]:
        key = tuple(None if t is None else (t.shape, t.dtype) for t in batch)
        if key not in self._traces:
            if len(self._traces) >= _MAX_TRACES:
                self._traces.clear()
            if any(t is not None and t.requires_grad for t in batch):
                raise UserError(
                    "trainer.engine='traced' does not fit this module: the loss takes inputs that carry a gradient, "
                    "which a recording would lose; use trainer.engine=eager."
                )
            with recording():
                expected = self._expected(batch)
                self._traces[key] = trace(self.module, self.names, self.loss, batch, self._buffer().views)
                result = self._traces[key](batch)
            self._compare(result[0], expected)
            return result
        return self._traces[key](batch)

    def _expected(self, batch: Any) -> list[Tensor] | None:
        """What autograd gives; None on a GPU where the loss draws noise, which a CUDA graph draws otherwise."""
        with undone(self.module) as drew_noise:
            value = self.loss(batch)[0]
            gradients = torch.autograd.grad(value, self.parameters, materialize_grads=True)
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


def _mean_over_ranks(gradients: Tensor) -> None:
    if ranks.num_ranks() > 1:
        collectives.all_reduce(gradients)
        gradients /= ranks.num_ranks()
