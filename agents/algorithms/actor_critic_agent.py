"""What the agents share that improve a stochastic policy by its returns: rollouts, evaluated in one pass.

T time steps, N environments, B batch, L sequence length; S rows and F features of a recurrent state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from agents.algorithms.agent import Agent
from agents.experience.data import OnPolicyExperience
from agents.policies.actor_critic import ActorCritic, PolicyConfig
from agents.policies.normalization import RewardScaler
from agents.returns import gae
from agents.types import Obs, Rollout, map_obs
from lab.data.spec import DataSpec
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig, of_progress
from lab.engine.tracing import record
from lab.errors import UserError
from lab.training.learner import StepMetrics

_MAX_ROWS = 4096
"""that are evaluated at once, so that their activations stay in the cache"""


class ActorCriticConfig(PolicyConfig):
    """A stochastic policy and what it learns from."""

    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, max_grad_norm=0.5)
    gamma: float = Field(default=0.99, ge=0, le=1)
    value_coef: NonNegativeFloat = 0.5
    entropy_coef: NonNegativeFloat = 0.0
    entropy_schedule: Annotated[ScheduleConfig, of_progress] = ScheduleConfig()
    normalize_rewards: bool = False
    """by the running deviation of the discounted return"""
    sequence_length: PositiveInt | None = None
    """recurrent backbones: steps that gradients flow back through; by default the whole rollout"""


ActorCriticConfigT = TypeVar("ActorCriticConfigT", bound=ActorCriticConfig)


class EvaluatedRollout(NamedTuple):
    """A rollout with the current policy's log-probabilities and values, (T, N) throughout."""

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

    def gae(self, gamma: float, gae_lambda: float) -> Tensor:
        """Generalised advantages (T, N)."""
        successors = (self.next_values, self.terminated, self.truncated)
        return gae(self.reward, self.values, *successors, gamma, gae_lambda)


