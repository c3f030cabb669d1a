"""Optimizers, schedules and regularisation as fields of an experiment."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from lab.engine import schedules
from lab.engine.muon import MuonAdamW
from lab.engine.options import check_options
from lab.engine.second_order import Newton
from lab.experiment import Config

_Share = Annotated[float, Field(gt=0, lt=1)]
_Decay = Annotated[float, Field(ge=0, lt=1)]
_SCHEDULE_OPTIONS = {
    "constant": ("warmup",),
    "linear": ("warmup", "final"),
    "cosine": ("warmup", "final"),
    "cyclic": ("final", "cycles"),
    "exponential": ("warmup", "final"),
    "step": ("warmup", "milestones", "gamma"),
    "inverse": ("warmup", "decay"),
    "one_cycle": ("start", "peak", "final"),
    "plateau": ("warmup", "gamma", "patience", "final"),
}


class ScheduleConfig(Config):
    """A factor on the learning rate as a function of progress p in [0, 1] through the budget.

    A field that the schedule does not use is refused.
    """

    name: Literal[
        "constant", "linear", "cosine", "cyclic", "exponential", "step", "inverse", "one_cycle", "plateau"
    ] = "constant"
    """plateau follows a run's evaluations of the monitored metric, not p"""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """share of the budget over which the rate first rises from 0"""
    final: NonNegativeFloat = 0.0
    """the factor at the end; exponential needs one above 0, plateau falls no lower"""
    cycles: PositiveInt = 5
    """cyclic: how many times the factor falls from 1 to `final`; with trainer.snapshots as many of them"""
    milestones: tuple[_Share, ...] = (0.5, 0.75)
    """step: the shares of the budget at which the factor is multiplied by `gamma`"""
    gamma: _Share = 0.1
    """step and plateau: what each fall multiplies the factor by"""
    decay: PositiveFloat = 9.0
    """inverse: k in 1 / (1 + k p)"""
    start: _Share = 0.04
    """one_cycle: the factor at the beginning"""
    peak: _Share = 0.3
    """one_cycle: the share of the budget at which the factor is 1"""
    patience: PositiveInt = 5
    """plateau: the factor falls when so many evaluations in a row have brought no improvement"""

    @staticmethod
    def options_of(name: str) -> tuple[str, ...]:
        """The fields that a schedule uses."""
        return _SCHEDULE_OPTIONS.get(name, ())

    @model_validator(mode="after")
    def _check(self) -> ScheduleConfig:
        check_options(self, self.name, _SCHEDULE_OPTIONS)
        if self.name == "exponential" and not self.final:
            raise ValueError("an exponential schedule needs a `final` above 0, for example 0.01")
        return self

    def factor(self, progress: float) -> float:
        """The factor at `progress`; for plateau, before any fall."""
        name = self.name
        if progress < self.warmup:
            return progress / self.warmup
        if name in ("constant", "plateau"):
            return 1.0
        p = min((progress - self.warmup) / (1 - self.warmup), 1.0)
        if name == "linear":
            return schedules.linear(p, self.final)
        if name == "cosine":
            return schedules.cosine(p, self.final)
        if name == "cyclic":
            return schedules.cyclic(p, self.cycles, self.final)
        if name == "exponential":
            return schedules.exponential(p, self.final)
        if name == "step":
            return schedules.step(progress, self.milestones, self.gamma)
        if name == "inverse":
            return schedules.inverse(p, self.decay)
        return schedules.one_cycle(p, self.start, self.peak, self.final)


def _refuse_plateau(schedule: ScheduleConfig | None) -> ScheduleConfig | None:
    if schedule is not None and schedule.name == "plateau":
        raise ValueError("a plateau schedule is for a learning rate only; this one follows the progress")
    return schedule


of_progress = AfterValidator(_refuse_plateau)
"""marks a field with a schedule of something else than a learning rate: `Annotated[ScheduleConfig, of_progress]`"""

_FIRST_ORDER = ("schedule", "rates", "l1", "max_norm", "max_grad_norm")
_OPTIONS = {
    "adam": (*_FIRST_ORDER, "betas", "eps"),
    "adamw": (*_FIRST_ORDER, "betas", "eps"),
    "nadam": (*_FIRST_ORDER, "betas", "eps"),
    "radam": (*_FIRST_ORDER, "betas", "eps"),
    "sgd": (*_FIRST_ORDER, "momentum", "nesterov", "momentum_schedule"),
    "rmsprop": (*_FIRST_ORDER, "alpha", "eps", "momentum", "momentum_schedule"),
    "adagrad": (*_FIRST_ORDER, "eps"),
    "adadelta": (*_FIRST_ORDER, "rho", "eps"),
    "muon": (*_FIRST_ORDER, "betas", "eps", "momentum", "nesterov", "momentum_schedule"),
    "lbfgs": ("history_size", "max_iter"),
    "newton": ("schedule", "max_norm", "damping"),
}
SECOND_ORDER = ("lbfgs", "newton")
"""optimizers that are given a minibatch's loss, not its gradient"""


