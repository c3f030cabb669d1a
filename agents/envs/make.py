"""Vectorised gymnasium environments behind one small interface, and their specs.

`make_envs` takes what steps fastest: Atari through ale-py's C++ vector environment, in training an environment's own
vector entry point when there are many of them, otherwise plain environments stepped in this process.

Autoreset differs between them. With SAME_STEP an ended episode is reset within the step, and the step's `next_obs` is
the true last observation; with NEXT_STEP the following step only resets, and is announced by `resetting`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch

from agents.envs.channels_first import channels_first, is_channels_last
from agents.envs.flatten_nested import without_nesting
from agents.envs.spaces import Array, ObsArray, reader, spec_of, writer
from agents.envs.state import env_state, set_env_state
from lab import catalog
from lab.data.spec import DataSpec, Discrete, TensorSpec
from lab.errors import UserError, unknown
from lab.long_work import tell_again

_VECTOR_ENTRY_POINT_FROM = 4
ENDLESS = 20_000
"""steps after which a played episode is cut off where nothing else limits it"""
ENDLESS_IN_TRAINING = 2_000
"""the same in the evaluations of a training, which are many"""
"""gymnasium's warnings that have been passed on"""


class Step(NamedTuple):
    """One step of N environments. `obs` is what to act on next, `next_obs` the true successor of the step."""

    obs: ObsArray  # (N, *obs)
    reward: Array  # (N,) float32
    terminated: Array  # (N,) bool
    truncated: Array  # (N,) bool
    next_obs: ObsArray  # (N, *obs)


class Envs(Protocol):
    """N environments that reset themselves."""

    num_envs: int
    spec: DataSpec
    resetting: Array  # (N,) bool: the next step of these only resets

    def reset(self, seed: int | None = None) -> ObsArray:
        """Start an episode in each."""

    def step(self, actions: Array) -> Step:
        """Act in each; actions (N,) or (N, A)."""

    def state_dict(self) -> dict[str, Any] | None:
        """The exact state, or None when an environment does not give it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore an exact state."""

    def close(self) -> None:
        """Release what they hold."""


