"""The exact state of an environment, as plain values, where it is plain (classic control, toy text).

Saved are the attributes of every wrapper and of the environment itself that are numbers, arrays, None, or tuples,
queues, dicts and running moments of them, and the random generators. A state is whole or it is none: an environment
that keeps it elsewhere (Box2D bodies, an emulator) gives None, unless it offers `state_dict` and `load_state_dict`
itself; so does one with a wrapper that holds anything else. Such a run resumes with fresh episodes.
"""

from __future__ import annotations

import types
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers.utils import RunningMeanStd

_PLAIN_MODULES = (
    "gymnasium.envs.classic_control",
    "gymnasium.envs.toy_text",
    "gymnasium.wrappers",
    "gymnasium.vector",
    "agents.envs.cartpole_positions",
)
_PICTURES = ("screen", "clock", "surf", "screens", "window", "window_surface", "isopen", "metadata")
_WIRING = ("env", "_saved_kwargs", "_metadata")
_CONSTANTS = (gym.Space, gym.envs.registration.EnvSpec, types.FunctionType, types.MethodType, type)
"""what a wrapper holds and does not change"""


def env_state(env: Any) -> dict[str, Any] | None:
    """The state of an environment with its wrappers, or None when it cannot be had."""
    *wrappers, core = _layers(env)
    if not all(map(_is_whole, wrappers)):
        return None
    if hasattr(core, "state_dict") and hasattr(core, "load_state_dict"):
        try:
            own = core.state_dict()
        except NotImplementedError:
            return None
        if not _is_plain(own):
            return None
        return {"own": {"plain": _to_plain(own)}, "layers": [_attributes(layer) for layer in wrappers]}
    if not type(core).__module__.startswith(_PLAIN_MODULES) or hasattr(core, "envs"):  # a vector of environments
        return None
    return {"own": None, "layers": [_attributes(layer) for layer in (*wrappers, core)]}


def set_env_state(env: Any, state: dict[str, Any]) -> None:
    """Restore what `env_state` gave."""
    layers = _layers(env)
    if state["own"] is not None:
        own = state["own"]  # as it was given, in checkpoints of before
        layers[-1].load_state_dict(_from_plain(own["plain"]) if own.keys() == {"plain"} else own)
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
    while isinstance(layers[-1], gym.Wrapper | gym.vector.VectorWrapper):
        layers.append(layers[-1].env)
    return layers


def _is_whole(wrapper: Any) -> bool:
    """Whether all that a wrapper holds and may change can be saved."""
    return all(
        name in (*_PICTURES, *_WIRING)
        or name.startswith("_cached")
        or isinstance(value, (*_CONSTANTS, np.random.Generator))
        or _is_plain(value)
        for name, value in vars(wrapper).items()
    )


def _attributes(layer: Any) -> dict[str, Any]:
    saved: dict[str, Any] = {}
    for name, value in vars(layer).items():
        if name in (*_PICTURES, *_WIRING) or name.startswith("_cached"):
            continue
        if name == "_np_random":
            if value is not None:
                saved["np_random"] = value.bit_generator.state
        elif _is_plain(value):
            saved[name] = _to_plain(value)
    return saved


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list | deque):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and _is_plain(item) for key, item in value.items())
    if isinstance(value, RunningMeanStd):
        return _is_plain(vars(value))
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return value is None or isinstance(value, bool | int | float | str | np.generic | torch.Tensor)


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value.copy())}
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, np.generic):
        return {"scalar": value.item(), "dtype": value.dtype.str}
    if isinstance(value, deque):
        return {"queue": [_to_plain(item) for item in value], "length": value.maxlen}
    if isinstance(value, tuple | list):
        return {"items": [_to_plain(item) for item in value], "tuple": isinstance(value, tuple)}
    if isinstance(value, dict | RunningMeanStd):
        entries = value if isinstance(value, dict) else vars(value)
        plain = {key: _to_plain(item) for key, item in entries.items()}
        return {"entries": plain, "moments": isinstance(value, RunningMeanStd)}
    return value


def _from_plain(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return value["array"].numpy().copy()
    if "scalar" in value:
        return np.dtype(value["dtype"]).type(value["scalar"])
    if "queue" in value:
        return deque(map(_from_plain, value["queue"]), value["length"])
    if "entries" in value:
        entries = {key: _from_plain(item) for key, item in value["entries"].items()}
        if not value["moments"]:
            return entries
        moments = RunningMeanStd()
        vars(moments).update(entries)
        return moments
    items = [_from_plain(item) for item in value["items"]]
    return tuple(items) if value["tuple"] else items
