"""RLlib's algorithms as experiments like any other: `training_step` is one iteration of an Algorithm of Ray 2.60.

    lab train rllib/ppo-cartpole module.backbone.hidden=[128,128] data.num_env_runners=4

The networks are the lab's own policies over any feed-forward backbone of the registry, in an RLModule around them
(cluster/rllib/modules.py). After each iteration the agent's policy takes RLlib's weights, so that checkpoints, `lab
play`, `lab evaluate` and `lab compare` see an agent of the lab; and `trainer.start_from` begins with one's weights.

RLlib's own checkpoints are pickles, and reading one runs code. None is ever written or read: a checkpoint of the lab
holds the states of RLlib's networks and optimizers as plain tensors, and a resumed run builds its Algorithm anew and
gives them back. What RLlib keeps elsewhere starts afresh: replay (DQN), episodes in progress, coefficients that it
adapts, its random numbers.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from agents.algorithms.agent import Agent
from agents.algorithms.dqn import QPolicy, discrete_actions
from agents.algorithms.ppo import PPOConfig
from agents.envs.make import make_env, make_envs
from agents.experience.data import EnvironmentData
from agents.policies.actor_critic import ActorCritic
from agents.policies.exploration import EpsilonConfig
from agents.policies.policy import Policy
from agents.policies.q_network import QNetwork
from agents.policies.return_distributions import ExpectedConfig
from cluster.session.session import Resources, Session, session
from lab import catalog
from lab.backbones import BackboneConfig
from lab.data.module import LabDataModule
from lab.data.spec import DataSpec
from lab.errors import Failure, UserError
from lab.experiment import ModuleConfig
from lab.training.learner import StepMetrics

Option = bool | int | float | list[list[float]] | None
"""what may stand in a file: never a name that RLlib would import"""

MODULE_ID = "default_policy"
_LOSSES = ("total_loss", "policy_loss", "vf_loss", "entropy", "mean_kl_loss", "qf_loss", "qf_mean", "td_error_mean")


class RLlibData(EnvironmentData):
    """Environments that RLlib steps by itself."""

    kind: Literal["rllib"] = "rllib"
    num_env_runners: NonNegativeInt = 0
    """processes that collect; 0: the one that trains does"""
    num_envs: PositiveInt = 8
    """environments of each of them"""

    def build(self, seed: int) -> RLlibExperience:
        """Raises UserError for an environment that cannot be made."""
        return RLlibExperience(self, seed)


class RLlibConfig(ModuleConfig):
    """An algorithm of RLlib on a backbone of the registry."""

    kind: Literal["rllib"] = "rllib"
    algorithm: Literal["ppo", "appo", "impala", "dqn"] = "ppo"
    backbone: BackboneConfig = BackboneConfig("mlp", hidden=(64, 64), activation="tanh")
    shared_backbone: bool = False
    """one backbone for policy and value"""
    normalize_obs: bool = False
    """by the moments that `trainer.start_from` brings, which stay as they are"""
    lr: PositiveFloat = 3e-4
    gamma: float = Field(default=0.99, ge=0, le=1)
    max_grad_norm: PositiveFloat | None = 0.5
    epsilon: EpsilonConfig = EpsilonConfig()
    """dqn: exploration"""
    capacity: PositiveInt = 50_000
    """dqn: transitions kept"""
    options: dict[str, Option] = Field(default_factory=dict)
    """more arguments of the algorithm's AlgorithmConfig.training(): numbers, switches and schedules"""

    def build(self, spec: DataSpec) -> RLlibAgent:
        return RLlibAgent(self, spec)


def build_policy(config: RLlibConfig, spec: DataSpec) -> Policy:
    """The lab's policy for an algorithm: that of `ppo` recipes, or of `dqn` ones. Raises UserError for memory."""
    if config.backbone.recurrent:
        raise UserError(f"module.backbone.name={config.backbone.name!r} is recurrent; RLlib's agents here are not.")
    if config.algorithm == "dqn":
        num_actions = discrete_actions(config, spec)
        q_network = QNetwork(config.backbone, spec, num_actions, 1, dueling=False, hidden=(), sigma=None)
        return QPolicy(q_network, ExpectedConfig().build("huber"))
    network = {name: getattr(config, name) for name in ("backbone", "shared_backbone", "normalize_obs")}
    return ActorCritic(PPOConfig(**network), spec)


