"""Names of actions and the keys for them, environment by environment.

Names and numbers are those of gymnasium's documentation of each environment; Atari games bring their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym

from lab.data.spec import Actions, Continuous, Discrete, MultiDiscrete
from lab.errors import UserError

Keys = frozenset[str]
ActionValue = int | tuple[float, ...]

_DIGITS = 10
_IDLE = "none"
_ARROWS = {"w": "up", "a": "left", "s": "down", "d": "right"}


class Controls(NamedTuple):
    """Keys that are down (pygame's names) -> action, counted from 0; `idle` without any, None: time stands still."""

    keys: Mapping[Keys, ActionValue]
    idle: ActionValue | None = None

    def action(self, keys: Keys, newest: str | None) -> ActionValue | None:
        """The action of the keys that are down; of the newest alone where they have none together."""
        if keys in self.keys:
            return self.keys[keys]
        alone = self.keys.get(frozenset({newest})) if newest in keys else None
        return self.idle if alone is None else alone

    def lines(self, names: tuple[str, ...]) -> list[str]:
        """What each key does, in words."""

        def name_of(action: ActionValue) -> str:
            return names[action] if isinstance(action, int) and action < len(names) else str(action)

        return [f"{'+'.join(sorted(keys)):>12}  {name_of(action)}" for keys, action in self.keys.items()]


class _Preset(NamedTuple):
    """Names of an environment's actions, and keys joined by a plus for them."""

    names: tuple[str, ...]
    keys: dict[str, ActionValue]
    idle: ActionValue | None = None


_LEFT_RIGHT: dict[str, ActionValue] = {"left": 0, "right": 1}
_PRESETS = (  # by the start of an id without namespace; the first that fits the action space
    ("CartPole", _Preset(("push left", "push right"), _LEFT_RIGHT)),
    ("MountainCarContinuous", _Preset(("force",), {"left": (-1.0,), "right": (1.0,)}, (0.0,))),
    ("MountainCar", _Preset(("push left", "nothing", "push right"), {"left": 0, "right": 2}, 1)),
    ("Acrobot", _Preset(("torque -1", "no torque", "torque +1"), {"left": 0, "right": 2}, 1)),
    ("Pendulum", _Preset(("torque",), {"left": (2.0,), "right": (-2.0,)}, (0.0,))),
    (
        "LunarLander",
        _Preset(
            ("main engine", "side engines"),
            {
                "up": (1.0, 0.0),
                "left": (0.0, -1.0),
                "right": (0.0, 1.0),
                "up+left": (1.0, -1.0),
                "up+right": (1.0, 1.0),
            },
            (0.0, 0.0),
        ),
    ),
    (
        "LunarLander",
        _Preset(("nothing", "left engine", "main engine", "right engine"), {"left": 1, "up": 2, "right": 3}, 0),
    ),
    (
        "CarRacing",
        _Preset(
            ("steering", "gas", "brake"),
            {
                "left": (-1.0, 0.0, 0.0),
                "right": (1.0, 0.0, 0.0),
                "up": (0.0, 1.0, 0.0),
                "down": (0.0, 0.0, 0.8),
                "up+left": (-1.0, 1.0, 0.0),
                "up+right": (1.0, 1.0, 0.0),
                "down+left": (-1.0, 0.0, 0.8),
                "down+right": (1.0, 0.0, 0.8),
            },
            (0.0, 0.0, 0.0),
        ),
    ),
    ("FrozenLake", _Preset(("left", "down", "right", "up"), {"left": 0, "down": 1, "right": 2, "up": 3})),
    ("CliffWalking", _Preset(("up", "right", "down", "left"), {"up": 0, "right": 1, "down": 2, "left": 3})),
    (
        "Taxi",
        _Preset(
            ("south", "north", "east", "west", "pick up", "drop off"),
            {"down": 0, "up": 1, "right": 2, "left": 3, "p": 4, "d": 5},
        ),
    ),
)


def action_names(env_id: str, env: gym.Env[Any, Any], actions: Actions) -> tuple[str, ...]:
    """A name for each action, or for each component of a continuous one."""
    if env.has_wrapper_attr("get_action_meanings"):
        return tuple(str(name).lower() for name in env.get_wrapper_attr("get_action_meanings")())
    preset = _preset(env_id, actions)
    if preset is not None:
        return preset.names
    if isinstance(actions, MultiDiscrete):
        return tuple(f"{i}: {k}" for i, num in enumerate(actions.nums) for k in range(num))
    return tuple(f"action {k}" for k in range(_count(actions)))


def controls_of(env_id: str, env: gym.Env[Any, Any], actions: Actions, typed: str | None = None) -> Controls:
    """The keys of an environment: those typed, else those known, else its own, else digits (or left and right).

    Raises UserError when there are none, or when what was typed does not fit.
    """
    if typed is not None:
        return parse_keys(typed, actions)
    preset = _preset(env_id, actions)
    if preset is not None:
        return Controls({_together(keys): action for keys, action in preset.keys.items()}, preset.idle)
    if env.has_wrapper_attr("get_keys_to_action"):
        return _from_env(env.get_wrapper_attr("get_keys_to_action")())
    if isinstance(actions, Discrete) and actions.num <= _DIGITS:
        return Controls({frozenset({str(k)}): k for k in range(actions.num)})
    if isinstance(actions, Continuous) and actions.num == 1:
        low, high = actions.low[0], actions.high[0]
        return Controls({frozenset({"left"}): (low,), frozenset({"right"}): (high,)}, (min(max(0.0, low), high),))
    raise UserError(f"no keys are known for {env_id!r}; name them, for example --keys '{_example(actions)}'.")


def parse_keys(text: str, actions: Actions) -> Controls:
    """`left=0 right=1 up+left=2 none=0`, several numbers an action as `up=0,1,0`. Raises UserError."""
    keys: dict[Keys, ActionValue] = {}
    idle: ActionValue | None = None
    for word in text.split():
        name, equals, value = word.rpartition("=")
        try:
            numbers = [float(part) for part in value.split(",")]
        except ValueError:
            numbers = []
        single = len(numbers) == 1 and numbers[0].is_integer() and isinstance(actions, Discrete)
        action: ActionValue = int(numbers[0]) if single else tuple(numbers)
        if not (equals and name and numbers) or not _fits(action, actions):
            raise UserError(f"--keys: {word!r} does not fit {actions}; write for example '{_example(actions)}'.")
        if name == _IDLE:
            idle = action
        else:
            keys[_together(name)] = action
    if not keys:
        raise UserError(f"--keys names no key; write for example '{_example(actions)}'.")
    return Controls(keys, idle)


def _preset(env_id: str, actions: Actions) -> _Preset | None:
    name = env_id.rpartition(":")[2].rpartition("/")[2]
    for start, preset in _PRESETS:
        fits = len(preset.names) == _count(actions) and all(_fits(action, actions) for action in preset.keys.values())
        if fits and name.startswith(start):
            return preset
    return None


def _from_env(mapping: Mapping[Any, Any]) -> Controls:
    """An environment's own keys: characters or their codes, alone or together; the arrows mean w, a, s, d too."""
    keys: dict[Keys, ActionValue] = {}
    idle: ActionValue | None = None
    for codes, action in mapping.items():
        parts = codes if isinstance(codes, tuple | str) else (codes,)
        names = frozenset(_key_name(part) for part in parts)
        value: ActionValue = tuple(map(float, action)) if hasattr(action, "__len__") else int(action)
        if not names or (names == {"e"} and value == 0):  # no key, or ale-py's key for doing nothing
            idle = value
            continue
        keys[names] = value
        keys.setdefault(frozenset(_ARROWS.get(name, name) for name in names), value)
    return Controls(keys, 0 if idle is None and all(isinstance(v, int) for v in keys.values()) else idle)


def _key_name(key: str | int) -> str:
    character = chr(key) if isinstance(key, int) else key
    return "space" if character == " " else character


def _together(keys: str) -> Keys:
    return frozenset(keys.split("+"))


def _count(actions: Actions) -> int:
    if isinstance(actions, Discrete | Continuous):
        return actions.num
    return sum(actions.nums) if isinstance(actions, MultiDiscrete) else 0


def _fits(action: ActionValue, actions: Actions) -> bool:
    if isinstance(actions, Discrete):
        return isinstance(action, int) and 0 <= action < actions.num
    if isinstance(action, int):
        return False
    if isinstance(actions, MultiDiscrete):
        return len(action) == len(actions.nums) and all(0 <= a < n for a, n in zip(action, actions.nums, strict=True))
    return isinstance(actions, Continuous) and len(action) == actions.num


def _example(actions: Actions) -> str:
    if isinstance(actions, Discrete):
        return "left=0 right=1"
    zeros = ",".join("0" * (len(actions.nums) if isinstance(actions, MultiDiscrete) else _count(actions)))
    ones = "1" + zeros[1:]
    return f"up={ones} none={zeros}"
