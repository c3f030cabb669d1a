"""Steps by curvature: Newton's with damping (Levenberg 1944), and L-BFGS (Liu and Nocedal 1989).

They need a minibatch's loss itself, not its gradient. P numbers in all parameters together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lab.engine.loss import Loss, LossFunction
from lab.engine.tracing import undone
from lab.errors import UserError

_MOST_PARAMETERS = 5_000
_ROWS = 256
"""of the Hessian that are made at once"""
T = TypeVar("T")


class Newton(torch.optim.Optimizer):
    """w -= lr (H + (damping + weight_decay) I)^-1 (g + weight_decay w), with the full Hessian H of the loss.

    Raises UserError for more than a few thousand parameters.
    """

    def __init__(
        self, parameters: Iterable[Tensor] | list[dict[str, Any]], *, lr: float, damping: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "damping": damping, "weight_decay": weight_decay})
        num_parameters = sum(p.numel() for group in self.param_groups for p in group["params"])
        if num_parameters > _MOST_PARAMETERS:
            raise UserError(
                f"optimizer.name='newton' makes a Hessian of the number of parameters squared, and is for at most "
                f"{_MOST_PARAMETERS:,}; this model has {num_parameters:,}."
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """One step; `closure` gives the loss, a scalar with gradient."""
        (settings,) = self.param_groups
        parameters, weight_decay = settings["params"], settings["weight_decay"]
        with torch.enable_grad():
            loss = closure()
            gradient, curvature = gradient_and_hessian(loss, parameters)  # (P,), (P, P)
        gradient += weight_decay * nn.utils.parameters_to_vector(parameters)
        curvature.diagonal().add_(settings["damping"] + weight_decay)
        try:
            direction = torch.linalg.solve(curvature, gradient)
        except torch.linalg.LinAlgError:
            raise UserError(
                f"the Hessian is singular with optimizer.damping={settings['damping']:g}; a larger one helps."
            ) from None
        pieces = direction.split([p.numel() for p in parameters])
        for p, piece in zip(parameters, pieces, strict=True):
            p.sub_(piece.view_as(p), alpha=settings["lr"])
        return loss.detach()


def gradient_and_hessian(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The gradient (P,) and the Hessian (P, P) of a scalar, without gradient."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    gradient = torch.cat([g.flatten() for g in gradients])
    if not gradient.requires_grad:
        return gradient, gradient.new_zeros(len(gradient), len(gradient))
    rows = []
    for chunk in torch.eye(len(gradient), dtype=gradient.dtype, device=gradient.device).split(_ROWS):
        pieces = torch.autograd.grad(
            gradient, parameters, chunk, retain_graph=True, is_grads_batched=True, materialize_grads=True
        )
        rows.append(torch.cat([piece.flatten(1) for piece in pieces], 1))
    return gradient.detach(), torch.cat(rows)


class Repeated:
    """The loss of one minibatch, evaluated several times as the same function of the parameters.

    Noise is the same each time; running statistics are gathered once.
    """

    def __init__(self, module: nn.Module, loss: LossFunction, batch: Any) -> None:
        self.module, self.loss, self.batch = module, loss, batch
        self.first: Loss | None = None

    def __call__(self, use: Callable[[Tensor], T]) -> T:
        """What `use` makes of the loss."""
        torch.clear_autocast_cache()  # the weights have changed since the last time
        if self.first is None:
            self._cpu, self._gpus = torch.get_rng_state(), _gpu_states()
            self.first = self.loss(self.batch)
            return use(self.first.value)
        with undone(self.module):
            torch.set_rng_state(self._cpu)
            if self._gpus:
                torch.cuda.set_rng_state_all(self._gpus)
            return use(self.loss(self.batch).value)


def minimize(optimizer: torch.optim.Optimizer, repeated: Repeated, weight_decay: float) -> Loss:
    """One step of Newton or torch.optim.LBFGS on a minibatch; returns the loss before it."""
    parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]

    def with_gradient(loss: Tensor) -> Tensor:
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        value = loss.detach()
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
            if weight_decay:
                p.grad = gradient + weight_decay * p.detach()
                value = value + weight_decay / 2 * p.detach().square().sum()
        return value

    use = (lambda loss: loss) if isinstance(optimizer, Newton) else with_gradient
    optimizer.step(lambda: repeated(use))
    optimizer.zero_grad(set_to_none=True)
    assert repeated.first is not None
    return repeated.first


def _gpu_states() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