class OptimizerConfig(Config):
    """An optimizer, its schedules, rates of layers, regularisation and gradient clipping.

    A field that the optimizer does not use is refused. What regularises leaves the reported loss as it is.
    """

    name: Literal[
        "adam", "adamw", "nadam", "radam", "sgd", "rmsprop", "adagrad", "adadelta", "muon", "lbfgs", "newton"
    ] = "adam"
    """muon: matrices but embeddings, and adamw for all others; lbfgs and newton: the eager engine, one worker"""
    lr: PositiveFloat = 1e-3
    """lbfgs and newton: by default 1, also where an override changes `name`; of lbfgs where a line search begins"""
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    """adam family, and adamw beside muon: decay of the first and second moment"""
    eps: PositiveFloat = 1e-8
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """sgd, rmsprop, muon; by default 0, of muon 0.95"""
    nesterov: bool | None = None
    """sgd and muon; by default off, of muon on"""
    alpha: float = Field(default=0.99, ge=0, lt=1)
    """rmsprop: decay of the squared gradient"""
    rho: float = Field(default=0.9, ge=0, lt=1)
    """adadelta: decay of the squared gradient and the squared step"""
    history_size: PositiveInt = 10
    """lbfgs: how many steps the approximate Hessian is made of"""
    max_iter: PositiveInt = 20
    """lbfgs: iterations on each minibatch, each with a line search"""
    damping: NonNegativeFloat = 1e-3
    """newton: what is added to the diagonal of the Hessian (Levenberg 1944); much of it makes short gradient steps"""
    weight_decay: NonNegativeFloat = 0.0
    """L2 on all parameters, as in torch: adds this times w to the gradient; adamw and muon shrink w by lr times it"""
    l1: NonNegativeFloat = 0.0
    """adds l1 sign(w) to the gradient after clipping, for weights alone: no biases, no norm layers"""
    max_norm: PositiveFloat | None = None
    """each unit's incoming weights (row, filter) are scaled back to this norm after a step (Srivastava et al. 2014)"""
    max_grad_norm: PositiveFloat | None = None
    """clip the global norm of the gradients to this"""
    rates: dict[str, NonNegativeFloat] = {}
    """factors on the rate of parameters by name: {"*conv*": 0.1}; the last pattern that fits counts, 0 freezes"""
    schedule: ScheduleConfig = ScheduleConfig()
    momentum_schedule: Annotated[ScheduleConfig | None, of_progress] = None
    """a factor on `momentum`; momentum=0.5 with {name: linear, final: 1.98} rises to 0.99"""

    @staticmethod
    def options_of(name: str) -> tuple[str, ...]:
        """The fields that an optimizer uses; those that it takes over when `name` becomes another."""
        rate = () if name in SECOND_ORDER else ("lr",)
        return (*_OPTIONS.get(name, ()), *rate, "weight_decay")

    @model_validator(mode="before")
    @classmethod
    def _second_order_rate(cls, value: Any) -> Any:
        return {"lr": 1.0, **value} if isinstance(value, dict) and value.get("name") in SECOND_ORDER else value

    @model_validator(mode="after")
    def _check(self) -> OptimizerConfig:
        check_options(self, self.name, _OPTIONS)
        if not self.initial_momentum:
            for field in ("nesterov", "momentum_schedule"):
                if getattr(self, field):
                    raise ValueError(f"{field} needs a momentum above 0")
        if self.momentum_schedule is not None:
            if self.momentum_schedule.warmup:
                raise ValueError("momentum_schedule has no warmup; one_cycle begins at its `start`")
            most = self.initial_momentum * max(1.0, self.momentum_schedule.final)
            if most >= 1:
                raise ValueError(f"momentum_schedule takes the momentum to {most:g}; it must stay below 1")
        return self

    @property
    def initial_momentum(self) -> float:
        """The momentum before its schedule."""
        return (0.95 if self.name == "muon" else 0.0) if self.momentum is None else self.momentum

    def build(
        self, parameters: Iterable[Tensor] | list[dict[str, Any]], embeddings: Collection[Tensor] = ()
    ) -> torch.optim.Optimizer:
        """The torch optimizer of parameters, or of groups of them."""
        common: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        adam = {**common, "betas": self.betas, "eps": self.eps}
        momentum = self.initial_momentum
        if self.name in ("adam", "adamw"):
            return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.name](parameters, fused=True, **adam)
        if self.name in ("nadam", "radam"):
            return {"nadam": torch.optim.NAdam, "radam": torch.optim.RAdam}[self.name](parameters, **adam)
        if self.name == "sgd":
            return torch.optim.SGD(parameters, momentum=momentum, nesterov=bool(self.nesterov), fused=True, **common)
        if self.name == "rmsprop":
            return torch.optim.RMSprop(parameters, alpha=self.alpha, eps=self.eps, momentum=momentum, **common)
        if self.name == "adagrad":
            return torch.optim.Adagrad(parameters, eps=self.eps, **common)
        if self.name == "adadelta":
            return torch.optim.Adadelta(parameters, rho=self.rho, eps=self.eps, **common)
        if self.name == "muon":
            nesterov = self.nesterov is not False
            return MuonAdamW(parameters, embeddings, momentum=momentum, nesterov=nesterov, **adam)
        if self.name == "newton":
            return Newton(parameters, damping=self.damping, **common)
        return torch.optim.LBFGS(
            parameters,
            lr=self.lr,
            max_iter=self.max_iter,
            history_size=self.history_size,
            line_search_fn="strong_wolfe",
        )
