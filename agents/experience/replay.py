"""Experience that goes through a replay buffer.

B batch, K minibatches, L sequence length.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from agents.experience.data import EnvData, Experience
from agents.policies.policy import Policy
from agents.replay.buffer import ReplayBuffer, ReplayConfig
from agents.replay.files import RingFiles, folder_name
from agents.types import Rollout, Sequences, Transition
from lab.experiment import Shared
from lab.ranks import ranks
from lab.seeding import derive_seed

log = logging.getLogger("lab")


class ReplayData(EnvData):
    """Rollouts that go into a replay buffer, and minibatches from it."""

    kind: Literal["replay"] = "replay"
    num_steps: PositiveInt = 1
    """steps of each environment between updates"""
    learning_starts: Annotated[PositiveInt, Shared("rounded")] = 1_000
    """environment steps before the first update"""
    replay: ReplayConfig = ReplayConfig()

    def build(self, seed: int) -> ReplayExperience:
        """Raises UserError for an environment that cannot be made."""
        return ReplayExperience(self, seed)


class ReplayExperience(Experience):
    """A replay buffer that rollouts go into; its contents are saved beside the checkpoint, in the run directory."""

    config: ReplayData
    buffer: ReplayBuffer
    _files: RingFiles

    def open_buffer(self, gamma: float, device: torch.device) -> None:
        """Make the buffer; called by the agent before the first chunk, since the discount belongs to the agent."""
        seed = ranks.rank_seed(derive_seed(self.seed, "replay"), "replay")
        self.buffer = ReplayBuffer(self.config.replay, gamma, self.spec, self.config.num_envs, seed, device)
        if self.folder is not None:
            folder = self.folder / folder_name(ranks.rank(), ranks.num_ranks())
            self._files = RingFiles(folder, self.buffer.rings)

    @property
    def ready(self) -> bool:
        """Whether updates may begin."""
        buffer = self.buffer
        return buffer.rows_written * self.config.num_envs >= self.config.learning_starts and len(buffer) > 0

    def collect(self, policy: Policy, policy_version: int = 0) -> Rollout:
        """Collect `num_steps` steps of each environment into the buffer."""
        rollout = self.collector.collect(policy, self.config.num_steps, policy_version)
        self.buffer.extend(rollout)
        return rollout

    def sample(self, batch_size: int, num_batches: int, progress: float = 0.0) -> Transition:
        """K batches at once (K, B, ...); `progress` through the budget sets the importance weights' exponent."""
        priority = self.config.replay.priority
        return self.buffer.sample(batch_size, num_batches, priority.beta(progress) if priority else 1.0)

    def sample_sequences(self, batch_size: int, length: int) -> Sequences:
        """B stretches of successive steps (L, B, ...)."""
        return self.buffer.sample_sequences(batch_size, length)

    def update_priorities(self, index: Tensor, td_error: Tensor) -> None:
        """Take back the TD errors (B,) of a batch that was drawn by priority."""
        self.buffer.update_priorities(index, td_error)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"buffer": self.buffer.state_dict(), "replay": self._files.save()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._files.load(state_dict["replay"])
        self.buffer.load_state_dict(state_dict["buffer"])

    def load_state_dicts(self, states: Sequence[dict[str, Any]]) -> None:
        """The environments' columns are divided anew; replay that keeps single frames starts empty."""
        super().load_state_dicts(states)
        if not self.buffer.in_columns:
            log.warning("replay of single frames cannot be divided among another number of workers; it starts empty")
            return
        folders = [self._files.folder.parent / folder_name(rank, len(states)) for rank in range(len(states))]
        columns = ranks.shard(self.config.num_envs * ranks.num_ranks())
        self._files.load_columns(folders, [state["replay"] for state in states], columns)
        self.buffer.take_over([state["buffer"] for state in states])

    def on_saved(self) -> None:
        self._files.remove_unneeded()
