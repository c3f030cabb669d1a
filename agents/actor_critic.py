"""Policies with a value head over any registered backbone, and what all agents that train one share.

T time steps, N environments, B batch, L sequence length, A action parameters; S rows and F features of a recurrent
state. A feed-forward batch is (B, ...); a recurrent one holds B sequences, (L, B, ...), and the state before each,
(S, B, F).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from agents.acting import Actor, Array, ArrayMLP, array_mlp
from agents.agent import Agent
from agents.distributions import ContinuousName, Gaussian, MultiCategorical, distribution_of
from agents.experience import OnPolicyExperience
from agents.normalization import CLIP, ObsNormalizer, RewardScaler
from agents.policies import Action, Encoder, Policy, Preferences
from agents.types import Obs, Rollout, map_obs
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec, TensorSpec
from lab.experiment import ModuleConfig
from lab.optim import OptimizerConfig, ScheduleConfig
from lab.traced import record


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


class ActorCriticConfig(PolicyConfig):
    """What every agent has that improves a stochastic policy by its returns."""

    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, max_grad_norm=0.5)
    gamma: float = Field(default=0.99, ge=0, le=1)
    value_coef: NonNegativeFloat = 0.5
    entropy_coef: NonNegativeFloat = 0.0
    entropy_schedule: ScheduleConfig = ScheduleConfig()
    normalize_rewards: bool = False
    """by the running deviation of the discounted return"""
    sequence_length: PositiveInt | None = None
    """recurrent backbones: steps that gradients flow back through; by default the whole rollout"""


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
        if isinstance(self.distribution, Gaussian):
            num_parameters //= 2
            self.log_std = nn.Parameter(torch.full((num_parameters,), config.log_std_init))
        self.action_head = nn.Linear(self.actor.num_features, num_parameters)
        self.value_head = nn.Linear(self.actor.num_features, 1) if value else None
        self._initialise()

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
        plain = isinstance(inputs, TensorSpec) and inputs.dtype == torch.float32 and len(inputs.shape) == 1
        several = isinstance(self.distribution, MultiCategorical)
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
        if isinstance(self.distribution, Gaussian):
            return Preferences("action", self.env_action(self.distribution.sample(parameters, None)), values)
        return Preferences("probability", self.distribution.probabilities(parameters), values)

    def env_action(self, action: Tensor) -> Tensor:
        return self.distribution.to_env(action)

    def prepared(self, obs: Obs) -> Tensor:
        """Observations (B, ...) as the one tensor that backbones take, not yet normalised."""
        x = self.actor.prepare(obs)
        return x.flatten(1) if self.recurrent else x

    def normalized(self, x: Tensor) -> Tensor:
        """By the running moments, if the policy has any."""
        return x if self.normalizer is None else self.normalizer(x)

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
    """`ActorCritic.act` in arrays for one rollout: argmax of logits + noise, or mean + deviation * noise (T, N, A)."""

    state = None

    def __init__(self, policy: ActorCritic, network: ArrayMLP, noise: Tensor) -> None:
        self._network, self._to_env = network, policy.env_action
        self._discrete, self._taken = policy.log_std is None, 0
        if policy.log_std is not None:
            noise = noise * policy.log_std.detach().clamp(*Gaussian.LOG_STD_BOUNDS).exp()
        self._noise = noise.numpy()
        shape = self._noise.shape[:2] if self._discrete else self._noise.shape
        self._actions = np.empty(shape, np.int64 if self._discrete else np.float32)
        moments = None if policy.normalizer is None else policy.normalizer.mean_and_scale()
        self._moments = None if moments is None else [t.numpy() for t in moments]

    def __call__(self, t: int, obs: Array) -> Array:
        x = obs.astype(np.float32, copy=False)
        if self._moments is not None:
            mean, scale = self._moments
            x = ((x - mean) * scale).clip(-CLIP, CLIP)
        chosen, self._taken = self._actions[t], t + 1
        moved = self._network(x) + self._noise[t]
        if self._discrete:
            moved.argmax(1, out=chosen)
            return chosen
        chosen[:] = moved
        in_env: Array = self._to_env(torch.from_numpy(chosen)).numpy()
        return in_env

    def clear(self, start: Array) -> None:
        pass

    def actions(self) -> Tensor:
        return torch.from_numpy(self._actions[: self._taken])

    def extras(self) -> dict[str, Tensor]:
        return {}


class Evaluated(NamedTuple):
    """A rollout as the current policy sees it, (T, N) throughout."""

    x: Tensor  # (T, N, ...) prepared and normalised observations
    raw_x: Tensor  # (T N, ...) before normalisation
    action: Tensor  # (T, N) or (T, N, A)
    log_prob: Tensor
    values: Tensor
    next_values: Tensor  # of the true successors
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor


class ActorCriticAgent(Agent):
    """Collects rollouts and evaluates them in one pass; subclasses learn from them."""

    config: ActorCriticConfig
    policy: ActorCritic
    rank_state = {"reward_running": 0}

    def __init__(
        self, config: ActorCriticConfig, spec: DataSpec, *, value: bool = True, record_log_prob: bool = False
    ) -> None:
        super().__init__(config, spec)
        self.policy = ActorCritic(config, spec, value=value, record_log_prob=record_log_prob)
        self.reward_scaler = RewardScaler(config.gamma) if config.normalize_rewards else None
        self.progress = 0.0
        self._recorded: dict[Any, Callable[[Sequence[Tensor]], list[Tensor]]] | None = None
        self._has_buffers = any(True for _ in self.policy.actor.buffers())  # as batch normalisation has

    def set_engine(self, engine: Any) -> None:
        """A recurrent network's sequences are cut where episodes end, which cannot be recorded."""
        super().set_engine("eager" if self.policy.recurrent else engine)
        traced = all(updater.engine == "traced" for updater in self.updaters.values())
        self._recorded = {} if traced else None

    def set_progress(self, progress: float) -> None:
        super().set_progress(progress)
        self.progress = progress

    @property
    def entropy_coef(self) -> float:
        """The entropy coefficient now."""
        return self.config.entropy_coef * self.config.entropy_schedule.factor(self.progress)

    def collect(self, experience: OnPolicyExperience) -> Rollout:
        """The next rollout, counted, its rewards normalised if they are to be."""
        rollout = experience.collect(self.policy, self.counters["updates"])
        self.counters["env_steps"] += rollout.num_env_steps
        self.counters["episodes"] += len(rollout.episodes)
        if self.reward_scaler is not None:
            rollout = rollout._replace(reward=self.reward_scaler(rollout.reward, rollout.start, rollout.valid))
        return rollout

    @torch.no_grad()
    def evaluate_rollout(self, rollout: Rollout) -> Evaluated:
        """Log-probabilities and values of a whole rollout at once; values are 0 for a policy without a value head."""
        num_steps, num_envs = rollout.reward.shape
        reward, terminated, truncated, valid, action = (
            t.to(self.device)
            for t in (rollout.reward, rollout.terminated, rollout.truncated, rollout.valid, rollout.action)
        )
        raw_x = self._prepared(rollout.obs, 0, 1)
        x = self.policy.normalized(raw_x)
        shaped_x = x.view(num_steps, num_envs, *x.shape[1:])
        # A successor is the next row's observation, but at the end of the rollout and where an episode was cut.
        rows, envs = (rollout.truncated[:-1] & rollout.valid[1:]).nonzero(as_tuple=True)
        next_obs = map_obs(rollout.next_obs, lambda t: torch.cat([t[-1], t[rows, envs]]) if len(rows) else t[-1])
        next_x = self.policy.normalized(self._prepared(next_obs))
        if self.policy.recurrent:
            first_state = None if rollout.first_state is None else rollout.first_state.to(self.device)
            parameters, values = self.policy.evaluate(shaped_x, first_state, rollout.start.to(self.device))
            log_prob, _ = self.policy.distribution.log_prob_entropy(parameters, action)
            states = rollout.extras["state"]  # (T, N, S, F)
            state = torch.cat([states[-1], states[rows, envs]]).transpose(0, 1).to(self.device)
            going_on = torch.zeros(1, len(next_x), dtype=torch.bool, device=self.device)
            _, last_values = self.policy.evaluate(next_x[None], state, going_on)
        else:
            log_prob, *found = self._by_rows(self.policy.log_prob_and_values, x, action.flatten(0, 1))
            log_prob = log_prob.view(num_steps, num_envs)
            values = found[0] if found else None
            last_values = self._by_rows(self.policy.values, next_x)[0] if found else None
        if values is None or last_values is None:
            values = next_values = torch.zeros_like(reward)
        else:
            values, last_values = values.view(num_steps, num_envs), last_values.flatten()
            next_values = torch.cat([values[1:], last_values[None, :num_envs]])
            if len(rows):
                next_values[rows, envs] = last_values[num_envs:]
        return Evaluated(shaped_x, raw_x, action, log_prob, values, next_values, reward, terminated, truncated, valid)

    def _by_rows(self, function: Callable[..., list[Tensor]], *tensors: Tensor) -> list[Tensor]:
        """A function of the policy on tensors (B, ...); recorded where updates are, for few sizes of B."""
        if self._recorded is None or self._has_buffers:
            return function(*tensors)
        num_rows = len(tensors[0])
        size = power_of_two(num_rows)
        if size > num_rows:
            tensors = tuple(torch.cat([t, t.new_zeros(size - num_rows, *t.shape[1:])]) for t in tensors)
        key = (function.__name__, size, tensors[0].dtype)
        if key not in self._recorded:
            names = [name for name, _ in self.policy.named_parameters()]
            self._recorded[key] = record(self.policy, names, lambda _, *rows: function(*rows), tensors)
        return [t[:num_rows] for t in self._recorded[key](tensors)]

    def update_normalizer(self, seen: Evaluated) -> None:
        """Take a rollout's observations into the running moments, once the updates on it are done."""
        if self.policy.normalizer is not None:
            self.policy.normalizer.update(seen.raw_x[seen.valid.flatten()])

    def sequences(self, rollout: Rollout, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What updates take: tensors (T, N, ...) as (T N, ...); or, for a recurrent policy, cut into sequences
        (L, B, ...) and followed by the state before each (S, B, F) and the starts (L, B)."""
        num_steps = rollout.reward.shape[0]
        if not self.policy.recurrent:
            return tuple(t.flatten(0, 1) for t in tensors)
        length = min(self.config.sequence_length or num_steps, num_steps)
        if num_steps % length:
            raise ValueError(f"module.sequence_length={length} must divide data.num_steps={num_steps}.")

        def cut(t: Tensor) -> Tensor:
            pieces = t.view(-1, length, *t.shape[1:]).transpose(0, 1)  # (L, T / L, N, ...)
            return pieces.reshape(length, -1, *t.shape[2:])

        assert rollout.first_state is not None
        later = rollout.extras["state"][length - 1 : -1 : length]  # (T / L - 1, N, S, F)
        state = torch.cat([rollout.first_state.transpose(0, 1).cpu()[None], later]).flatten(0, 1).transpose(0, 1)
        return (*map(cut, tensors), state.contiguous().to(self.device), cut(rollout.start.to(self.device)))

    def train_state(self) -> dict[str, Any]:
        running = self.reward_scaler.running if self.reward_scaler is not None else None
        return super().train_state() | {"reward_running": running}

    def load_train_state(self, state: dict[str, Any]) -> None:
        super().load_train_state(state)
        if self.reward_scaler is not None:
            self.reward_scaler.running = state["reward_running"]

    def _prepared(self, obs: Obs, *flatten: int) -> Tensor:
        """Observations on the device, prepared; `flatten` names the first and last dimension to make one of."""
        return self.policy.prepared(map_obs(obs, lambda t: (t.flatten(*flatten) if flatten else t).to(self.device)))


def power_of_two(size: int) -> int:
    """The least one that is not below `size`, so that few shapes are recorded."""
    return 1 << (size - 1).bit_length()
