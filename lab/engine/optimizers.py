"""Optimizers and learning-rate schedules as fields of an experiment."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from lab.experiment import Config


class ScheduleConfig(Config):
    """A factor on the learning rate as a function of progress p in [0, 1] through the budget."""

    name: Literal["constant", "linear", "cosine", "exponential"] = "constant"
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """share of the budget over which the rate first rises from 0"""
    final: NonNegativeFloat = 0.0
    """the factor at the end; exponential needs one above 0"""

    @model_validator(mode="after")
    def _exponential_ends_above_zero(self) -> ScheduleConfig:
        if self.name == "exponential" and not self.final:
            raise ValueError("an exponential schedule needs a `final` above 0, for example 0.01")
        return self

    def factor(self, progress: float) -> float:
        """The factor at `progress`."""
        if progress < self.warmup:
            return progress / self.warmup
        p = min((progress - self.warmup) / (1 - self.warmup), 1.0)
        if self.name == "linear":
            return 1 + (self.final - 1) * p
        if self.name == "cosine":
            return self.final + (1 - self.final) * (1 + math.cos(math.pi * p)) / 2
        if self.name == "exponential":
            return float(self.final**p)
        return 1.0


class OptimizerConfig(Config):
    """A torch optimizer, its schedule and its gradient clipping."""

    name: Literal["adam", "adamw", "nadam", "radam", "sgd", "rmsprop", "adagrad", "adadelta"] = "adam"
    lr: PositiveFloat = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    """adam family: decay of the first and second moment"""
    eps: PositiveFloat = 1e-8
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """sgd and rmsprop"""
    nesterov: bool = False
    """sgd"""
    alpha: float = Field(default=0.99, ge=0, lt=1)
    """rmsprop: decay of the squared gradient"""
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat | None = None
    """clip the global norm of the gradients to this"""
    schedule: ScheduleConfig = ScheduleConfig()

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The torch optimizer."""
        common: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.name in ("adam", "adamw"):
            kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
            return kind(parameters, betas=self.betas, eps=self.eps, fused=True, **common)
        if self.name in ("nadam", "radam"):
            return {"nadam": torch.optim.NAdam, "radam": torch.optim.RAdam}[self.name](
                parameters, betas=self.betas, eps=self.eps, **common
            )
        if self.name == "sgd":
            return torch.optim.SGD(parameters, momentum=self.momentum, nesterov=self.nesterov, fused=True, **common)
        if self.name == "rmsprop":
            return torch.optim.RMSprop(parameters, alpha=self.alpha, eps=self.eps, momentum=self.momentum, **common)
        if self.name == "adagrad":
            return torch.optim.Adagrad(parameters, eps=self.eps, **common)
        return torch.optim.Adadelta(parameters, eps=self.eps, **common)
