"""The lab's policies as RLModules, and the AlgorithmConfig of an experiment. B batch, A actions.

Imported where RLlib is needed: that takes seconds.
"""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import (
    TARGET_NETWORK_ACTION_DIST_INPUTS,
    InferenceOnlyAPI,
    QNetAPI,
    TargetNetworkAPI,
    ValueFunctionAPI,
)
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.tune.registry import register_env
from torch import Tensor

from agents.envs.spaces import spec_of
from agents.policies.actor_critic import ActorCritic
from agents.policies.q_network import QPolicy
from agents.types import Obs, map_obs
from cluster.rllib.settings import AlgorithmSettings, EnvRunnerSettings, build_policy, env_maker

_CONFIGS: dict[str, Any] = {"ppo": PPOConfig, "appo": APPOConfig, "impala": IMPALAConfig, "dqn": DQNConfig}
Batch = dict[str, Any]


class _LabModule(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI):
    """Builds the policy of an experiment, and a target network where the algorithm has one."""

    policy: Any
    target: Any

    def setup(self) -> None:
        model_config: Any = self.model_config
        settings = AlgorithmSettings.model_validate(model_config["lab"])
        self.epsilon, self.steps_before = settings.epsilon, model_config["steps_before"]
        assert self.observation_space is not None
        assert self.action_space is not None
        self.policy = build_policy(settings, spec_of(self.observation_space, self.action_space))

    def make_target_networks(self) -> None:
        self.target = make_target_network(self.policy)

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        return [(self.policy, self.target)]

    def get_non_inference_attributes(self) -> list[str]:
        return ["target"]


class PolicyModule(_LabModule, ValueFunctionAPI):
    """An ActorCritic for PPO, APPO and IMPALA."""

    policy: ActorCritic

    def _forward(self, batch: Batch, **kwargs: Any) -> Batch:
        return {Columns.ACTION_DIST_INPUTS: _action_parameters(self.policy, batch[Columns.OBS])}

    def compute_values(self, batch: Batch, embeddings: Any = None) -> Tensor:
        obs = batch[Columns.OBS]
        leading = _leading(self.policy, obs)
        x = self.policy.normalized(self.policy.prepared(_merged(obs, len(leading))))
        values = self.policy.evaluate(x)[1]
        assert values is not None
        return values.view(leading)

    def forward_target(self, batch: Batch) -> Batch:
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: _action_parameters(self.target, batch[Columns.OBS])}


class QModule(_LabModule, QNetAPI):
    """A QPolicy for DQN; actions, not distributions, come out where it acts."""

    policy: QPolicy

    def compute_q_values(self, batch: Batch) -> Batch:
        return {QF_PREDS: _q_values(self.policy, batch[Columns.OBS])}

    def forward_target(self, batch: Batch) -> Batch:
        return {QF_PREDS: _q_values(self.target, batch[Columns.OBS])}

    def _forward_inference(self, batch: Batch, **kwargs: Any) -> Batch:
        return {Columns.ACTIONS: _q_values(self.policy, batch[Columns.OBS]).argmax(-1)}

    def _forward_exploration(self, batch: Batch, t: int = 0, **kwargs: Any) -> Batch:
        greedy = self._forward_inference(batch)[Columns.ACTIONS]
        anything = torch.randint_like(greedy, self.policy.q_network.num_actions)
        explores = torch.rand(greedy.shape, device=greedy.device) < self.epsilon.at(self.steps_before + t)
        return {Columns.ACTIONS: torch.where(explores, anything, greedy)}

    def _forward_train(self, batch: Batch, **kwargs: Any) -> Batch:
        next_obs = batch[Columns.NEXT_OBS]
        return {
            QF_PREDS: _q_values(self.policy, batch[Columns.OBS]),
            QF_NEXT_PREDS: _q_values(self.policy, next_obs),
            QF_TARGET_NEXT_PREDS: _q_values(self.target, next_obs),
        }


def _action_parameters(policy: ActorCritic, obs: Obs) -> Tensor:
    leading = _leading(policy, obs)
    x = policy.normalized(policy.prepared(_merged(obs, len(leading))))
    parameters = policy.action_parameters(policy.actor.backbone(x).flatten(1))
    return parameters.view(*leading, -1)


def _q_values(policy: QPolicy, obs: Obs) -> Tensor:
    outputs: Tensor = policy.returns.mean(policy.q_network(policy.q_network.prepare(obs)))  # (B, A)
    return outputs


def _leading(policy: ActorCritic, obs: Obs) -> tuple[int, ...]:
    """The shape of a batch without that of an observation: (B,) or (B, T)."""
    inputs = policy.actor.inputs
    if isinstance(obs, dict):
        assert isinstance(inputs, dict)
        key = next(iter(inputs))
        return tuple(obs[key].shape[: obs[key].dim() - len(inputs[key].shape)])
    assert not isinstance(inputs, dict)
    return tuple(obs.shape[: obs.dim() - len(inputs.shape)])


def _merged(obs: Obs, num_leading: int) -> Obs:
    return map_obs(obs, lambda t: t.flatten(0, num_leading - 1)) if num_leading > 1 else obs


def algorithm_config(
    module: AlgorithmSettings, data: EnvRunnerSettings, seed: int, device: torch.device, steps_before: int
) -> Any:
    """The AlgorithmConfig of an experiment, whose run has taken `steps_before` steps in earlier processes.

    Raises TypeError or ValueError for options that RLlib does not know.
    """
    name = f"lab:{data.env}"
    register_env(name, env_maker(data.env, data.env_options))
    settings = {"lab": module.model_dump(mode="json"), "steps_before": steps_before}
    kind = QModule if module.algorithm == "dqn" else PolicyModule
    replay: dict[str, Any] = {"replay_buffer_config": {"type": "EpisodeReplayBuffer", "capacity": module.capacity}}
    config = (
        _CONFIGS[module.algorithm]()
        .environment(name, normalize_actions=False, clip_actions=True)
        .env_runners(num_env_runners=data.num_env_runners, num_envs_per_env_runner=data.num_envs)
        .learners(num_learners=0, num_gpus_per_learner=1 if device.type == "cuda" else 0)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=kind, model_config=settings))
        .training(
            lr=module.lr,
            gamma=module.gamma,
            grad_clip=module.max_grad_norm,
            grad_clip_by="global_norm",
            **(replay if module.algorithm == "dqn" else {}),
            **module.options,
        )
        .reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=1_000)
        .debugging(seed=seed, log_level="ERROR")
        .fault_tolerance(restart_failed_env_runners=True)
    )
    config.validate()
    return config
