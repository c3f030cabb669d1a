"""The one way to update parameters: gradients, mean over ranks, clip, step, count.

An `Updater` is given a loss function of a batch and runs it by one of two engines that compute the same:

- eager: plain autograd.
- traced: the operators of loss and gradient are recorded once for each batch shape and replayed (tracing.py): on a
  GPU as a CUDA graph; on a CPU rewritten, which spares a small network a third of its time. The loss must not branch
  on tensor values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from lab.engine.averages import Average
from lab.engine.flat_step import FlatGradients, fused_step, laid_out_like
from lab.engine.loss import LossFunction, Metrics
from lab.engine.optimizers import SECOND_ORDER, OptimizerConfig
from lab.engine.rates import parameter_groups, rate_factors
from lab.engine.recordings import Recordings
from lab.engine.regularizers import add_l1_, limit_norms_, weights_of
from lab.engine.schedules import Plateau
from lab.engine.second_order import Repeated, minimize
from lab.errors import UserError
from lab.experiment import AverageConfig
from lab.ranks import collectives, ranks


class UpdateObserver(Protocol):
    """Looks at one update, and changes nothing of it."""

    def see_batch(self, batch: Any) -> None:
        """The minibatch, before its loss is computed; again, with another one, where the update was not made."""

    def see_gradients(self, gradients: Sequence[Tensor]) -> None:
        """The gradients of all ranks, before they are clipped; not of a second-order optimizer, nor valid for long."""

    def see_update(self) -> None:
        """The parameters have been changed."""


class Updater:
    """Updates the trainable parameters of `module` by the gradient of `loss`.

    Args:
        module: whose parameters are trained.
        loss: a minibatch (NamedTuple of tensors) -> Loss.
        config: optimizer, schedules, rates of layers, regularisation, clipping.
        engine: "eager" or "traced".

    Raises UserError when the optimizer does not fit the module, the engine or several workers.
    """

    def __init__(self, module: nn.Module, loss: LossFunction, config: OptimizerConfig, engine: str = "eager") -> None:
        self.module, self.loss, self.config = module, loss, config
        self.is_second_order = config.name in SECOND_ORDER
        self.set_engine(engine)
        if self.is_second_order and ranks.num_ranks() > 1:
            raise UserError(f"optimizer.name={config.name!r} updates in one process: trainer.num_workers must be 1.")
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not trainable and any(True for _ in module.parameters()):
            raise UserError("module.backbone.frozen freezes all parameters of an optimizer: nothing is left to train.")
        factors = rate_factors(list(trainable), config.rates)
        self.names = [name for name, factor in zip(trainable, factors, strict=True) if factor]
        self.parameters: list[Tensor] = [trainable[name] for name in self.names]
        groups = parameter_groups(self.parameters, [factor for factor in factors if factor], config.lr)
        embeddings = [layer.weight for layer in module.modules() if isinstance(layer, nn.Embedding)]
        self.optimizer = config.build(groups, embeddings)
        self.num_updates = 0
        schedule = config.schedule
        self.plateau: Plateau | None = None
        if schedule.name == "plateau":
            self.plateau = Plateau(schedule.gamma, schedule.patience, schedule.final)
        self.average: Average | None = None
        self._progress = 0.0
        self._l1, self._max_norm, self._momentum_schedule = config.l1, config.max_norm, config.momentum_schedule
        self._weights = weights_of(module, self.names)
        position = {id(p): i for i, p in enumerate(module.parameters())}
        self._numbers = [position[id(p)] for group in self.optimizer.param_groups for p in group["params"]]
        """of the optimizer's parameters among all, which neither `rates` nor frozen layers change"""
        self._recordings: Recordings | None = None
        self._gradients: FlatGradients | None = None
        self._fused_step: Callable[[FlatGradients], None] | None = None
        self._may_be_fused = config.momentum_schedule is None
        self.observer: UpdateObserver | None = None
        """looks at the next update, once"""

    def step(self, batch: Any) -> tuple[Metrics, dict[str, Tensor]]:
        """One update on one minibatch.

        Returns:
            The loss function's metrics, with `grad_norm` when gradients are clipped, and its extras, all of the
            parameters before the update.
        """
        if self.is_second_order:
            if self.observer is not None:
                self.observer.see_batch(batch)
            loss = minimize(self.optimizer, Repeated(self.module, self.loss, batch), self.config.weight_decay)
            self._end_update()
            return loss.metrics, loss.extras
        gradients, metrics, extras = self.gradients(batch)
        self.apply(gradients, metrics)
        return metrics, extras

    def gradients(self, batch: Any) -> tuple[list[Tensor], Metrics, dict[str, Tensor]]:
        """The gradient of the loss of one minibatch, valid until the next one is asked for; metrics and extras."""
        if self.observer is not None:
            self.observer.see_batch(batch)
        if self.engine == "traced":
            if self._recordings is None:
                self._recordings = Recordings(self.module, self.names, self.loss, self._buffer().views)
            return self._recordings.gradients(batch)
        value, metrics, extras = self.loss(batch)
        return list(torch.autograd.grad(value, self.parameters, materialize_grads=True)), metrics, extras

    def apply(self, gradients: list[Tensor], metrics: Metrics) -> None:
        """Mean over ranks, clip, step, count; writes `grad_norm` into `metrics` when clipping.

        Raises UserError for an optimizer that needs the loss itself.
        """
        buffer = self._buffer()
        buffer.take(gradients)
        _mean_over_ranks(buffer.buffer)
        if self.observer is not None:
            self.observer.see_gradients(buffer.views)
        if self.config.max_grad_norm is not None:
            metrics["grad_norm"] = buffer.clip_(self.config.max_grad_norm)
        if self._l1:
            add_l1_(buffer.views, self._weights, self._l1)
        self._optimizer_step(buffer)
        self._end_update()

    def set_engine(self, engine: str) -> None:
        """Choose how loss and gradient are computed. Raises UserError when the optimizer runs in eager only."""
        if engine == "traced" and self.is_second_order:
            raise UserError(
                f"trainer.engine='traced' does not fit optimizer.name={self.config.name!r}, which needs the loss "
                f"itself and not a recorded gradient; use trainer.engine=eager."
            )
        self.engine = engine

    def set_average(self, config: AverageConfig | None) -> None:
        """Average the weights after each update, or no longer."""
        self.average = None if config is None else Average(config, self.module, self.names)

    @property
    def rate(self) -> float:
        """The learning rate now, before the factors of `rates`."""
        group = self.optimizer.param_groups[0]
        return float(group["lr"] / group["factor"])

    def set_progress(self, progress: float) -> float:
        """Set learning rate and momentum for `progress` in [0, 1] through the budget, and return the rate."""
        self._progress = progress
        lr = self.config.lr * self.config.schedule.factor(progress)
        if self.plateau is not None:
            lr *= self.plateau.factor
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        if self._momentum_schedule is not None:
            momentum = self.config.initial_momentum * self._momentum_schedule.factor(progress)
            for group in self.optimizer.param_groups:
                if "momentum" in group:
                    group["momentum"] = momentum
        return lr

    def follow_evaluation(self, value: float, mode: Literal["max", "min"]) -> None:
        """Let a plateau schedule know of an evaluation of the monitored metric."""
        if self.plateau is not None:
            self.plateau.update(value, mode)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer state by the number of the parameter, the number of updates, plateau schedule and average."""
        state = self.optimizer.state_dict()["state"]
        own = {
            "name": self.config.name,
            "optimizer": {"state": {number: state[i] for i, number in enumerate(self._numbers) if i in state}},
            "num_updates": self.num_updates,
        }
        if self.plateau is not None:
            own["plateau"] = self.plateau.state_dict()
        if self.average is not None:
            own["average"] = self.average.state_dict()
        return own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; rates, betas and the like stay those of the config.

        Raises UserError when the state is another optimizer's.
        """
        if state["name"] != self.config.name:
            raise UserError(
                f"optimizer.name={self.config.name!r} cannot go on with the checkpoint's state of {state['name']!r}."
            )
        saved = state["optimizer"]["state"]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        own = {i: _own_state(saved[number], parameters[i]) for i, number in enumerate(self._numbers) if number in saved}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": own})
        self.num_updates = state["num_updates"]
        self._fused_step, self._may_be_fused = None, self._momentum_schedule is None
        if self.plateau is not None and "plateau" in state:
            self.plateau.load_state_dict(state["plateau"])
        if self.average is not None and "average" in state:
            self.average.load_state_dict(state["average"])

    def _end_update(self) -> None:
        if self._max_norm is not None:
            limit_norms_(self._weights, self._max_norm)
        torch.clear_autocast_cache()  # autocast would go on with the bf16 copies of the weights before this update
        self.num_updates += 1
        if self.average is not None:
            self.average.update(self._progress)
        if self.observer is not None:
            self.observer.see_update()
            self.observer = None

    def _buffer(self) -> FlatGradients:
        if self._gradients is None:
            self._gradients = FlatGradients(self.parameters)
        return self._gradients

    def _optimizer_step(self, gradients: FlatGradients) -> None:
        if self._may_be_fused and self.optimizer.state:
            self._fused_step, self._may_be_fused = fused_step(self.optimizer, self.parameters), False
        if self._fused_step is not None:
            self._fused_step(gradients)
            return
        if self.is_second_order:
            raise UserError(
                f"optimizer.name={self.config.name!r} does not fit this module, whose updates are gradients alone."
            )
        for p, gradient in zip(self.parameters, gradients.views, strict=True):
            p.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _own_state(state: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    """A parameter's state, laid out as it is, with a count of its own: where the step is a quick one, all share one."""
    own = {
        name: laid_out_like(value, parameter) if isinstance(value, Tensor) else value for name, value in state.items()
    }
    return own | {"step": state["step"].clone()} if isinstance(state.get("step"), Tensor) else own


def _mean_over_ranks(gradients: Tensor) -> None:
    if ranks.num_ranks() > 1:
        collectives.all_reduce(gradients)
        gradients /= ranks.num_ranks()
