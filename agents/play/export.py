"""A policy as a network that runs without the lab: observations in, actions and their scores out.

N environments, S rows and F features of a recurrent state.
"""

from __future__ import annotations

from typing import Any

from gymnasium.spaces import Dict
from torch import Tensor, nn

from agents.envs import cartpole_positions
from agents.envs.channels_first import ChannelsFirst, is_channels_last
from agents.envs.flatten_nested import FlatDict
from agents.envs.make import is_atari, make_env
from agents.envs.spaces import array_dtype
from agents.policies.policy import Policy
from agents.types import Obs
from lab.data.spec import DataSpec, Discrete, TensorSpec
from lab.export import Exportable, Input

_HEAD = '''"""Plays {env} with policy.onnx; needs gymnasium, numpy and onnxruntime."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import onnxruntime

policy = onnxruntime.InferenceSession(Path(__file__).with_name("policy.onnx"))
'''
_EPISODE = """env = {env}
obs, _ = env.reset(seed=0)
total, done = 0.0, False
{before}while not done:
    inputs = {inputs}
    {outputs} = policy.run(None, inputs)
    obs, reward, terminated, truncated, _ = env.step({action})
    total, done = total + float(reward), terminated or truncated
print("return", total)
"""
_FRAMES = """# Observations are the last four frames, 84 x 84 and grey, as ale-py's AtariVectorEnv gives them.
frames = np.random.default_rng(0).integers(0, 256, (1, {shape}), np.uint8)
action, scores = policy.run(None, {{"obs": frames}})
print("action", action[0], "scores", scores[0])
"""


class PolicyNetwork(nn.Module):
    """Observations (N, ...), and a recurrent state (S, N, F) -> greedy actions, scores (N, K), and the state after."""

    def __init__(self, policy: Policy, inputs: TensorSpec | dict[str, TensorSpec]) -> None:
        super().__init__()
        self.policy, self.inputs = policy, inputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        obs: Obs = tensors[0]
        if isinstance(self.inputs, dict):
            obs = dict(zip(self.inputs, tensors, strict=False))
        state = tensors[-1] if self.policy.recurrent else None
        action, after, _ = self.policy.act(obs, state)
        scores = self.policy.preferences(obs, state).scores
        return (self.policy.env_action(action), scores, *([] if after is None else [after]))


def exportable(policy: Policy, spec: DataSpec, env_id: str, options: dict[str, Any]) -> Exportable:
    """A policy and the script that plays with it."""
    inputs = {name: Input(each) for name, each in _named_inputs(spec).items()}
    outputs: tuple[str, ...] = ("action", "scores")
    state = policy.initial_state(1)
    if state is not None:
        inputs["state"] = Input(TensorSpec((state.shape[0], state.shape[2])), batch_axis=1)
        outputs += ("state_after",)
    about = {"env": env_id, "env_options": options}
    return Exportable(
        "policy", PolicyNetwork(policy, spec.inputs), inputs, outputs, _example(spec, env_id, options, state), about
    )


def _example(spec: DataSpec, env_id: str, options: dict[str, Any], state: Tensor | None) -> str:
    start = _HEAD.format(env=env_id)
    if is_atari(env_id):
        assert isinstance(spec.inputs, TensorSpec)
        frames = _FRAMES.format(shape=", ".join(map(str, spec.inputs.shape)))
        return (start + frames).replace("import gymnasium as gym\n", "").replace("gymnasium, ", "")
    env = make_env(env_id, options)
    own = env.env if isinstance(env, ChannelsFirst) else env
    paths = own.paths if isinstance(own, FlatDict) else {}
    space = own.observation_space
    env.close()

    def array_of(name: str, each: TensorSpec) -> str:
        """The expression for one input of the network."""
        path = paths.get(name, (name,) if isinstance(spec.inputs, dict) else ())
        leaf = space[name] if isinstance(space, Dict) else space
        part = "obs" + "".join(f"[{key!r}]" for key in path)
        part = f"np.moveaxis({part}, -1, 0)" if is_channels_last(leaf) else part
        first = getattr(leaf, "start", 0)
        shape = f".reshape{(1, *each.shape)}" if each.shape == (1,) else ""  # of a number without an axis too
        return f'"{name}": np.asarray([{part}{f" - {first}" if first else ""}], np.{array_dtype(each)}){shape}'

    words = [array_of(name, each) for name, each in _named_inputs(spec).items()]
    before, outputs = "", "action, scores"
    if state is not None:
        before = f"state = np.zeros({tuple(state.shape)}, np.float32)\n"
        words.append('"state": state')
        outputs = "action, scores, state"
    counted = isinstance(spec.actions, Discrete)
    action = "action[0] + env.action_space.start" if counted else "action[0].reshape(env.action_space.shape)"
    keywords = "".join(f", {key}={value!r}" for key, value in options.items())
    imported = f"import {env_id.partition(':')[0]}  # registers the environment\n" if ":" in env_id else ""
    make = f"gym.make({env_id!r}{keywords})"
    if env_id == cartpole_positions.ENV_ID:
        make = cartpole_positions.FROM_GYMNASIUM.format(options=keywords)
    episode = _EPISODE.format(
        env=make, before=before, inputs="{" + ", ".join(words) + "}", outputs=outputs, action=action
    )
    return start + imported + episode


def _named_inputs(spec: DataSpec) -> dict[str, TensorSpec]:
    """The parts of an observation; a single one is `obs`."""
    return spec.inputs if isinstance(spec.inputs, dict) else {"obs": spec.inputs}