class RLlibExperience(LabDataModule):
    """Holds the Algorithm, its environments and the Ray session that they run in."""

    def __init__(self, config: RLlibData, seed: int) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        envs = make_envs(config.env, 1, config.env_options)
        self.spec: DataSpec = envs.spec
        envs.close()
        self._algorithm: Any = None
        self._stack = contextlib.ExitStack()

    @property
    def is_open(self) -> bool:
        """Whether there is an Algorithm."""
        return self._algorithm is not None

    def next_chunk(self) -> RLlibExperience:
        return self

    def open(self, module: RLlibConfig, device: torch.device, steps_before: int) -> None:
        """Build the Algorithm, which has taken `steps_before` steps in earlier lives.

        Raises UserError when the cluster is too small, or RLlib does not take the options.
        """
        import ray

        runners = self.config.num_env_runners
        cluster = Session("auto") if ray.is_initialized() else self._stack.enter_context(session())
        if runners and cluster.slots(Resources(1, 0)) < runners:
            raise UserError(
                f"data.num_env_runners={runners} needs {Resources(runners, 0)}; "
                f"the cluster has room for {cluster.slots(Resources(1, 0))}."
            )
        with _quiet():
            from cluster.rllib.modules import algorithm_config

            try:
                config = algorithm_config(module, self.config, self.seed, device, steps_before)
                self._algorithm = config.build_algo()
            except (TypeError, ValueError) as error:
                raise UserError(f"RLlib refuses module.options={module.options}: {_line(error)}") from None
        self._stack.callback(self._stop)

    def train(self) -> dict[str, Any]:
        """One iteration. Raises Failure with RLlib's reason."""
        import ray

        try:
            result: dict[str, Any] = self._algorithm.train()
            return result
        except ray.exceptions.RayError as error:
            raise Failure(f"RLlib could not go on: {_line(error)}") from error

    def weights(self) -> dict[str, Tensor]:
        """The RLModule's state."""
        found = self._algorithm.learner_group.get_weights()[MODULE_ID]
        return {name: torch.as_tensor(value).clone() for name, value in found.items()}

    def set_policy(self, policy: Policy) -> None:
        """Start from a policy's weights, in the target network too."""
        values = policy.state_dict()
        self._set({"rl_module": {MODULE_ID: {name: values[name.partition(".")[2]] for name in self.weights()}}})

    def state_dict(self) -> dict[str, Any]:
        """Networks and optimizers, as plain tensors and values."""
        if self._algorithm is None:
            return {}
        parts = ["learner/rl_module", "learner/optimizer"]
        learner = self._algorithm.learner_group.get_state(parts)["learner"]
        return {"rl_module": _plain(learner["rl_module"]), "optimizer": _plain(learner["optimizer"])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self._set(state_dict)

    def close(self) -> None:
        self._stack.close()

    def _set(self, learner: dict[str, Any]) -> None:
        group = self._algorithm.learner_group
        group.set_state({"learner": _arrays(learner)})
        self._algorithm.env_runner_group.sync_weights(from_worker_or_learner_group=group, inference_only=True)

    def _stop(self) -> None:
        algorithm, self._algorithm = self._algorithm, None
        if algorithm is not None:
            algorithm.stop()
            shutil.rmtree(algorithm.logdir, ignore_errors=True)  # an empty folder in the user's home


class RLlibAgent(Agent):
    """The lab's side of an Algorithm; `updates` counts its iterations."""

    config: RLlibConfig

    def __init__(self, config: RLlibConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.policy = build_policy(config, spec)
        self._taken_before: dict[str, int] = {}

    def on_train_start(self) -> None:
        """Begin with this policy's weights, unless the run goes on."""
        data = self._experience()
        if not data.is_open:
            self._open(data)
            data.set_policy(self.policy)

    def training_step(self, experience: RLlibExperience, batch_idx: int = 0) -> StepMetrics:
        result = experience.train()
        runners = result.get("env_runners", {})
        for name, found in (("env_steps", "num_env_steps_sampled_lifetime"), ("episodes", "num_episodes_lifetime")):
            self.counters[name] = self._taken_before[name] + int(runners.get(found, 0))
        self.counters["updates"] += 1
        weights = experience.weights()
        own = {name.removeprefix("policy."): v for name, v in weights.items() if name.startswith("policy.")}
        self.policy.load_state_dict(own)
        metrics: StepMetrics = {
            f"charts/episodic_{what}": float(runners[key])
            for what, key in (("return", "episode_return_mean"), ("length", "episode_len_mean"))
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
        self._taken_before = dict(self.counters)
        data.open(self.config, self.device, self.counters["env_steps"])

    def _experience(self) -> RLlibExperience:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, RLlibExperience):
            raise UserError("module.kind='rllib' brings its own experience: data.kind must be 'rllib'.")
        return data


def env_maker(env: str, options: Mapping[str, Any]) -> Any:
    """A function that makes the environment in whatever process RLlib calls it."""
    imports, paths = catalog.allowed_imports(), [str(Path.cwd()), *(path for path in sys.path if path)]

    def make(context: Any) -> Any:
        sys.path.extend(path for path in paths if path not in sys.path)
        for name in imports:
            catalog.allow_import(name)
        return make_env(env, options)

    return make


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep RLlib's warnings about its own future off the screen."""
    import warnings

    loggers = [logging.getLogger(name) for name in ("ray", "ray.rllib")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _plain(value: Any) -> Any:
    """Nested arrays as tensors and numbers, which a checkpoint takes."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value


def _arrays(value: Any) -> Any:
    """Nested tensors as arrays, which RLlib takes."""
    if isinstance(value, Mapping):
        return {key: _arrays(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_arrays(item) for item in value]
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
