"""A person plays with the keyboard.

Time goes on at the environment's own pace while it has an action for no key, and stands still without a key where it
has none (CartPole, FrozenLake). Escape or closing the window ends; the episode that was under way is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from agents.envs.make import InProcessEnvs
from agents.episodes import OnFrame, Records, picture
from agents.play.key_bindings import ActionValue, Controls
from agents.play.screens import GameWindow
from agents.types import Episode

_TURN_SECONDS = 0.2
"""a key that is held where time stands still without one counts as pressed again after so long"""


def play_by_hand(
    envs: InProcessEnvs,
    env_id: str,
    controls: Controls,
    window: GameWindow,
    num_episodes: int,
    *,
    seed: int = 0,
    frame_seconds: float = 1 / 30,
    recorder: Records | None = None,
    also: OnFrame | None = None,
    sleep: Callable[[float], Any] = time.sleep,
) -> list[Episode]:
    """Let a person play an environment, the k-th episode reset with `seed` + k; returns the episodes that ended.

    Args:
        frame_seconds: the time of one step.
        recorder: takes each step.
        also: takes each picture that was acted on, and the last one of an episode.
        sleep: waits for so many seconds.
    """
    obs = envs.reset(seed)
    episodes: list[Episode] = []
    total, length = 0.0, 0

    def show_last(env: Any) -> None:
        frame = picture(env, env_id)
        window(frame)
        if also is not None:
            also(frame, None)

    envs.before_reset = show_last
    seconds = frame_seconds if controls.idle is not None or frame_seconds < _TURN_SECONDS else _TURN_SECONDS
    while len(episodes) < num_episodes:
        began = time.perf_counter()
        frame = picture(envs.envs[0], env_id)
        window(frame)
        if window.closed:
            break
        keys = window.take_keys()
        action = controls.action(frozenset(keys), keys[-1] if keys else None)
        if action is not None:
            if also is not None:
                also(frame, None)
            env_action = _as_array(action)
            step = envs.step(env_action)
            if recorder is not None:
                recorder.add(obs, env_action, step)
            total, length, obs = total + float(step.reward[0]), length + 1, step.obs
            if step.terminated[0] or step.truncated[0]:
                episodes.append(Episode(total, length))
                total, length, obs = 0.0, 0, envs.reset(seed + len(episodes))
        sleep(max(0.0, seconds - (time.perf_counter() - began)))
    return episodes


def _as_array(action: ActionValue) -> np.ndarray[Any, Any]:
    """An action with a leading axis of one environment."""
    if isinstance(action, int):
        return np.array([action])
    integers = all(isinstance(part, int) for part in action)
    return np.array([action], np.int64 if integers else np.float32)
