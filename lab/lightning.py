"""Lightning's classes, without what Lightning imports and a training does not use.

`import lightning.pytorch` runs torch's compiler (for one class and one decorator), and torchmetrics with scipy's
filters and matplotlib (for two classes), which takes ten times as long as Lightning itself. Here they wait until
somebody uses them; whoever imports them gets them as always. The lab takes Lightning's names from this module alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module, metadata
from types import FunctionType
from typing import Any

import torch  # noqa: F401  (its compiler waits as a part of it)

from lab.lazy import Held, StandIn, used, waiting, waits

_COMPILER = "torch._dynamo"


def _disable(function: Any = None, recursive: bool = True, **options: Any) -> Any:
    """`torch._dynamo.disable`: while the compiler has not run, there is nothing from which to keep a function."""
    if not isinstance(function, FunctionType):
        return used(_COMPILER).disable(function, recursive, **options)
    real: list[Callable[..., Any]] = []

    @wraps(function)
    def disabled(*arguments: Any, **named: Any) -> Any:
        if waits(_COMPILER):
            return function(*arguments, **named)
        if not real:
            real.append(used(_COMPILER).disable(function, recursive, **options))
        return real[0](*arguments, **named)

    return disabled


def _graph_break(message: str = "") -> None:
    """`torch._dynamo.graph_break`, which is without effect outside of compiled code."""


class _Style:
    """`matplotlib.pyplot.style`, of which torchmetrics makes decorators."""

    @staticmethod
    @contextmanager
    def context(*arguments: Any, **options: Any) -> Iterator[None]:
        with used("matplotlib.pyplot").style.context(*arguments, **options):
            yield


_HELD = {
    _COMPILER: Held(
        {"OptimizedModule": StandIn(_COMPILER, "OptimizedModule")},
        until_used={"disable": _disable, "graph_break": _graph_break},
    ),
    "matplotlib": Held(),
    "matplotlib.axes": Held({"Axes": StandIn("matplotlib.axes", "Axes")}),
    "matplotlib.colors": Held({"Colormap": StandIn("matplotlib.colors", "Colormap")}),
    "matplotlib.pyplot": Held({"Figure": StandIn("matplotlib.pyplot", "Figure"), "style": _Style}),
    "torchmetrics": Held(
        {"__version__": metadata.version("torchmetrics"), "_logger": logging.getLogger("torchmetrics")},
        parts={"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"},
    ),
}

with waiting(_HELD):
    import_module("torchmetrics.utilities")  # before its other parts, which need each other
    from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
    from lightning.pytorch.loggers import WandbLogger

__all__ = ["Callback", "LightningDataModule", "LightningModule", "Trainer", "WandbLogger"]