class InProcessEnvs:
    """Plain environments, one after the other in this process, SAME_STEP."""

    def __init__(self, makers: list[Callable[[], gym.Env[Any, Any]]]) -> None:
        self.envs = [maker() for maker in makers]
        self.num_envs = len(self.envs)
        self.spec = spec_of(self.envs[0].observation_space, self.envs[0].action_space)
        self.resetting = np.zeros(self.num_envs, bool)
        self.before_reset: Callable[[gym.Env[Any, Any]], Any] | None = None
        """called with an environment whose episode has just ended, before the next one begins"""
        self._read, self._actions = reader(self.envs[0].observation_space), writer(self.envs[0].action_space)
        self._scalar_action = isinstance(self.spec.actions, Discrete)

    def reset(self, seed: int | None = None) -> ObsArray:
        obs = []
        for i, env in enumerate(self.envs):
            tell_again()  # of an evaluation, where it may take seconds
            obs.append(env.reset(seed=None if seed is None else seed + i)[0])
        return _fitting(self._stack(obs), self.spec.inputs)

    def step(self, actions: Array) -> Step:
        """An environment may write over its actions, and over the observations that it gave before."""
        n = self.num_envs
        reward, terminated, truncated = np.empty(n, np.float32), np.empty(n, bool), np.empty(n, bool)
        obs: list[Any] = []
        final: dict[int, Any] = {}
        choices: Any = self._actions(actions).tolist() if self._scalar_action else self._actions(actions).copy()
        for i, env in enumerate(self.envs):
            tell_again()
            observation, reward[i], ended, cut, _ = env.step(choices[i])
            terminated[i], truncated[i] = ended, cut
            if ended or cut:
                final[i] = copy.deepcopy(observation)
                if self.before_reset is not None:
                    self.before_reset(env)
                observation, _ = env.reset()
            obs.append(observation)
        stacked = self._stack(obs)
        if not final:
            return Step(stacked, reward, terminated, truncated, stacked)
        successors = self._stack([final.get(i, observation) for i, observation in enumerate(obs)])
        return Step(stacked, reward, terminated, truncated, successors)

    def state_dict(self) -> dict[str, Any] | None:
        states = [env_state(env) for env in self.envs]
        return None if any(state is None for state in states) else {"envs": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for env, saved in zip(self.envs, state["envs"], strict=True):
            set_env_state(env, saved)

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def _stack(self, obs: list[Any]) -> ObsArray:
        if isinstance(self.spec.inputs, dict):
            return self._read({key: [o[key] for o in obs] for key in self.spec.inputs})
        return self._read(obs)


class VectorEnvs:
    """A gymnasium VectorEnv of either autoreset mode."""

    def __init__(self, envs: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        self.envs, self.num_envs = envs, envs.num_envs
        self.spec = spec_of(envs.single_observation_space, envs.single_action_space)
        self.resetting = np.zeros(self.num_envs, bool)
        self._read, self._actions = reader(envs.single_observation_space), writer(envs.single_action_space)
        mode = envs.metadata.get("autoreset_mode", gym.vector.AutoresetMode.NEXT_STEP)
        self.same_step = mode == gym.vector.AutoresetMode.SAME_STEP

    def reset(self, seed: int | None = None) -> ObsArray:
        self.resetting = np.zeros(self.num_envs, bool)
        return _fitting(self._read(self.envs.reset(seed=seed)[0]), self.spec.inputs)

    def step(self, actions: Array) -> Step:
        observed, reward, terminated, truncated, info = self.envs.step(self._actions(actions).copy())
        obs, reward = self._read(observed), np.asarray(reward, np.float32)
        done = terminated | truncated
        if not self.same_step:
            self.resetting = done
            return Step(obs, reward, terminated, truncated, obs)
        if not done.any():
            return Step(obs, reward, terminated, truncated, obs)
        return Step(obs, reward, terminated, truncated, _with_final(obs, info["final_obs"], done, self._read))

    def state_dict(self) -> dict[str, Any] | None:
        state = env_state(self.envs)
        return None if state is None else {"vector": state, "resetting": torch.from_numpy(self.resetting.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_env_state(self.envs, state["vector"])
        self.resetting = state["resetting"].numpy().copy()

    def close(self) -> None:
        self.envs.close()


def make_envs(
    env_id: str,
    num_envs: int,
    options: Mapping[str, Any] | None = None,
    *,
    training: bool = True,
    limit: int = ENDLESS,
) -> Envs:
    """Vectorised environments of a gymnasium id; `package:Env-v0` needs `--import package`.

    Args:
        options: keyword arguments of the environment; for Atari also `reward_clipping`, `life_loss`.
        training: False leaves out what only training does (Atari: reward clipping, life loss), takes plain
            environments, and ends episodes that would go on for ever after `limit` steps (`with_limit`).

    Raises:
        UserError: for an unknown id, a missing package, wrong options, or spaces that the lab does not take.
    """
    options, spec = dict(options or {}), find_spec(env_id)
    if is_atari(env_id):
        from agents.envs.atari import make_atari

        return VectorEnvs(make_atari(env_id, num_envs, options, training))
    with_end = options if training else with_limit(env_id, options, limit)
    try:
        if training and spec.vector_entry_point is not None and num_envs >= _VECTOR_ENTRY_POINT_FROM:
            several = gym.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point", **options)
            if not is_channels_last(several.single_observation_space):
                return VectorEnvs(several)
            several.close()
        return InProcessEnvs([lambda: make_env(env_id, with_end)] * num_envs)
    except TypeError as error:
        raise UserError(f"data.env_options={options!r} do not fit {env_id!r}: {error}.") from None


def with_limit(env_id: str, options: Mapping[str, Any] | None = None, limit: int = ENDLESS) -> dict[str, Any]:
    """Options with which an episode ends after `limit` steps where neither they nor the environment set a limit."""
    if is_atari(env_id) or find_spec(env_id).max_episode_steps is not None:
        return dict(options or {})
    return {"max_episode_steps": limit, **(options or {})}


def make_env(
    env_id: str, options: Mapping[str, Any] | None = None, render_mode: str | None = None
) -> gym.Env[Any, Any]:
    """One plain environment. Raises UserError as `make_envs` does."""
    find_spec(env_id)
    if is_atari(env_id):
        from agents.envs.atari import make_atari_game

        return make_atari_game(env_id, dict(options or {}), render_mode)
    try:
        arguments = dict(options or {})
        if render_mode is not None:  # an environment need not know the word
            arguments["render_mode"] = render_mode
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*possible render_modes")  # who draws says so where it fails
            return channels_first(without_nesting(gym.make(env_id, disable_env_checker=True, **arguments)))
    except gym.error.DependencyNotInstalled as error:
        raise UserError(f"environment {env_id!r} needs a package that is not installed: {error}") from None
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise UserError(f"environment {env_id!r} cannot be made: {error}.") from None
    except TypeError as error:
        if "'render_mode'" not in str(error):
            raise
        raise UserError(f"environment {env_id!r} cannot be drawn: its constructor takes no render_mode.") from None


def find_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """The registration of an id. Raises UserError with the nearest id."""
    module, colon, name = env_id.partition(":")
    if colon:
        catalog.check_allowed(module, "environment", env_id)
    if is_atari(env_id):
        from agents.envs.atari import register_atari

        register_atari(env_id)
    try:
        return gym.spec(name if colon else env_id)  # the package registered it when it was imported
    except gym.error.Error:
        if colon:
            raise UserError(
                f"{module!r} registers no environment {name!r}: "
                f"it must call gymnasium.register(id={name!r}, entry_point=...) when it is imported."
            ) from None
        ids = [name for name in gym.registry if not name.startswith(("GymV", "phys2d", "tabular"))]
        raise unknown("environment", env_id, ids) from None


def is_atari(env_id: str) -> bool:
    """Whether an id names an Atari game of ale-py."""
    return env_id.startswith("ALE/")


def _fitting(obs: ObsArray, expected: TensorSpec | dict[str, TensorSpec], name: str = "") -> ObsArray:
    """The first observations. Raises UserError when they do not have the shape that their space promised."""
    if isinstance(obs, dict):
        assert isinstance(expected, dict)
        return {key: _fitting(obs[key], expected[key], f" {key!r}") for key in obs}  # type: ignore[misc]
    assert isinstance(expected, TensorSpec)
    if obs.shape[1:] != expected.shape:
        raise UserError(
            f"the environment's observations{name} have the shape {obs.shape[1:]}, "
            f"but its observation space says {expected.shape}."
        )
    return obs


def _with_final(obs: ObsArray, final_obs: Any, done: Array, read: Callable[[Any], ObsArray]) -> ObsArray:
    """Successors: `obs` with the true last observations in the rows that ended."""
    rows = np.flatnonzero(done)
    if isinstance(obs, dict):
        by_key = isinstance(final_obs, dict)  # else one dict for each environment
        last = read({key: [final_obs[key][i] if by_key else final_obs[i][key] for i in rows] for key in obs})
    else:
        last = read([final_obs[i] for i in rows])
    return _with_rows(obs, rows, last)


def _with_rows(obs: ObsArray, rows: Array, values: ObsArray) -> ObsArray:
    if isinstance(obs, dict):
        return {key: _with_rows(obs[key], rows, values[key]) for key in obs}  # type: ignore[misc]
    changed = obs.copy()
    changed[rows] = values
    return changed
