"""The loss of a recorded minibatch again, as a function of the parameters: the same noise, no update."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from lab.data.resident import Batch
from lab.diagnostics.warm_up import Record
from lab.engine.loss import LossFunction
from lab.engine.tracing import undone
from lab.training.learner import Learner

_SAMPLES = 8
"""of a minibatch of data; experience is taken whole"""


class Replay:
    """One updater of a copy of a learner, and the minibatch that is looked at.

    What the learner makes of data (noise, a generator's images) is made anew in each evaluation, from the same random
    state; an agent's minibatch is taken as it was.
    """

    def __init__(self, learner: Learner[Any], name: str, record: Record, *, double: bool = False) -> None:
        self.learner = copy.deepcopy(learner)
        self.learner.train()
        batch, given = record.batch, record.given
        if double:
            self.learner.double()
            batch, given = _double(batch), _double(given)
        self.name, self.updater, self.batch = name, self.learner.updaters[name], batch
        self.given = Batch(*(t[:_SAMPLES] for t in given)) if isinstance(given, Batch) else None
        for other, updater in self.learner.updaters.items():
            updater.num_updates = record.counts.get(other, updater.num_updates)

    @property
    def loss(self) -> LossFunction | None:
        """The function whose gradient the updater follows; None where there is none."""
        return self.learner.descended(self.name)

    def value(self) -> float:
        """The loss at the parameters as they are now."""
        loss, values = self.loss or self.updater.loss, list[float]()

        def evaluate(batch: Any) -> list[Tensor]:
            with torch.enable_grad():  # penalties are made of gradients
                values.append(float(loss(batch).value.detach()))
            return []

        self._run(evaluate)
        return values[0]

    def gradients(self) -> list[Tensor]:
        """The updater's own gradient."""
        results: list[list[Tensor]] = []

        def evaluate(batch: Any) -> list[Tensor]:
            results.append([gradient.clone() for gradient in self.updater.gradients(batch)[0]])
            return results[-1]

        self._run(evaluate)
        return results[0]

    def _run(self, evaluate: Callable[[Any], list[Tensor]]) -> None:
        with undone(self.learner):
            if self.given is None:
                evaluate(self.batch)
                return
            with _nothing_is_updated(self.learner, self.name, evaluate):
                self.learner.update(self.given)


@contextmanager
def _nothing_is_updated(learner: Learner[Any], name: str, evaluate: Callable[[Any], list[Tensor]]) -> Iterator[None]:
    """No updater's step changes parameters; that of `name` is `evaluate`, and what follows it is spared."""

    def step(batch: Any) -> Any:
        evaluate(batch)
        raise _Done

    def stand(updater: Any) -> Callable[[Any], Any]:
        return lambda batch: tuple(updater.loss(batch)[1:])

    for other, updater in learner.updaters.items():
        updater.step = step if other == name else stand(updater)  # type: ignore[method-assign, assignment]
    try:
        with suppress(_Done):
            yield
    finally:
        for updater in learner.updaters.values():
            del updater.step


class _Done(Exception):
    """The loss that was wanted has been evaluated."""


def _double(value: Any) -> Any:
    """Tensors of floating-point numbers within, in double precision and without history."""
    if isinstance(value, Tensor):
        return value.detach().double() if value.is_floating_point() else value.detach()
    if isinstance(value, dict):
        return {key: _double(part) for key, part in value.items()}
    if isinstance(value, tuple):
        parts = [_double(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
