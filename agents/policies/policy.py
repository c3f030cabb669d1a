"""Policies choose actions. A policy imports torch alone, so that it can act anywhere.

N environments, A action components, K actions. Noise is drawn outside, for a whole rollout at once, by one generator: a
policy is a function of (parameters, observation, state, noise), and no noise means the greedy or mean action.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.policies.numpy_mlp import Actor
from agents.types import Obs, to_float
from lab.backbones import Backbone, BackboneConfig, build_backbone
from lab.data.spec import TensorSpec


class Action(NamedTuple):
    """The output of `act`: the action (N,) or (N, A), the recurrent state after it, and extras (N, ...)."""

    action: Tensor
    state: Tensor | None
    extras: dict[str, Tensor]


class Preferences(NamedTuple):
    """A policy's scores of its choices (N, K), or the components of a continuous action."""

    kind: Literal["probability", "Q-value", "action"]
    scores: Tensor  # (N, K)
    value: Tensor | None = None  # (N,) the value of the state, from a policy that has a value head


class Policy(nn.Module):
    """The protocol that collectors, evaluation and play rely on."""

    recurrent = False

    def initial_state(self, num_envs: int) -> Tensor | None:
        """The recurrent state (S, N, F) at the start of an episode."""
        return None

    def draw_noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """The noise of a rollout, (T, N, ...), on the CPU."""
        raise NotImplementedError

    def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
        """Actions for N observations; greedy without noise."""
        raise NotImplementedError

    def preferences(self, obs: Obs, state: Tensor | None = None) -> Preferences:
        """Scores of the choices at N observations, differentiable in them; by default the greedy action."""
        action = self.env_action(self.act(obs, state).action)
        return Preferences("action", action.float().reshape(len(action), -1))

    def array_actor(self, noise: Tensor) -> Actor | None:
        """`act` for one rollout, given its noise (T, N, ...), without torch where that is faster; None where not."""
        return None

    def env_action(self, action: Tensor) -> Tensor:
        """Actions for the environment, from those that `act` returns and rollouts record."""
        return action


class Encoder(nn.Module):
    """A backbone for observations of any spec, and `prepare`, which makes them the one tensor that it takes.

    Discrete observations become one-hot vectors; the parts of a dict lie side by side.
    """

    def __init__(self, config: BackboneConfig, inputs: TensorSpec | dict[str, TensorSpec]) -> None:
        super().__init__()
        self.inputs = inputs
        if config.recurrent or isinstance(inputs, dict):
            shape: tuple[int, ...] = (_num_inputs(inputs),)
        else:
            shape = (_num_inputs(inputs),) if inputs.dtype == torch.int64 else inputs.shape
        self.backbone: Backbone = build_backbone(config, shape)
        self.num_features = self.backbone.num_features

    def prepare(self, obs: Obs, leading: int = 1) -> Tensor:
        """Observations, with `leading` dimensions before their own, as the one tensor that the backbone takes."""
        if isinstance(obs, dict):
            assert isinstance(self.inputs, dict)
            parts = [_prepare(obs[key], spec).flatten(leading) for key, spec in self.inputs.items()]
            return torch.cat(parts, dim=-1)
        assert isinstance(self.inputs, TensorSpec)
        return _prepare(obs, self.inputs)


def _prepare(obs: Tensor, spec: TensorSpec) -> Tensor:
    if spec.dtype == torch.int64:
        return F.one_hot(obs.long(), int(spec.high) + 1).float()
    return to_float(obs)


def _num_inputs(inputs: TensorSpec | dict[str, TensorSpec]) -> int:
    if isinstance(inputs, dict):
        return sum(_num_inputs(spec) for spec in inputs.values())
    return int(inputs.high) + 1 if inputs.dtype == torch.int64 else inputs.numel
