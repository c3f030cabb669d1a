"""The exact state of an environment, as plain values, where it is plain (classic control, toy text).

Every wrapper's and the environment's own attributes that are numbers, arrays, tuples of them or None are saved, with
the random generators. An environment that keeps its state elsewhere (Box2D bodies, an emulator) gives None, unless it
offers `state_dict` and `load_state_dict` itself; such a run resumes with fresh episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_PLAIN_MODULES = (
    "gymnasium.envs.classic_control",
    "gymnasium.envs.toy_text",
    "gymnasium.wrappers",
    "gymnasium.vector",
    "agents.envs.cartpole_positions",
)
_PICTURES = ("screen", "clock", "surf", "screens", "window", "window_surface", "isopen", "metadata")


def env_state(env: Any) -> dict[str, Any] | None:
    """The state of an environment with its wrappers, or None when it cannot be had."""
    layers = _layers(env)
    core = layers[-1]
    if hasattr(core, "state_dict") and hasattr(core, "load_state_dict"):
        return {"own": core.state_dict(), "layers": [_attributes(layer) for layer in layers[:-1]]}
    if not type(core).__module__.startswith(_PLAIN_MODULES) or hasattr(core, "envs"):  # a vector of environments
        return None
    return {"own": None, "layers": [_attributes(layer) for layer in layers]}


def set_env_state(env: Any, state: dict[str, Any]) -> None:
    """Restore what `env_state` gave."""
    layers = _layers(env)
    if state["own"] is not None:
        layers[-1].load_state_dict(state["own"])
    for layer, attributes in zip(layers, state["layers"], strict=False):
        for name, value in attributes.items():
            if name == "np_random":
                generator = np.random.default_rng()
                generator.bit_generator.state = value
                layer._np_random = generator
            else:
                setattr(layer, name, _from_plain(value))


def _layers(env: Any) -> list[Any]:
    layers = [env]
    while hasattr(layers[-1], "env"):
        layers.append(layers[-1].env)
    return layers


def _attributes(layer: Any) -> dict[str, Any]:
    saved: dict[str, Any] = {}
    for name, value in vars(layer).items():
        if name in _PICTURES or name.startswith("_cached"):
            continue
        if name == "_np_random":
            if value is not None:
                saved["np_random"] = value.bit_generator.state
        elif _is_plain(value):
            saved[name] = _to_plain(value)
    return saved


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value.copy())}
    if isinstance(value, np.generic):
        return {"scalar": value.item(), "dtype": value.dtype.str}
    if isinstance(value, tuple | list):
        return {"items": [_to_plain(item) for item in value], "tuple": isinstance(value, tuple)}
    return value


def _from_plain(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return value["array"].numpy().copy()
    if "scalar" in value:
        return np.dtype(value["dtype"]).type(value["scalar"])
    items = [_from_plain(item) for item in value["items"]]
    return tuple(items) if value["tuple"] else items
