"""Policies: what chooses actions. A policy imports torch alone, so that it can act anywhere.

N environments, A action components, K actions. Noise is drawn outside, for a whole rollout at once, by one generator: a
policy is a function of (parameters, observation, state, noise), and no noise means the greedy or mean action.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.types import Obs, to_float
from lab.backbones import Backbone, BackboneConfig, build_backbone
from lab.data.spec import Continuous, DataSpec, Discrete, MultiDiscrete, TensorSpec
from lab.errors import UserError


class Action(NamedTuple):
    """What `act` gives: the action (N,) or (N, A), the recurrent state after it, and extras (N, ...)."""

    action: Tensor
    state: Tensor | None
    extras: dict[str, Tensor]


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


class Encoder(nn.Module):
    """Observations (N, ...) of any spec -> features (N, F): discrete as one-hot, dicts side by side, then a backbone.

    A recurrent backbone takes (T, N, ...) with a state and resets, like the backbone itself.
    """

    def __init__(self, config: BackboneConfig, inputs: TensorSpec | dict[str, TensorSpec]) -> None:
        super().__init__()
        self.inputs = inputs
        if config.recurrent or isinstance(inputs, dict):
            shape: tuple[int, ...] = (_num_inputs(inputs),)
        else:
            shape = (_num_inputs(inputs),) if inputs.dtype == torch.int64 else inputs.shape
        self.backbone: Backbone = build_backbone(config, shape)
        self.recurrent = config.recurrent
        self.num_features = self.backbone.num_features

    def forward(self, obs: Obs) -> Tensor:
        features: Tensor = self.backbone(self.prepare(obs))
        return features.flatten(1)

    def run(self, obs: Obs, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        """(T, N, ...), state, reset (T, N) -> features (T, N, F), state."""
        x = self.prepare(obs, leading=2).flatten(2)
        features, state = self.backbone(x, state, reset)
        return features, state

    def prepare(self, obs: Obs, leading: int = 1) -> Tensor:
        """The one tensor that the backbone takes."""
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


# ---------------------------------------------------------------------- action distributions


class Categorical:
    """One discrete action. Logits (..., K)."""

    def __init__(self, spec: Discrete) -> None:
        self.num_parameters, self.noise_shape = spec.num, (spec.num,)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Gumbel noise: argmax(logits + g) is a sample (Maddison et al. 2014)."""
        return -torch.empty(*shape, *self.noise_shape).exponential_(generator=generator).log_()

    def sample(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """(..., K) -> (...)."""
        return logits.argmax(-1) if noise is None else (logits + noise).argmax(-1)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """(...)."""
        return F.log_softmax(logits, -1).gather(-1, action[..., None]).squeeze(-1)

    def log_prob_entropy(self, logits: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both (...), from one log-softmax."""
        log_p = F.log_softmax(logits, -1)
        return log_p.gather(-1, action[..., None]).squeeze(-1), -(log_p.exp() * log_p).sum(-1)


class MultiCategorical:
    """Several discrete actions at once. Logits are concatenated (..., sum K_i), actions (..., A)."""

    def __init__(self, spec: MultiDiscrete) -> None:
        self.nums = list(spec.nums)
        self.parts = [Categorical(Discrete(num)) for num in spec.nums]
        self.num_parameters, self.noise_shape = sum(spec.nums), (sum(spec.nums),)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Gumbel noise of all parts."""
        return -torch.empty(*shape, *self.noise_shape).exponential_(generator=generator).log_()

    def sample(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """(..., sum K_i) -> (..., A)."""
        noisy = logits if noise is None else logits + noise
        return torch.stack([part.argmax(-1) for part in noisy.split(self.nums, -1)], -1)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """(...), the sum over components."""
        return self.log_prob_entropy(logits, action)[0]

    def log_prob_entropy(self, logits: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both (...), summed over components."""
        pieces = [
            part.log_prob_entropy(part_logits, action[..., i])
            for i, (part, part_logits) in enumerate(zip(self.parts, logits.split(self.nums, -1), strict=True))
        ]
        log_probs, entropies = zip(*pieces, strict=True)
        return torch.stack(log_probs, -1).sum(-1), torch.stack(entropies, -1).sum(-1)


class Gaussian:
    """Independent normals, (..., 2A) parameters: mean and log standard deviation; clipped to bounds outside."""

    LOG_STD_BOUNDS = (-20.0, 2.0)

    def __init__(self, spec: Continuous) -> None:
        self.num_parameters, self.noise_shape = 2 * spec.num, (spec.num,)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normal noise."""
        return torch.randn(*shape, *self.noise_shape, generator=generator)

    def sample(self, parameters: Tensor, noise: Tensor | None) -> Tensor:
        """(..., 2A) -> (..., A)."""
        mean, log_std = self._split(parameters)
        return mean if noise is None else mean + log_std.exp() * noise

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """(...)."""
        return self.log_prob_entropy(parameters, action)[0]

    def log_prob_entropy(self, parameters: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both (...), summed over components."""
        mean, log_std = self._split(parameters)
        z = (action - mean) * (-log_std).exp()
        log_prob = -0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)
        entropy = log_std + 0.5 * math.log(2 * math.pi * math.e)
        return log_prob.sum(-1), entropy.sum(-1)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = parameters.chunk(2, -1)
        return mean, log_std.clamp(*self.LOG_STD_BOUNDS)


Distribution = Categorical | MultiCategorical | Gaussian


def distribution_of(spec: DataSpec) -> Distribution:
    """The distribution over a spec's actions. Raises UserError for data without actions."""
    if isinstance(spec.outputs, Discrete):
        return Categorical(spec.outputs)
    if isinstance(spec.outputs, MultiDiscrete):
        return MultiCategorical(spec.outputs)
    if isinstance(spec.outputs, Continuous):
        return Gaussian(spec.outputs)
    raise UserError(f"an agent needs an environment's data (data.kind=on_policy or replay), not {spec.outputs!r}.")