class ActorCriticAgent(Agent[ActorCriticConfigT]):
    """Collects rollouts and evaluates them in one pass; subclasses learn from them."""

    policy: ActorCritic
    rank_state = {"reward_running": 0}

    def __init__(
        self, config: ActorCriticConfigT, spec: DataSpec, *, value: bool = True, record_log_prob: bool = False
    ) -> None:
        super().__init__(config, spec)
        self.policy = ActorCritic(config, spec, value=value, record_log_prob=record_log_prob)
        self.reward_scaler = RewardScaler(config.gamma) if config.normalize_rewards else None
        self.explained_variance: Tensor | None = None
        """of the last rollout's returns by its values"""
        self._recorded: dict[Any, Callable[[Sequence[Tensor]], list[Tensor]]] | None = None
        self._has_buffers = any(True for _ in self.policy.actor.buffers())  # as batch normalisation has

    def set_engine(self, engine: Any) -> None:
        """A recurrent network's sequences are cut where episodes end, which cannot be recorded."""
        super().set_engine("eager" if self.policy.recurrent else engine)
        traced = all(updater.engine == "traced" for updater in self.updaters.values())
        self._recorded = {} if traced else None

    @property
    def entropy_coef(self) -> float:
        """The entropy coefficient now."""
        return self.config.entropy_coef * self.config.entropy_schedule.factor(self.progress)

    def charts(self) -> StepMetrics:
        """The entropy coefficient, what values explain of the returns, and a Gaussian policy's mean deviation."""
        charts: StepMetrics = {}
        if self.config.entropy_coef:
            charts["charts/entropy_coef"] = self.entropy_coef
        if self.explained_variance is not None:
            charts["charts/explained_variance"] = self.explained_variance
        deviation = self.policy.deviation
        if deviation is not None:
            charts["charts/policy_std"] = deviation
            if self.policy.is_at_bound:
                self.warn_once(
                    "deviation at its bound",
                    "a deviation of the policy is at its bound and learns no more: bring rewards to about 1 "
                    "(module.normalize_rewards), or lower module.optimizer.lr or module.entropy_coef",
                )
        return charts

    def explain(self, returns: Tensor, evaluated: EvaluatedRollout) -> None:
        """Measure how well values tell returns (T, N): 1 - Var(returns - values) / Var(returns), over valid rows."""
        if int(evaluated.valid.sum()) > 1:
            valid_returns, errors = returns[evaluated.valid], (returns - evaluated.values)[evaluated.valid]
            self.explained_variance = 1 - errors.var() / valid_returns.var().clamp_min(1e-8)

    def collect(self, experience: OnPolicyExperience) -> Rollout:
        """The next rollout, counted, its rewards normalised if they are to be."""
        rollout = super().collect(experience)
        if self.reward_scaler is not None:
            rollout = rollout._replace(reward=self.reward_scaler(rollout.reward, rollout.start, rollout.valid))
        return rollout

    @torch.no_grad()
    def evaluate_rollout(self, rollout: Rollout) -> EvaluatedRollout:
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
        rows, envs = (rollout.truncated[:-1] & rollout.valid[:-1]).nonzero(as_tuple=True)
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
            log_prob, *heads = self._by_rows(self.policy.log_prob_and_values, _MAX_ROWS, x, action.flatten(0, 1))
            log_prob = log_prob.view(num_steps, num_envs)
            values = heads[0] if heads else None
            size = min(power_of_two(num_envs), _MAX_ROWS)  # one size, however many episodes were cut
            last_values = self._by_rows(self.policy.values, size, next_x)[0] if heads else None
        if values is None or last_values is None:
            values = next_values = torch.zeros_like(reward)
        else:
            values, last_values = values.view(num_steps, num_envs), last_values.flatten()
            next_values = torch.cat([values[1:], last_values[None, :num_envs]])
            if len(rows):
                next_values[rows, envs] = last_values[num_envs:]
        return EvaluatedRollout(
            shaped_x, raw_x, action, log_prob, values, next_values, reward, terminated, truncated, valid
        )

    def _by_rows(self, function: Callable[..., list[Tensor]], max_rows: int, *tensors: Tensor) -> list[Tensor]:
        """A function of the policy on tensors (B, ...); where updates are recorded it is too, for `max_rows` rows at
        most, so that few sizes occur."""
        if self._recorded is None or self._has_buffers:
            return function(*tensors)
        size = min(max_rows, power_of_two(len(tensors[0])))
        pieces = [
            self._replayed(function, size, piece) for piece in zip(*(t.split(size) for t in tensors), strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else [torch.cat(parts) for parts in zip(*pieces, strict=True)]

    def _replayed(self, function: Callable[..., list[Tensor]], size: int, tensors: tuple[Tensor, ...]) -> list[Tensor]:
        """The function as recorded for `size` rows; the tensors are padded to that."""
        assert self._recorded is not None
        num_rows = len(tensors[0])
        if size > num_rows:
            tensors = tuple(torch.cat([t, t.new_zeros(size - num_rows, *t.shape[1:])]) for t in tensors)
        key = (function.__name__, size, tensors[0].dtype)
        if key not in self._recorded:
            names = [name for name, _ in self.policy.named_parameters()]
            self._recorded[key] = record(self.policy, names, lambda _, *rows: function(*rows), tensors)
        return [t[:num_rows] for t in self._recorded[key](tensors)]

    def update_normalizer(self, rollout: EvaluatedRollout) -> None:
        """Take a rollout's observations into the running moments, once the updates on it are done."""
        if self.policy.normalizer is not None:
            self.policy.normalizer.update(rollout.raw_x[rollout.valid.flatten()])

    def sequences(self, rollout: Rollout, **tensors: Tensor) -> dict[str, Tensor]:
        """Fields of minibatches, by name: tensors (T, N, ...) as (T N, ...); or, for a recurrent policy, cut into
        sequences (L, B, ...), with the `state` before each (S, B, F) and the `start`s (L, B)."""
        num_steps = rollout.reward.shape[0]
        if not self.policy.recurrent:
            return {name: t.flatten(0, 1) for name, t in tensors.items()}
        length = min(self.config.sequence_length or num_steps, num_steps)
        if num_steps % length:
            raise UserError(f"module.sequence_length={length} must divide data.num_steps={num_steps}.")

        def cut(t: Tensor) -> Tensor:
            pieces = t.view(-1, length, *t.shape[1:]).transpose(0, 1)  # (L, T / L, N, ...)
            return pieces.reshape(length, -1, *t.shape[2:])

        assert rollout.first_state is not None
        later = rollout.extras["state"][length - 1 : -1 : length]  # (T / L - 1, N, S, F)
        state = torch.cat([rollout.first_state.transpose(0, 1).cpu()[None], later]).flatten(0, 1).transpose(0, 1)
        return {name: cut(t) for name, t in tensors.items()} | {
            "state": state.contiguous().to(self.device),
            "start": cut(rollout.start.to(self.device)),
        }

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
    """The least power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()
