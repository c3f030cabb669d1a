"""Frozen layers of a backbone: no gradient, no update, no weight decay, and statistics that stay as they are."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator
from torch import nn

from lab.backbones.staged import Staged
from lab.engine.rates import fits, require_fits
from lab.errors import UserError


def _checked(value: Any) -> bool | int | tuple[str, ...]:
    if isinstance(value, bool) or (isinstance(value, int) and value >= 0):
        return value
    if isinstance(value, list | tuple) and all(isinstance(pattern, str) for pattern in value):
        return tuple(value)
    raise ValueError("write true, a number of first stages, or a list of patterns of parameter names")


Frozen = Annotated[bool | int | tuple[str, ...], PlainValidator(_checked)]
"""all layers, so many of the first stages (or layers, where there are no stages), or those whose names fit a pattern"""
FIELD = "module.backbone.frozen"


def freeze(backbone: nn.Module, net: nn.Module, frozen: bool | int | tuple[str, ...]) -> None:
    """Take the gradient from parameters of `backbone`, whose network is `net`.

    Raises UserError for more stages or layers than there are, and for a pattern that fits no parameter.
    """
    if isinstance(frozen, bool):
        parameters = list(backbone.parameters()) if frozen else []
    elif isinstance(frozen, int):
        parameters = _first(net, frozen)
    else:
        named = {f"backbone.{name}": p for name, p in backbone.named_parameters()}
        require_fits(list(named), frozen, FIELD)
        parameters = [p for name, p in named.items() if any(fits(name, pattern) for pattern in frozen)]
    for parameter in parameters:
        parameter.requires_grad_(False)


def rest(backbone: nn.Module) -> None:
    """Put frozen layers with statistics of their own (batch norms, say) into evaluation mode.

    A layer without parameters goes with the one before it.
    """
    frozen = False
    for layer in backbone.modules():
        own = list(layer.parameters(recurse=False))
        frozen = not any(p.requires_grad for p in own) if own else frozen
        if frozen and any(True for _ in layer.buffers(recurse=False)):
            layer.training = False


def _first(net: nn.Module, num: int) -> list[nn.Parameter]:
    """Those of the first stages of a Staged network; of any other, of the first layers that have parameters."""
    if isinstance(net, Staged) and net.ends:
        _check(num, len(net.ends), "stages")
        return [p for layer in list(net)[: [-1, *net.ends][num] + 1] for p in layer.parameters()]
    layers = [list(layer.parameters(recurse=False)) for layer in net.modules()]
    layers = [layer for layer in layers if layer]
    _check(num, len(layers), "layers with parameters")
    return [p for layer in layers[:num] for p in layer]


def _check(num: int, most: int, what: str) -> None:
    if num > most:
        raise UserError(f"{FIELD}={num} is not valid: the backbone has {most} {what}; true freezes all of it.")
