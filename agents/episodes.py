"""Whole episodes of a policy: several side by side to measure it, or one after the other to be looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from agents.envs.display import use_display
from agents.envs.make import ENDLESS, InProcessEnvs, Step, make_env, make_envs, with_limit
from agents.envs.spaces import Array, ObsArray
from agents.experience.arrays import as_tensor
from agents.policies.policy import Policy
from agents.types import Episode, Frame, Obs
from lab.errors import UserError
from lab.long_work import tell

_PARALLEL_EPISODES = 20

OnFrame = Callable[[Frame, Any], None]
"""takes each picture (H, W, 3), and the explanation of the action (None without an explainer)"""


class Explains(Protocol):
    """Explains a policy's actions."""

    def explain(self, obs: Obs, state: Tensor | None) -> Any:
        """The explanation of the action at one observation (1, ...)."""


class Records(Protocol):
    """Keeps the steps of one environment."""

    def add(self, obs: ObsArray, action: Array, step: Step) -> None:
        """One step: arrays with a leading axis of 1."""


@torch.no_grad()
def play_episodes(
    policy: Policy,
    env_id: str,
    episodes: int,
    *,
    seed: int,
    options: dict[str, Any] | None = None,
    limit: int = ENDLESS,
) -> list[Episode]:
    """Greedy episodes in order, several side by side: the k-th is that of an environment reset with `seed` + k.

    Where nothing else limits them they end after `limit` steps.
    """
    num_envs = min(episodes, _PARALLEL_EPISODES)
    envs = make_envs(env_id, num_envs, options, training=False, limit=limit)
    device = next(policy.parameters()).device
    try:
        finished: list[Episode] = []
        while len(finished) < episodes:
            tell("playing episodes, steps of each", 0, 0)
            obs, state = envs.reset(seed + len(finished)), policy.initial_state(num_envs)
            returns, lengths, going = np.zeros(num_envs), np.zeros(num_envs, np.int64), np.ones(num_envs, bool)
            while going[: episodes - len(finished)].any():
                tell("playing episodes, steps of each", int(lengths.max()), 0)
                action, state, _ = policy.act(as_tensor(obs, device), state)
                step = envs.step(policy.env_action(action).cpu().numpy())
                returns += going * step.reward
                lengths += going
                going &= ~(step.terminated | step.truncated)
                obs = step.obs
            finished += [Episode(float(r), int(n)) for r, n in zip(returns, lengths, strict=True)]
        del finished[episodes:]
        return finished
    finally:
        envs.close()


@torch.no_grad()
def play(
    policy: Policy,
    env_id: str,
    num_episodes: int,
    *,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    sample: bool = False,
    render: str = "none",
    on_frame: OnFrame | None = None,
    explainer: Callable[[InProcessEnvs, Obs], Explains] | None = None,
    pace: float = 0.0,
    max_steps: int | None = None,
    recorder: Records | None = None,
    stop: Callable[[], bool] | None = None,
) -> list[Episode]:
    """Play episodes one after the other, the k-th in an environment reset with `seed` + k; returns those that ended.

    Args:
        sample: draw actions as in training; otherwise greedy, or the mean.
        render: "human" opens the environment's own window.
        on_frame: called with each picture, an episode's last one too, and the explanation of the action there.
        explainer: builds what explains actions, from the environment and its first observation.
        pace: 1 is the environment's own speed, 4 a quarter of it, 0 as fast as it goes.
        max_steps: stop after so many steps in all, in the middle of an episode if need be.
        recorder: takes each step.
        stop: asked after each step whether to end.

    Raises:
        UserError: when the environment cannot be made, drawn, or has other spaces than the policy.
    """
    mode = "human" if render == "human" else ("rgb_array" if on_frame else None)
    use_display(render == "human")
    envs = InProcessEnvs([lambda: make_env(env_id, with_limit(env_id, options), render_mode=mode)])
    try:
        frame_seconds = pace / fps_of(env_id, options) if pace and render != "human" else 0.0
        generator = torch.Generator().manual_seed(seed)
        device = next(policy.parameters()).device
        obs, state = envs.reset(seed), policy.initial_state(1)
        explains = None if explainer is None or on_frame is None else explainer(envs, as_tensor(obs, device))
        episodes: list[Episode] = []
        total, length, num_steps = 0.0, 0, 0
        explanation: Any = None
        if on_frame is not None:
            envs.before_reset = lambda env: on_frame(picture(env, env_id), explanation)
        while len(episodes) < num_episodes and num_steps != max_steps and not (stop is not None and stop()):
            began = time.perf_counter()
            tell("playing, steps", num_steps, 0)
            noise = policy.draw_noise(1, 1, generator)[0].to(device) if sample else None
            try:
                observation = as_tensor(obs, device)
                explanation = None if explains is None else explains.explain(observation, state)
                if on_frame is not None:
                    on_frame(picture(envs.envs[0], env_id), explanation)
                action, state, _ = policy.act(observation, state, noise)
                env_action = policy.env_action(action).cpu().numpy()
                step = envs.step(env_action)
            except (RuntimeError, IndexError, KeyError, AssertionError) as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"environment {env_id!r} does not fit this agent: {reason}") from None
            if recorder is not None:
                recorder.add(obs, env_action, step)
            total, length, obs = total + float(step.reward[0]), length + 1, step.obs
            num_steps += 1
            if step.terminated[0] or step.truncated[0]:
                episodes.append(Episode(total, length))
                total, length, state = 0.0, 0, policy.initial_state(1)
                obs = envs.reset(seed + len(episodes))
            if frame_seconds:
                time.sleep(max(0.0, frame_seconds - (time.perf_counter() - began)))
        return episodes
    finally:
        envs.close()


def picture(env: Any, env_id: str) -> Frame:
    """The picture (H, W, 3) of an environment now. Raises UserError when it cannot be drawn."""
    try:
        frame = env.render()
    except NotImplementedError:
        frame = None
    if not isinstance(frame, np.ndarray) or frame.ndim != 3:
        raise UserError(f"environment {env_id!r} cannot be drawn as pictures (render_mode='rgb_array').")
    if frame.dtype != np.uint8 or frame.shape[2] not in (3, 4):
        raise UserError(
            f"environment {env_id!r} draws {frame.dtype} {frame.shape}; a picture is uint8 (height, width, 3)."
        )
    return frame[..., :3]


def fps_of(env_id: str, options: dict[str, Any] | None) -> float:
    """Frames a second at an environment's own speed."""
    env = make_env(env_id, options)
    try:
        return float(env.metadata.get("render_fps") or 30)
    finally:
        env.close()
