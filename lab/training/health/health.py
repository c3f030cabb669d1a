"""Diagnostics of a run while it trains: what its updates do is looked at now and then, and nothing of it is changed.

Once a row of metrics, one update of each updater: `diagnostics/update_to_weight`, the typical |change| / |weights| of
a matrix, and `diagnostics/gradient_norm` before clipping. Once an evaluation, before one more update: its loss is
evaluated again in the eager engine, with its noise, to see layers' outputs. Which updates these are is a function of
the counter and of `state_dict`, so that a resumed run looks at the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lab.engine.torch_private import foreach_norm
from lab.engine.updater import Updater
from lab.pictures import Image
from lab.ranks import ranks
from lab.training.health.dead_units import DeadUnits
from lab.training.health.filters import first_picture
from lab.training.health.histograms import Activations, Histogram, named
from lab.training.health.layers import apart
from lab.training.health.outputs import Outputs
from lab.training.health.updates import judge_ratio, rate_sentence, relative_changes, typical_ratio
from lab.training.learner import Learner

PREFIX = "diagnostics/"
_UPDATES, _CLOSELY = 50, 200
"""updates of an updater of which at most one is looked at (of the first ones more), and at most one closely"""
_A_WHILE = 3
"""rows in a row in which updates are too large, or rows from the start in which they are too small"""
_AT_ONCE = 1.0
"""ratio that one row is enough of: weights that are replaced rather than changed"""
_LOST = 0.99
"""saturated share of a layer's outputs from which on it is worth a warning: a critic of large returns has much of it"""
_SHARE = 100
"""one training sample is scored for so many that are trained on between two evaluations"""
_FEWEST = 64


