"""Experience that RLlib collects and learns from by itself: the Algorithm, its environments and its state.

RLlib's own checkpoints are pickles, and reading one runs code. None is ever written or read: a checkpoint of the lab
holds the states of RLlib's networks and optimizers as plain tensors, and a resumed run builds its Algorithm anew and
gives them back. What RLlib keeps elsewhere starts afresh: replay (DQN), episodes in progress, coefficients that it
adapts, its random numbers.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from agents.envs.make import make_envs
from agents.experience.items import observation_items
from agents.policies.policy import Policy
from cluster.rllib.settings import MODULE_ID, AlgorithmSettings, EnvRunnerSettings
from cluster.session.error_lines import one_line
from cluster.session.session import Resources, current_session
from lab.data.items import Item
from lab.data.module import LabDataModule
from lab.data.spec import DataSpec
from lab.errors import Failure, UserError
from lab.quiet import quiet


class RLlibData(EnvRunnerSettings):
    """Environments that RLlib steps by itself."""

    kind: Literal["rllib"] = "rllib"

    def build(self, seed: int) -> RLlibExperience:
        """Raises UserError for an environment that cannot be made."""
        return RLlibExperience(self, seed)


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

    def items(self, sources: Sequence[str]) -> Iterator[Item]:
        """Observations, as JSON or .npy."""
        return observation_items(sources, self.spec.inputs)

    def next_chunk(self) -> RLlibExperience:
        return self

    def open(self, module: AlgorithmSettings, device: torch.device, steps_before: int) -> None:
        """Build the Algorithm, which has taken `steps_before` steps in earlier lives.

        Raises UserError when the cluster is too small, or RLlib does not take the options.
        """
        runners = self.config.num_env_runners
        cluster = self._stack.enter_context(current_session())
        if runners and cluster.slots(Resources(1, 0)) < runners:
            raise UserError(
                f"data.num_env_runners={runners} needs {Resources(runners, 0)}; "
                f"the cluster has room for {cluster.slots(Resources(1, 0))}."
            )
        with quiet("ray", "ray.rllib"):
            from cluster.rllib.modules import algorithm_config

            try:
                config = algorithm_config(module, self.config, self.seed, device, steps_before)
                self._algorithm = config.build_algo()
            except (TypeError, ValueError) as error:
                raise UserError(f"RLlib refuses module.options={module.options}: {one_line(error)}") from None
        self._stack.callback(self._stop)

    def train(self) -> dict[str, Any]:
        """One iteration. Raises Failure with RLlib's reason."""
        import ray

        try:
            result: dict[str, Any] = self._algorithm.train()
            return result
        except ray.exceptions.RayError as error:
            raise Failure(f"RLlib could not go on: {one_line(error)}") from error

    def weights(self) -> dict[str, Tensor]:
        """The RLModule's state, as tensors of their own."""
        weights = self._algorithm.learner_group.get_weights()[MODULE_ID]
        return {name: torch.as_tensor(value).clone() for name, value in weights.items()}

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
