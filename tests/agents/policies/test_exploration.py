"""How value-based agents explore: when random actions are drawn, and that every agent holds them as configured."""

from __future__ import annotations

import pytest
import torch

from agents.policies.exploration import exploration_noise
from lab.config.overrides import resolve


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_noise_is_drawn_anew_at_each_step_unless_actions_are_held() -> None:
    noise = exploration_noise(50, 4, 1, generator())
    assert torch.equal(noise, torch.rand(50, 4, 2, generator=generator()))


@pytest.mark.parametrize("num_steps", [1, 7, 30])
def test_held_noise_changes_every_so_many_steps_and_ends_with_the_rollout(num_steps: int) -> None:
    noise = exploration_noise(num_steps, 3, 7, generator())
    assert noise.shape == (num_steps, 3, 2)
    for t in range(1, num_steps):
        assert torch.equal(noise[t], noise[t - 1]) == (t % 7 != 0)
    assert len(noise[0].unique()) == 6  # each environment has its own


@pytest.mark.parametrize("recipe", ["dqn/mountain-car", "q-learning/taxi", "recurrent-q/cartpole-positions"])
def test_every_agent_holds_random_actions_as_configured(recipe: str) -> None:
    experiment = resolve(recipe, ["module.epsilon.hold=5"])
    data = experiment.data.build(0)
    policy = experiment.module.build(data.spec).policy
    data.close()
    noise = policy.draw_noise(10, 2, generator())[..., :2]
    assert torch.equal(noise[:5], noise[:1].expand(5, -1, -1))
    assert not (noise[5] == noise[4]).any()
