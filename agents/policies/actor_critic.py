"""Policies with a value head over any registered backbone.

T time steps, N environments, B batch, L sequence length, A action parameters; S rows and F features of a recurrent
state. A feed-forward batch is (B, ...); a recurrent one holds B sequences, (L, B, ...), and the state before each,
(S, B, F).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from agents.policies.action_distributions import (
    ContinuousName,
    DiagonalGaussian,
    MultiCategoricalActions,
    distribution_of,
)
from agents.policies.encoder import Encoder
from agents.policies.normalization import CLIP, ObsNormalizer
from agents.policies.numpy_mlp import Actor, Array, ArrayMLP, array_mlp
from agents.policies.policy import Action, Policy, Preferences
from agents.types import Obs
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec, TensorSpec
from lab.experiment import ModuleConfig


class PolicyConfig(ModuleConfig):
    """A stochastic policy."""

    backbone: BackboneConfig = BackboneConfig("mlp", hidden=(64, 64), activation="tanh")
    shared_backbone: bool = False
    """one backbone for policy and value"""
    action_distribution: ContinuousName = "gaussian"
    """of continuous actions: clipped to the bounds, or squashed onto them"""
    log_std_init: float = 0.0
    """of continuous actions: the log standard deviation at the start"""
    normalize_obs: bool = False
    """by running mean and variance, which are saved with the policy"""


class ActorCritic(Policy):
    """Action parameters and values."""

    def __init__(
        self, config: PolicyConfig, spec: DataSpec, *, value: bool = True, record_log_prob: bool = False
    ) -> None:
        super().__init__()
        self.recurrent, self.record_log_prob = config.backbone.recurrent, record_log_prob
        self.distribution = distribution_of(spec, config.action_distribution)
        self.actor = Encoder(config.backbone, spec.inputs)
        self.critic = None if config.shared_backbone or not value else Encoder(config.backbone, spec.inputs)
        self.normalizer = ObsNormalizer(self.actor.backbone.input_shape) if config.normalize_obs else None
        num_parameters = self.distribution.num_parameters
        self.log_std: nn.Parameter | None = None
        if isinstance(self.distribution, DiagonalGaussian):
            num_parameters //= 2
            self.log_std = nn.Parameter(torch.full((num_parameters,), config.log_std_init))
        self.action_head = nn.Linear(self.actor.num_features, num_parameters)
        self.value_head = nn.Linear(self.actor.num_features, 1) if value else None
        self._initialise()

    @property
    def deviation(self) -> Tensor | None:
        """The mean standard deviation of a Gaussian's components (before it is squashed), 0-dim; None for others."""
        if self.log_std is None:
            return None
        return self.log_std.detach().clamp(*DiagonalGaussian.LOG_STD_BOUNDS).exp().mean()

    @property
    def is_at_bound(self) -> bool:
        """Whether a deviation has reached a bound, where it learns no more."""
        if self.log_std is None:
            return False
        low, high = DiagonalGaussian.LOG_STD_BOUNDS
        return bool(((self.log_std <= low) | (self.log_std >= high)).any())

    def initial_state(self, num_envs: int) -> Tensor | None:
        if not self.recurrent:
            return None
        return torch.cat([encoder.backbone.initial_state(num_envs) for encoder in self._encoders()])

    def draw_noise(self, num_steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        return self.distribution.noise((num_steps, num_envs), generator)

    def act(self, obs: Obs, state: Tensor | None = None, noise: Tensor | None = None) -> Action:
        x = self.normalized(self.prepared(obs))
        extras: dict[str, Tensor] = {}
        if self.recurrent:
            start = torch.zeros(1, x.shape[0], dtype=torch.bool, device=x.device)
            features, _, state = self._sequence_features(x[None], state, start)
            parameters = self.action_parameters(features[0])
            extras["state"] = state.transpose(0, 1)
        else:
            parameters = self.action_parameters(self.actor.backbone(x).flatten(1))
        action = self.distribution.sample(parameters, noise)
        if self.record_log_prob:
            extras["log_prob"] = self.distribution.log_prob_entropy(parameters, action)[0]
        return Action(action, state, extras)

    def array_actor(self, noise: Tensor) -> Actor | None:
        inputs, net, head = self.actor.inputs, self.actor.backbone.net, self.action_head
        plain = isinstance(inputs, TensorSpec) and inputs.dtype.is_floating_point and len(inputs.shape) == 1
        several = isinstance(self.distribution, MultiCategoricalActions)
        if self.record_log_prob or several or not plain or not isinstance(net, nn.Sequential):
            return None
        network = array_mlp([*net, head], noise.shape[1])
        return None if network is None else ArrayActor(self, network, noise)

    def preferences(self, obs: Obs, state: Tensor | None = None) -> Preferences:
        x = self.normalized(self.prepared(obs))
        if self.recurrent:
            start = torch.zeros(1, x.shape[0], dtype=torch.bool, device=x.device)
            parameters, values = self.evaluate(x[None], state, start)
            parameters, values = parameters[0], None if values is None else values[0]
        else:
            parameters, values = self.evaluate(x)
        if isinstance(self.distribution, DiagonalGaussian):
            return Preferences("action", self.env_action(self.distribution.sample(parameters, None)), values)
        return Preferences("probability", self.distribution.probabilities(parameters), values)

    def env_action(self, action: Tensor) -> Tensor:
        return self.distribution.to_env(action)

    def prepared(self, obs: Obs) -> Tensor:
        """Observations (B, ...) as the one tensor that backbones take, not yet normalised."""
        x = self.actor.prepare(obs)
        return x.flatten(1) if self.recurrent and len(self.actor.backbone.input_shape) == 1 else x

    def normalized(self, x: Tensor) -> Tensor:
        """By the running moments, if the policy has any; float32."""
        return x.float() if self.normalizer is None else self.normalizer(x)

    def action_parameters(self, features: Tensor) -> Tensor:
        """Parameters (..., A) of the action distribution."""
        parameters: Tensor = self.action_head(features)
        if self.log_std is not None:
            parameters = torch.cat([parameters, self.log_std.expand_as(parameters)], -1)
        return parameters

    def evaluate(
        self, x: Tensor, state: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Action parameters (B, A) and values (B,) of normalised x (B, ...); (L, B, ...) with `state` and `start`."""
        if self.recurrent:
            assert start is not None
            features, critic_features, _ = self._sequence_features(x, state, start)
        else:
            features = self.actor.backbone(x).flatten(1)
            critic_features = features if self.critic is None else self.critic.backbone(x).flatten(1)
        values = None if self.value_head is None else self.value_head(critic_features).squeeze(-1)
        return self.action_parameters(features), values

    def values(self, x: Tensor) -> list[Tensor]:
        """Values (B,) of normalised x (B, ...), of a feed-forward policy that has them."""
        assert self.value_head is not None
        encoder = self.actor if self.critic is None else self.critic
        return [self.value_head(encoder.backbone(x).flatten(1)).squeeze(-1)]

    def log_prob_and_values(self, x: Tensor, action: Tensor) -> list[Tensor]:
        """Log-probabilities of actions (B,) or (B, A), then values, if it has them; of a feed-forward policy."""
        parameters, values = self.evaluate(x)
        log_prob, _ = self.distribution.log_prob_entropy(parameters, action)
        return [log_prob] if values is None else [log_prob, values]

    def _sequence_features(self, x: Tensor, state: Tensor | None, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actor's and critic's features (L, B, F) and the state after the last step."""
        assert state is not None
        parts = state.chunk(len(self._encoders()))
        outputs = [encoder.backbone(x, s, start) for encoder, s in zip(self._encoders(), parts, strict=True)]
        return outputs[0][0], outputs[-1][0], torch.cat([after for _, after in outputs])

    def _encoders(self) -> list[Encoder]:
        return [self.actor] if self.critic is None else [self.actor, self.critic]

    def _initialise(self) -> None:
        """Orthogonal, gain sqrt(2) inside, 0.01 for actions and 1 for values (Andrychowicz et al. 2021; Huang 2022)."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.orthogonal_(layer.weight, 2**0.5)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.orthogonal_(self.action_head.weight, 0.01)
        if self.value_head is not None:
            nn.init.orthogonal_(self.value_head.weight, 1.0)


class ArrayActor:
    """`ActorCritic.act` in numpy for one rollout: argmax of logits + noise, or mean + deviation * noise (T, N, A)."""

    state = None

    def __init__(self, policy: ActorCritic, network: ArrayMLP, noise: Tensor) -> None:
        self._network, self._to_env = network, policy.env_action
        self._discrete, self._num_steps = policy.log_std is None, 0
        if policy.log_std is not None:
            noise = noise * policy.log_std.detach().clamp(*DiagonalGaussian.LOG_STD_BOUNDS).exp()
        self._noise = noise.numpy()
        shape = self._noise.shape[:2] if self._discrete else self._noise.shape
        self._actions = np.empty(shape, np.int64 if self._discrete else np.float32)
        inputs, normalizer = policy.actor.inputs, policy.normalizer
        assert isinstance(inputs, TensorSpec)
        moments = None if normalizer is None else normalizer.mean_and_scale(inputs.dtype)
        self._moments = None if moments is None else [t.numpy() for t in moments]

    def __call__(self, t: int, obs: Array) -> Array:
        x = obs
        if self._moments is not None:
            mean, scale = self._moments
            x = ((x - mean) * scale).clip(-CLIP, CLIP)
        x = x.astype(np.float32, copy=False)
        action, self._num_steps = self._actions[t], t + 1
        noisy = self._network(x) + self._noise[t]
        if self._discrete:
            noisy.argmax(1, out=action)
            return action
        action[:] = noisy
        env_action: Array = self._to_env(torch.from_numpy(action)).numpy()
        return env_action

    def clear(self, start: Array) -> None:
        """Nothing: it has no memory."""

    def actions(self) -> Tensor:
        return torch.from_numpy(self._actions[: self._num_steps])

    def extras(self) -> dict[str, Tensor]:
        return {}
