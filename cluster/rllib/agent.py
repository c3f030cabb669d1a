"""RLlib's algorithms as experiments like any other: `training_step` is one iteration of an Algorithm of Ray 2.60.

    lab train rllib/ppo-cartpole module.backbone.hidden=[128,128] data.num_env_runners=4

The networks are the lab's own policies over any feed-forward backbone of the registry, in an RLModule around them
(modules.py). After each iteration the agent's policy takes RLlib's weights, so that checkpoints, `lab play`,
`lab evaluate` and `lab compare` see an agent of the lab; and `trainer.start_from` begins with one's weights.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from agents.algorithms.agent import Agent
from cluster.rllib.experience import RLlibExperience
from cluster.rllib.settings import MODULE_ID, AlgorithmSettings, build_policy
from lab.data.spec import DataSpec
from lab.errors import UserError
from lab.training.learner import StepMetrics

_LOSSES = ("total_loss", "policy_loss", "vf_loss", "entropy", "mean_kl_loss", "qf_loss", "qf_mean", "td_error_mean")


class RLlibConfig(AlgorithmSettings):
    """An algorithm of RLlib on a backbone of the registry."""

    kind: Literal["rllib"] = "rllib"

    def build(self, spec: DataSpec) -> RLlibAgent:
        """Raises UserError for a recurrent backbone, or for dqn without discrete actions."""
        return RLlibAgent(self, spec)


class RLlibAgent(Agent[RLlibConfig]):
    """The lab's side of an Algorithm; `updates` counts its iterations."""

    config: RLlibConfig

    def __init__(self, config: RLlibConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.policy = build_policy(config, spec)
        self._counters_before: dict[str, int] = {}

    def on_train_start(self) -> None:
        """Begin with this policy's weights, unless the run goes on."""
        data = self._experience()
        if not data.is_open:
            self._open(data)
            data.set_policy(self.policy)

    def training_step(self, experience: RLlibExperience, batch_idx: int = 0) -> StepMetrics:
        """One iteration of the Algorithm; then the policy takes RLlib's weights."""
        result = experience.train()
        runners = result.get("env_runners", {})
        for name, total in (("env_steps", "num_env_steps_sampled_lifetime"), ("episodes", "num_episodes_lifetime")):
            self.counters[name] = self._counters_before[name] + int(runners.get(total, 0))
        self.counters["updates"] += 1
        weights = experience.weights()
        policy = {name.removeprefix("policy."): v for name, v in weights.items() if name.startswith("policy.")}
        self.policy.load_state_dict(policy)
        metrics: StepMetrics = {
            f"charts/episodic_{name}": float(runners[key])
            for name, key in (("return", "episode_return_mean"), ("length", "episode_len_mean"))
            if np.isfinite(runners.get(key, np.nan))
        }
        learner = result.get("learners", {}).get(MODULE_ID, {})
        metrics |= {f"losses/{name}": float(learner[name]) for name in _LOSSES if name in learner}
        return metrics

    def load_train_state(self, state: dict[str, Any]) -> None:
        """Build the Algorithm anew, where it was; its networks and optimizers come with the data's state."""
        super().load_train_state(state)
        self._open(self._experience())

    def _open(self, data: RLlibExperience) -> None:
        self._counters_before = dict(self.counters)
        data.open(self.config, self.device, self.counters["env_steps"])

    def _experience(self) -> RLlibExperience:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, RLlibExperience):
            raise UserError("module.kind='rllib' brings its own experience: data.kind must be 'rllib'.")
        return data