class Health:
    """Looks at a learner's updates, and tells of them in rows of metrics and at evaluations."""

    def __init__(self, eval_period: int) -> None:
        self._eval_period = eval_period
        self._num_scored = max(_FEWEST, eval_period // _SHARE)
        self._sample: Any = None
        """of the training split, the same all the time"""
        self._chunk = 0
        """what the last chunk counted"""
        self._rows: dict[str, dict[str, float]] = {}
        """what is to be told in the next row, by updater"""
        self._evaluations: dict[str, dict[str, Any]] = {}
        """the same of the next evaluation: numbers, and histograms"""
        self._looked: dict[str, list[int]] = {}
        """by updater, how many updates it had made when one was looked at, and one closely, for the last time"""
        self._extreme: dict[str, int] = {}
        """for how many rows the updates of each updater have been too large (above 0), or always too small (below);
        0 where neither is so"""

    def begin_chunk(self, learner: Learner[Any], next_evaluation: int) -> None:
        """Look at the chunk's first update where something is to be told that is not known yet."""
        soon = learner.counters[learner.counter] + 2 * self._chunk >= next_evaluation
        for name, updater in learner.updaters.items():
            looked, closely_looked = self._looked.get(name, (0, -_CLOSELY))
            due = name not in self._rows and updater.num_updates >= looked + min(_UPDATES, looked)
            closely = soon and name not in self._evaluations and updater.num_updates >= closely_looked + _CLOSELY
            updater.observer = _Observer(self, learner, name, closely) if due or closely else None

    def end_chunk(self, num: int) -> None:
        """The chunk counted so many samples or steps."""
        self._chunk = num

    def row(self, learner: Learner[Any]) -> dict[str, float]:
        """Metrics of the updates that were looked at since the last row. Warns of rates far from the usual."""
        row: dict[str, float] = {}
        for name, numbers in self._rows.items():
            end = "" if len(learner.updaters) == 1 else f"_{name}"
            row |= {f"{PREFIX}{key}{end}": value for key, value in numbers.items() if key != "rate"}
            if not learner.updaters[name].is_second_order and "update_to_weight" in numbers:
                self._judge(learner, name, numbers["update_to_weight"], numbers["rate"])
        self._rows = {}
        return row

    def evaluation(self, learner: Learner[Any]) -> dict[str, Any]:
        """Metrics of layers, and `histograms` by name, of the update that was looked at before this evaluation."""
        row: dict[str, Any] = {}
        histograms: dict[str, Histogram] = {}
        several = len(learner.updaters) > 1
        for name, updater in learner.updaters.items():
            numbers = self._evaluations.get(name, {})
            end = f"_{name}" if several else ""
            row |= {f"{PREFIX}{key}{end}": value for key, value in numbers.items() if key != "histograms"}
            within = {f"{name}/" if several else "": {**_weights_histograms(updater), **numbers.get("histograms", {})}}
            for prefix, each in within.items():
                histograms |= {key.replace("/", f"/{prefix}", 1): Histogram(*value) for key, value in each.items()}
        self._evaluations = {}
        return row | ({"histograms": histograms} if histograms else {})

    def picture(self, learner: Learner[Any]) -> Image | None:
        """First-layer filters of a network that reads images."""
        inputs = learner.data_spec.inputs
        specs = inputs.values() if isinstance(inputs, dict) else [inputs]
        modules = [updater.module for updater in learner.updaters.values()]
        pictures = (first_picture(modules, spec.shape) for spec in specs)
        return next((picture for picture in pictures if picture is not None), None)

    def training_score(self, learner: Learner[Any], data: Any) -> tuple[Any, float] | None:
        """A metric of a sample of the training split (see `Learner.training_score`); of few samples now and then."""
        count, every = learner.counters[learner.counter], -(-_FEWEST * _SHARE // self._eval_period)
        if count // self._eval_period % max(1, every) and count < (learner.budget or 0):
            return None
        if self._sample is None:
            self._sample = data.training_sample(self._num_scored)
        return None if self._sample is None else learner.training_score(self._sample)

    def state_dict(self) -> dict[str, Any]:
        return {
            "chunk": self._chunk,
            "looked": self._looked,
            "rows": self._rows,
            "evaluations": self._evaluations,
            "extreme": self._extreme,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._chunk, self._looked, self._rows = state["chunk"], dict(state["looked"]), dict(state["rows"])
        self._evaluations, self._extreme = dict(state["evaluations"]), dict(state["extreme"])

    def _judge(self, learner: Learner[Any], name: str, ratio: float, rate: float) -> None:
        """A rate is too low where it has been so from the start: a network that has learned changes little."""
        updater, before = learner.updaters[name], self._extreme.get(name)
        factor = updater.config.lr / rate if rate else 1.0
        if judge_ratio(ratio) == "high":
            self._extreme[name] = max(before or 0, 0) + (_A_WHILE if ratio > _AT_ONCE else 1)
        elif judge_ratio(ratio * factor) == "low" and (before is None or before < 0):
            self._extreme[name] = (before or 0) - 1
        else:
            self._extreme[name] = 0
        if abs(self._extreme[name]) >= _A_WHILE:
            learner.warn_once(f"rate of {name}", rate_sentence(name, rate, ratio))


class _Observer:
    """Looks at one update of an updater; closely: also at the layers' outputs, and at histograms."""

    def __init__(self, health: Health, learner: Learner[Any], name: str, closely: bool) -> None:
        self.health, self.learner, self.name, self.closely = health, learner, name, closely
        self.updater = learner.updaters[name]
        self._matrices = [i for i, p in enumerate(self.updater.parameters) if p.dim() > 1]
        self._before: list[Tensor] = []
        self._norm: Tensor | None = None
        self._close: dict[str, Any] = {}

    def see_batch(self, batch: Any) -> None:
        self._before = [self.updater.parameters[i].detach().clone() for i in self._matrices]
        if self.closely:
            self._close = self._look_closely(batch)

    def see_gradients(self, gradients: Sequence[Tensor]) -> None:
        self._norm = torch.stack(foreach_norm(list(gradients))).norm()
        if self.closely:
            matrices = {_layer(self.updater.names[i]): gradients[i] for i in self._matrices}
            self._close["histograms"] |= _plain(named("gradients", matrices))

    def see_update(self) -> None:
        numbers = {"rate": self.updater.rate}
        if self._matrices:
            after = [self.updater.parameters[i].detach() for i in self._matrices]
            numbers["update_to_weight"] = float(typical_ratio(relative_changes(self._before, after)))
        if self._norm is not None:
            numbers["gradient_norm"] = float(self._norm)
        self.health._rows[self.name] = {key: value for key, value in numbers.items() if not math.isnan(value)}
        looked = self.health._looked.setdefault(self.name, [0, -_CLOSELY])
        looked[0] = self.updater.num_updates
        if self.closely:
            looked[1] = self.updater.num_updates
            self.health._evaluations[self.name] = self._close

    def _look_closely(self, batch: Any) -> dict[str, Any]:
        """The loss again, whose noise and statistics are undone: shares of dead and of saturated units."""
        module, dead, outputs, activations = self.updater.module, DeadUnits(), Outputs(), Activations()
        with (
            ranks.alone(),
            apart(self.learner),
            dead.watching(module),
            outputs.watching(module),
            activations.watching(module),
        ):
            self.updater.loss(batch)
        torch.clear_autocast_cache()
        lost = outputs.worst is not None and outputs.saturated[outputs.worst] >= _LOST
        saturation = outputs.saturation() if lost else None
        for state, warning in (("dead units", dead.warning("of a minibatch")), ("saturation", saturation)):
            if warning is not None:
                self.learner.warn_once(state, warning)
        numbers: dict[str, Any] = {} if dead.share is None else {"dead_units": dead.share}
        if outputs.worst is not None:
            numbers["saturated_units"] = outputs.saturated[outputs.worst]
        return numbers | {"histograms": _plain(named("activations", activations.first))}


def _weights_histograms(updater: Updater) -> dict[str, Histogram]:
    matrices = {_layer(name): p for name, p in zip(updater.names, updater.parameters, strict=True) if p.dim() > 1}
    return named("weights", matrices)


def _layer(name: str) -> str:
    return name.removesuffix(".weight")


def _plain(histograms: dict[str, Histogram]) -> dict[str, list[Any]]:
    """As a checkpoint can hold them."""
    return {name: list(each) for name, each in histograms.items()}
