"""Tabular Q-learning against hand computation and value iteration."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.algorithms.q_learning import QLearning, QLearningConfig
from agents.algorithms.recipes.q_learning import frozen_lake
from agents.types import Rollout
from lab.config.overrides import override
from lab.data.spec import DataSpec, Discrete, TensorSpec
from lab.errors import UserError
from lab.training.restore import restore
from lab.training.train import train

SPEC = DataSpec(TensorSpec((), torch.int64, 0, 2), actions=Discrete(2))


def rollout(**columns: list[list[float]]) -> Rollout:
    kinds = {"reward": torch.float32, "terminated": torch.bool, "truncated": torch.bool, "valid": torch.bool}
    tensors = {key: torch.tensor(value, dtype=kinds.get(key, torch.int64)) for key, value in columns.items()}
    start = torch.zeros_like(tensors["valid"])
    return Rollout(**tensors, start=start, first_state=None, extras={}, episodes=[], policy_version=0)


def test_updates_go_step_by_step() -> None:
    agent = QLearning(QLearningConfig(alpha=0.5, gamma=0.9), SPEC)
    agent.policy.table.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    agent.update(
        rollout(
            obs=[[0], [1], [2], [0], [0]],
            action=[[1], [0], [1], [0], [1]],
            reward=[[1.0], [0.0], [2.0], [0.0], [9.0]],
            terminated=[[0], [0], [1], [0], [0]],
            truncated=[[0], [0], [0], [1], [0]],
            next_obs=[[1], [0], [0], [1], [2]],
            valid=[[1], [1], [1], [1], [0]],
        )
    )
    q01 = 2 + 0.5 * (1 + 0.9 * 4 - 2)
    q10 = 3 + 0.5 * (0 + 0.9 * q01 - 3)  # sees the update before it
    q21 = 6 + 0.5 * (2 - 6)  # terminated: no bootstrap
    q00 = 1 + 0.5 * (0 + 0.9 * 4 - 1)  # truncated: bootstrap
    torch.testing.assert_close(agent.policy.table.data, torch.tensor([[q00, q01], [q10, 4.0], [5.0, q21]]))
    assert agent.counters["updates"] == 4


def optimal_values(env: Any, gamma: float) -> np.ndarray[Any, Any]:
    """Value iteration on the environment's own transition table."""
    model = env.unwrapped.P
    values = np.zeros(len(model))
    for _ in range(2000):
        values = np.array(
            [
                max(sum(p * (r + gamma * values[s] * (not d)) for p, s, r, d in model[i][a]) for a in model[i])
                for i in model
            ]
        )
    return values


@pytest.mark.slow
def test_learns_the_optimal_values_of_a_lake_that_is_not_slippery() -> None:
    experiment = override(
        frozen_lake(),
        [
            "data.env_options.is_slippery=false",
            "module.epsilon.end=1.0",
            "module.alpha=0.5",
            "trainer.budget=20000",
            "tracking.mode=disabled",
        ],
    )
    result = train(experiment)
    assert result.best is not None
    assert result.best["value"] == 1.0
    table = restore(result.run, "last")[2].policy.table  # type: ignore[union-attr]
    optimal = optimal_values(gym.make("FrozenLake-v1", is_slippery=False), 0.99)
    np.testing.assert_allclose(table.max(-1).values.numpy(), optimal, atol=0.01)  # type: ignore[operator,union-attr]


def test_other_observations_are_refused() -> None:
    with pytest.raises(UserError, match="numbered states"):
        QLearningConfig().build(DataSpec(TensorSpec((4,)), actions=Discrete(2)))
