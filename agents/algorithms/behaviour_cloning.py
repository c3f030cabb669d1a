"""Behaviour cloning: supervised learning of what a demonstrator did (Pomerleau 1989, ALVINN).

    loss = - mean over demonstrated (s, a) of log pi(a | s)

A continuous policy's deviation is held at `log_std_init`, which makes the loss the squared error of the mean.
Its weights start an agent: `lab train ppo/cartpole trainer.start_from=RUN`.

B batch, L sequence length, A action parameters; S rows and F features of a recurrent state.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor

from agents.algorithms.agent import Agent
from agents.play.demonstrations import DemonstrationModule, Demonstrations
from agents.policies.action_distributions import DiagonalGaussian
from agents.policies.actor_critic import ActorCritic, PolicyConfig
from lab.data.module import LabDataModule
from lab.data.spec import DataSpec
from lab.engine.loss import Loss, Metrics
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.errors import UserError
from lab.ranks import ranks
from lab.training.learner import StepMetrics, means


class BehaviourCloningConfig(PolicyConfig):
    """A policy that imitates."""

    kind: Literal["behaviour_cloning"] = "behaviour_cloning"
    log_std_init: float = -1.0
    """of continuous actions: the log standard deviation, which is not learned"""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3, schedule=ScheduleConfig(name="cosine"))
    normalize_obs: bool = True
    """by mean and variance of the demonstrations"""
    sequence_length: PositiveInt = 32
    """recurrent backbones: steps that gradients flow back through"""

    def build(self, spec: DataSpec) -> BehaviourCloning:
        return BehaviourCloning(self, spec)


class CloningMinibatch(NamedTuple):
    """Observations x (B, ...) and actions (B,) or (B, A); or sequences (L, B, ...) of them, the state (S, B, F) before
    each and the starts (L, B) of episodes."""

    x: Tensor
    action: Tensor
    state: Tensor | None = None
    start: Tensor | None = None


class BehaviourCloning(Agent[BehaviourCloningConfig]):
    """Learns from demonstrations; is evaluated in their environment, and on steps that were held out."""

    counter: ClassVar[Literal["env_steps", "samples"]] = "samples"
    policy: ActorCritic

    def __init__(self, config: BehaviourCloningConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.policy = ActorCritic(config, spec, value=False)
        if self.policy.log_std is not None:
            self.policy.log_std.requires_grad_(False)
        self.updater = self.add_updater("policy", self.policy, self.loss, config.optimizer)

    def set_engine(self, engine: Any) -> None:
        """A recurrent network's sequences are cut where episodes end, which cannot be recorded."""
        super().set_engine("eager" if self.policy.recurrent else engine)

    def loss(self, batch: CloningMinibatch) -> Loss:
        parameters, _ = self.policy.evaluate(batch.x, batch.state, batch.start)
        log_prob, _ = self.policy.distribution.log_prob_entropy(parameters, batch.action)
        nll = -log_prob.mean()
        return Loss(nll, {"nll": nll.detach(), **self._agreement(parameters, batch.action)})

    def of_all_ranks(self, own: float) -> float:
        return own * ranks.num_ranks()

    def training_step(self, data: DemonstrationModule, batch_idx: int = 0) -> StepMetrics:
        if not isinstance(data, DemonstrationModule):
            raise UserError("module.kind='behaviour_cloning' learns from episodes: data.kind must be 'demonstrations'.")
        if self.policy.normalizer is not None and self.counters["samples"] == 0:
            self.policy.normalizer.update(self.policy.prepared(data.train.obs))
        rows: list[Metrics] = []
        for part in data.minibatches(self.config.sequence_length if self.policy.recurrent else None):
            self.follow_schedules(part.start.numel() / 2)
            rows.append(self.update(self.batch(part)))
            self.counters["samples"] += part.start.numel()
        return {**means(rows), **self.rates()}

    @torch.no_grad()
    def batch(self, part: Demonstrations) -> CloningMinibatch:
        """The minibatch of some demonstrations."""
        action = self.policy.distribution.from_env(part.action)
        if not self.policy.recurrent:
            return CloningMinibatch(self.policy.normalized(self.policy.prepared(part.obs)), action)
        length, num = part.start.shape
        x = self.policy.prepared(_flat(part.obs)).view(length, num, -1)
        state = self.policy.initial_state(num)
        assert state is not None
        return CloningMinibatch(self.policy.normalized(x), action, state.to(x.device), part.start)

    def evaluate(self, data: LabDataModule, split: Literal["val", "test"] = "val", **options: Any) -> dict[str, float]:
        """Returns in the environment, and agreement with the steps that were held out."""
        assert isinstance(data, DemonstrationModule)
        held_out = data.val
        if self.policy.recurrent:
            held_out = held_out.rows(torch.arange(len(held_out.action), device=data.device)[:, None])  # (S, 1)
        metrics = self.loss(self.batch(held_out)).metrics
        agreement = {f"eval/{name}": float(value) for name, value in metrics.items()}
        return super().evaluate(data, split, **options) | agreement

    def _agreement(self, parameters: Tensor, action: Tensor) -> Metrics:
        """`accuracy` of discrete actions, `action_error` (root mean square, in the environment's units) of others."""
        distribution = self.policy.distribution
        greedy = distribution.sample(parameters.detach(), None)
        if isinstance(distribution, DiagonalGaussian):
            return {"action_error": (distribution.to_env(greedy) - distribution.to_env(action)).square().mean().sqrt()}
        return {"accuracy": (greedy == action).float().mean()}


def _flat(obs: Any) -> Any:
    """(L, B, ...) -> (L B, ...)."""
    return {key: value.flatten(0, 1) for key, value in obs.items()} if isinstance(obs, dict) else obs.flatten(0, 1)
