"""An optimizer's step in a few calls, however many parameters there are.

They compute what torch.optim computes, without the Python around it, which takes longer (80 to 400 us) than the
arithmetic of a small network. P numbers in all parameters together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lab.engine.torch_private import foreach_add_, foreach_copy_, fused_adam_


class FlatGradients:
    """Gradients side by side in one buffer: their norm, clipping and mean over ranks are one call each."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        first = parameters[0]
        self.buffer = torch.empty(sum(p.numel() for p in parameters), dtype=first.dtype, device=first.device)  # (P,)
        self.views = split_like(self.buffer, parameters)

    def take(self, gradients: list[Tensor]) -> None:
        """Copy the gradients of all parameters, but for those that were written here."""
        pairs = zip(self.views, gradients, strict=True)
        elsewhere = [(view, gradient) for view, gradient in pairs if view.data_ptr() != gradient.data_ptr()]
        if elsewhere:
            foreach_copy_([view for view, _ in elsewhere], [gradient for _, gradient in elsewhere])

    def clip_(self, max_norm: float) -> Tensor:
        """Scale so that the global norm is at most `max_norm`; returns the norm before."""
        norm = torch.linalg.vector_norm(self.buffer)
        if norm.device.type != "cpu":  # where asking for its value would wait
            self.buffer.mul_((max_norm / (norm + 1e-6)).clamp_(max=1.0))
        elif not (factor := max_norm / (float(norm) + 1e-6)) >= 1.0:
            self.buffer.mul_(factor)
        return norm


def split_like(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Views of a buffer (P,) with the shapes of `tensors`, and their numbers in the same order in memory."""
    pieces = flat.split([t.numel() for t in tensors])
    return [piece.as_strided(t.shape, t.stride()) for piece, t in zip(pieces, tensors, strict=True)]


def laid_out_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A parameter's state with its numbers in the parameter's order in memory, as kernels over flat memory need it."""
    if value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def fused_step(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]
) -> Callable[[FlatGradients], None] | None:
    """The step of an optimizer that has made its state, on that state; None where there is no quicker one."""
    settings = optimizer.param_groups[0]
    if len(optimizer.param_groups) > 1 or settings["weight_decay"]:
        return None
    if len({float(optimizer.state[p].get("step", 0)) for p in parameters}) > 1:  # some were frozen before
        return None
    if isinstance(optimizer, torch.optim.Adam):
        return _Adam(optimizer, parameters)
    if isinstance(optimizer, torch.optim.RMSprop) and not settings["momentum"]:
        return _RMSprop(optimizer, parameters)
    return None


class _Adam:
    """The kernel behind torch.optim.Adam(fused=True)."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
        self.settings, self.parameters = optimizer.param_groups[0], list(parameters)
        states = [optimizer.state[p] for p in parameters]
        self.exp_avgs, self.exp_avg_sqs = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq"))
        self.step = _one_step(states)
        self.steps = [self.step] * len(states)

    def __call__(self, gradients: FlatGradients) -> None:
        self.step.add_(1)
        beta1, beta2 = self.settings["betas"]
        fused_adam_(
            self.parameters,
            gradients.views,
            self.exp_avgs,
            self.exp_avg_sqs,
            [],
            self.steps,
            lr=self.settings["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=self.settings["eps"],
            amsgrad=False,
            maximize=False,
        )


class _RMSprop:
    """v = alpha v + (1 - alpha) g^2,  p = p - lr g / (sqrt(v) + eps); the optimizer's v become views of one buffer."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> None:
        self.settings, self.parameters = optimizer.param_groups[0], [p.detach() for p in parameters]
        states = [optimizer.state[p] for p in parameters]
        self.step = _one_step(states)
        self.square_avg = parameters[0].new_empty(sum(p.numel() for p in parameters))  # (P,)
        for state, view in zip(states, split_like(self.square_avg, parameters), strict=True):
            state["square_avg"] = view.copy_(state["square_avg"])

    def __call__(self, gradients: FlatGradients) -> None:
        self.step.add_(1)
        g, alpha = gradients.buffer, self.settings["alpha"]
        self.square_avg.mul_(alpha).addcmul_(g, g, value=1 - alpha)
        g.div_(self.square_avg.sqrt().add_(self.settings["eps"]))
        foreach_add_(self.parameters, gradients.views, alpha=-self.settings["lr"])


def _one_step(states: Sequence[dict[str, Tensor]]) -> Tensor:
    """The count of steps, from now on one tensor for all parameters."""
    for state in states:
        state["step"] = states[0]["step"]
    return states[0]["step"]
