"""Layers of a network that are watched: those with weights, and those behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from lab.runs import checkpoint

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
BOUNDED = (nn.Sigmoid, nn.Tanh)
CURVED = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, *BOUNDED)

See = Callable[[str, nn.Module, Tensor], None]
"""what is called with a layer's name, the layer and its output"""


@contextmanager
def watching(layers: dict[str, nn.Module], see: See) -> Iterator[None]:
    """Call `see` at each forward pass of these layers within."""

    def hook(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output  # of a recurrent layer, all steps
        if isinstance(output, Tensor):
            see(name, layer, output.detach())

    handles = [layer.register_forward_hook(partial(hook, name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def apart(module: nn.Module) -> Iterator[None]:
    """What runs within leaves buffers (running statistics) and random state as they were.

    It writes into copies of the buffers: a graph that is still to be differentiated may hold the buffers themselves.
    """
    owners = [layer for layer in module.modules() if layer._buffers]
    before = [dict(layer._buffers) for layer in owners]
    random_state = checkpoint.rng_state()
    try:
        for layer in owners:
            layer._buffers.update({name: None if b is None else b.clone() for name, b in layer._buffers.items()})
        yield
    finally:
        checkpoint.set_rng_state(random_state)
        for layer, buffers in zip(owners, before, strict=True):
            layer._buffers.update(buffers)


def layers_of(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> dict[str, nn.Module]:
    """The layers of some kinds within a module, by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, kinds)}


def hidden(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> dict[str, nn.Module]:
    """Those of them that stand before another layer with weights: an output may be at its bounds."""
    waiting: dict[str, nn.Module] = {}
    before: dict[str, nn.Module] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, kinds):
            waiting[name] = layer
        elif isinstance(layer, (*WEIGHTED, nn.RNNBase, nn.RNNCellBase)):
            before |= waiting
            waiting.clear()
    return before
