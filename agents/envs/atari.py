"""Atari games with the standard preprocessing (Mnih et al. 2015; Machado et al. 2018), names as in ale-py: ALE/Pong-v5.

Up to 30 no-ops at a start, FIRE where a game waits for it, 4 frames a step, maximum over the last two, 84x84 grey, the
last 4 stacked. In training only: rewards clipped to -1, 0, 1, and with `life_loss` an episode ends with each life.
Training uses ale-py's vector environment in C++; a single environment that can be drawn repeats its preprocessing.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from agents.types import Frame
from lab.errors import UserError, unknown

_TRAINING_ONLY = {"reward_clipping": True, "life_loss": False}
_EMULATOR = {
    "frameskip": 4,
    "repeat_action_probability": 0.25,
    "full_action_space": False,
    "max_num_frames_per_episode": 108_000,
}
_PREPROCESSING = {"noop_max": 30, "stack_num": 4, "img_height": 84, "img_width": 84, "use_fire_reset": True}
_OPTIONS = {**_TRAINING_ONLY, **_EMULATOR, **_PREPROCESSING, "num_threads": 0}
"""options of an Atari environment and their values; repeat_action_probability is that of the registered id"""

_NOOP, _FIRE = 0, 1


def register_atari(env_id: str) -> None:
    """Make ale-py's ids known to gymnasium. Raises UserError when ale-py is not installed."""
    try:
        import ale_py
    except ModuleNotFoundError:
        raise UserError(f"environment {env_id!r} needs ale-py: pip install 'lab[atari]'.") from None
    if "ALE/Pong-v5" not in gym.registry:
        gym.register_envs(ale_py)


def make_atari(
    env_id: str, num_envs: int, options: dict[str, Any], training: bool
) -> gym.vector.VectorEnv[Any, Any, Any]:
    """ale-py's vector environment, SAME_STEP. Raises UserError for unknown options."""
    from ale_py.vector_env import AtariVectorEnv

    game, values = _checked(env_id, options)
    clipping, life_loss = values.pop("reward_clipping"), values.pop("life_loss")
    envs: gym.vector.VectorEnv[Any, Any, Any] = AtariVectorEnv(
        game,
        num_envs,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
        reward_clipping=clipping and training,
        episodic_life=life_loss and training,
        **values,
    )
    return envs


def make_atari_game(env_id: str, options: dict[str, Any], render_mode: str | None) -> gym.Env[Any, Any]:
    """One game that can be drawn, with the preprocessing of evaluation. Raises UserError for unknown options."""
    _, values = _checked(env_id, options)
    emulator = {key: values[key] for key in _EMULATOR} | {"frameskip": 1}
    env = gym.make(env_id, obs_type="grayscale", render_mode=render_mode, disable_env_checker=True, **emulator)
    return AtariGame(env, **{key: values[key] for key in ("frameskip", *_PREPROCESSING)})


class AtariGame(gym.Wrapper[Any, Any, Any, Any]):
    """The preprocessing of ale-py's vector environment over a plain one of single grey frames."""

    def __init__(
        self,
        env: gym.Env[Any, Any],
        frameskip: int,
        noop_max: int,
        stack_num: int,
        img_height: int,
        img_width: int,
        use_fire_reset: bool,
    ) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (stack_num, img_height, img_width), np.uint8)
        self._frameskip, self._noop_max = frameskip, noop_max
        height, width = env.observation_space.shape or (210, 160)
        self._rows, self._columns = area_weights(height, img_height), area_weights(width, img_width)
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        self._fire = use_fire_reset and len(meanings) > _FIRE and meanings[_FIRE] == "FIRE"
        self._stack = np.zeros((stack_num, img_height, img_width), np.uint8)
        self._last_two: list[Frame] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        raw, info = self.env.reset(seed=seed, options=options)
        num_noops = int(self.env.unwrapped.np_random.integers(self._noop_max + 1)) if self._noop_max else 0
        for action in [_NOOP] * num_noops + [_FIRE] * self._fire:
            raw, _, terminated, truncated, info = self.env.step(action)
            if terminated or truncated:
                raw, info = self.env.reset()
        self._stack[:] = 0
        self._last_two = [raw, np.zeros_like(raw)]
        return self._push(), info

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Of the frames of a step the last two count; where the game ends before, those of the step before do."""
        total = 0.0
        for left in range(self._frameskip - 1, -1, -1):
            raw, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
            if left < len(self._last_two):
                self._last_two[left] = raw
        return self._push(), total, terminated, truncated, info

    def _push(self) -> Frame:
        raw = np.maximum(*self._last_two)
        small = np.rint(self._rows @ raw @ self._columns.T).astype(np.uint8)
        self._stack = np.concatenate([self._stack[1:], small[None]])
        return self._stack


def area_weights(num_in: int, num_out: int) -> np.ndarray[Any, Any]:
    """The matrix (out, in) that averages a line of pixels over equal stretches, a pixel counted by its part in each."""
    edges = np.arange(num_out + 1)[:, None] * (num_in / num_out)
    overlap = np.minimum(edges[1:], np.arange(1, num_in + 1)) - np.maximum(edges[:-1], np.arange(num_in))
    weights: np.ndarray[Any, Any] = overlap.clip(min=0.0) / (num_in / num_out)
    return weights


def _checked(env_id: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The game's name and all options. Raises UserError for unknown ones."""
    for key in options:
        if key not in _OPTIONS:
            raise unknown(f"option of {env_id!r} (data.env_options)", key, _OPTIONS)
    registered = gym.spec(env_id).kwargs
    own = {key: registered[key] for key in ("repeat_action_probability", "full_action_space") if key in registered}
    return registered["game"], {**_OPTIONS, **own, **options}
