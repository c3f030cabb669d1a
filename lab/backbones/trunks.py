"""Trunks: backbones that another run may begin with, as a checkpoint tells of them.

They are told by plain values, so that nobody's code runs when a stranger's checkpoint is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError
from torch import Tensor, nn

from lab.backbones.registry import Backbone, BackboneConfig
from lab.errors import UserError


class Trunk(NamedTuple):
    """A backbone within a module.

    name: of the backbone among the module's parts
    config: its name and options as plain values
    tensors: the name of each of its parameters and statistics in the module's state, by their names in the backbone
    """

    name: str
    config: dict[str, Any]
    tensors: dict[str, str]


def trunks_of(module: nn.Module) -> list[Trunk]:
    """Every backbone in a module, the outermost first."""
    return [
        Trunk(name, config.model_dump(mode="json"), {key: f"{name}.{key}" for key in backbone.state_dict()})
        for name, backbone in configured(module).items()
        if (config := backbone.config) is not None
    ]


def configured(module: nn.Module) -> dict[str, Backbone]:
    """The backbones in a module that a config stands for, by name, in the module's order."""
    return {
        name: part for name, part in module.named_modules() if isinstance(part, Backbone) and part.config is not None
    }


def read_trunks(entries: Any, state: Mapping[str, Any], path: str) -> list[tuple[Trunk, dict[str, Tensor]]]:
    """The trunks that the checkpoint at `path` tells of, each with its tensors from the checkpoint's state.

    Raises UserError where that is no list of trunks.
    """
    try:
        trunks = [Trunk(str(name), dict(config), dict(tensors)) for name, config, tensors in entries]
        return [(trunk, {key: _tensor(state[name]) for key, name in trunk.tensors.items()}) for trunk in trunks]
    except (TypeError, ValueError, KeyError):
        raise UserError(f"checkpoint {path!r} is damaged: its list of backbones is none.") from None


def differences(given: Mapping[str, Any], own: BackboneConfig) -> list[str]:
    """The options in which the config of a trunk differs from that of a backbone of the same name, as they are told.

    Options that only matter while a network learns, or as its weights are drawn, are no difference.
    """
    try:
        there, here = (config.of_outputs() for config in (BackboneConfig(**given), own))
    except (TypeError, ValidationError, UserError):
        return ["options that are not valid here"]
    return [f"{key}={there.get(key)!r} there, {here[key]!r} here" for key in here if there.get(key) != here[key]]


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError
    return value
