"""Actors in arrays act as the policy does; a rollout evaluated in one pass is what stepping through it gives."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from agents.algorithms.actor_critic_agent import ActorCriticAgent, power_of_two
from agents.algorithms.impala import ImpalaConfig
from agents.algorithms.policy_gradient import PolicyGradientConfig
from agents.algorithms.ppo import PPOConfig
from agents.experience.data import OnPolicyData, OnPolicyExperience
from agents.policies.actor_critic import ArrayActor
from lab.backbones import BackboneConfig

MLP = BackboneConfig("mlp", hidden=(16, 8), activation="tanh")


def build(config: Any, env: str = "CartPole-v1", num_envs: int = 3, **data: Any) -> tuple[Any, OnPolicyExperience]:
    torch.manual_seed(0)
    experience = OnPolicyData(env=env, num_envs=num_envs, **data).build(seed=0)
    agent: ActorCriticAgent = config.build(experience.spec)
    for p in agent.policy.parameters():  # far from the start, where actions hardly depend on observations
        p.data += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    return agent, experience


@pytest.mark.parametrize("normalize_obs", [False, True])
@pytest.mark.parametrize(
    ("env", "distribution"),
    [("CartPole-v1", "gaussian"), ("Pendulum-v1", "gaussian"), ("Pendulum-v1", "squashed_gaussian")],
)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_array_actors_act_as_the_policy_does(env: str, distribution: Any, normalize_obs: bool, activation: str) -> None:
    backbone = BackboneConfig("mlp", hidden=(16, 8), activation=activation)
    config = PPOConfig(
        backbone=backbone, action_distribution=distribution, normalize_obs=normalize_obs, log_std_init=-0.5
    )
    agent, experience = build(config, env)
    policy, spec = agent.policy, experience.spec.inputs
    generator = torch.Generator().manual_seed(2)
    obs = 3 * torch.randn(20, 3, *spec.shape, generator=generator) + 1
    if normalize_obs:
        policy.normalizer.update(obs.flatten(0, 1))
    noise = policy.draw_noise(20, 3, generator)
    actor = policy.array_actor(noise)
    assert isinstance(actor, ArrayActor)
    with torch.no_grad():
        for t in range(18):
            expected = policy.act(obs[t], None, noise[t]).action
            got = actor(t, obs[t].numpy())
            np.testing.assert_allclose(got, policy.env_action(expected).numpy(), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(actor.actions()[t], expected, rtol=1e-4, atol=1e-5)
    assert len(actor.actions()) == 18


class FarEnv(gym.Env[Any, Any]):
    """CartPole whose observations are float64 and stand at `far`, where float32 numbers lie 8 apart."""

    def __init__(self, far: float) -> None:
        self.env, self.far = gym.make("CartPole-v1"), far
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = self.env.action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed)
        return obs.astype(np.float64) + self.far, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, *rest = self.env.step(action)
        return obs.astype(np.float64) + self.far, *rest  # type: ignore[return-value]


@pytest.mark.parametrize("activation", ["tanh", "gelu"])  # acts in numpy, in torch
def test_observations_of_double_precision_are_normalised_before_they_lose_digits(activation: str) -> None:
    gym.register("Far-v0", FarEnv)
    try:
        config = PPOConfig(backbone=BackboneConfig("mlp", hidden=(16,), activation=activation), normalize_obs=True)
        runs = {}
        for far in (0.0, 1e8):
            agent, experience = build(config, "Far-v0", num_steps=64, env_options={"far": far})
            obs = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 4))) + far
            agent.policy.normalizer.update(obs)
            runs[far] = experience.collector.collect(agent.policy, 64), agent.policy.normalized(obs)
    finally:
        del gym.registry["Far-v0"]
    (near, near_x), (far_away, far_x) = runs.values()
    torch.testing.assert_close(far_x, near_x, rtol=0, atol=1e-6)
    assert far_x.dtype == torch.float32
    assert torch.equal(far_away.action, near.action)
    torch.testing.assert_close(far_away.obs - 1e8, near.obs, rtol=0, atol=1e-7)


def test_array_actors_follow_the_parameters() -> None:
    agent, _ = build(PPOConfig(backbone=MLP))
    noise = torch.zeros(2, 3, 2)
    actor = agent.policy.array_actor(noise)
    obs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    before = actor(0, obs.numpy()).copy()
    with torch.no_grad():
        agent.policy.action_head.weight.neg_()
        agent.policy.action_head.bias.neg_()
    assert (actor(1, obs.numpy()) != before).all()


@pytest.mark.parametrize(
    "config",
    [PPOConfig(backbone=BackboneConfig("lstm", hidden=8)), ImpalaConfig(backbone=MLP)],  # V-trace notes probabilities
)
def test_other_policies_act_in_torch(config: Any) -> None:
    agent, _ = build(config)
    assert agent.policy.array_actor(agent.policy.draw_noise(2, 3, torch.Generator())) is None


# ------------------------------------------------------------------ one pass


def slowly(agent: ActorCriticAgent, rollout: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, values and the successors' values (T, N) one step and environment at a time."""
    policy, (num_steps, num_envs) = agent.policy, rollout.reward.shape
    found = [torch.zeros(num_steps, num_envs) for _ in range(3)]
    for n in range(num_envs):
        state = None if rollout.first_state is None else rollout.first_state[:, n : n + 1]
        for t in range(num_steps):
            x = policy.normalized(policy.prepared(rollout.obs[t, n : n + 1]))
            next_x = policy.normalized(policy.prepared(rollout.next_obs[t, n : n + 1]))
            if policy.recurrent:
                assert state is not None
                start = rollout.start[t, n].view(1, 1)
                parameters, values = policy.evaluate(x[None], state, start)
                _, _, state = policy._sequence_features(x[None], state, start)
                _, next_values = policy.evaluate(next_x[None], state, torch.zeros(1, 1, dtype=torch.bool))
            else:
                (parameters, values), (_, next_values) = policy.evaluate(x), policy.evaluate(next_x)
            action = rollout.action[t, n].expand(parameters.shape[:-1])
            found[0][t, n] = policy.distribution.log_prob_entropy(parameters, action)[0].item()
            found[1][t, n], found[2][t, n] = values.item(), next_values.item()  # type: ignore[union-attr]
    return found[0], found[1], found[2]


@pytest.mark.parametrize("engine", ["eager", "auto"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("backbone", ["mlp", "lstm", "gru"])
def test_a_rollout_in_one_pass_is_what_stepping_gives(backbone: str, shared: bool, engine: Any) -> None:
    config = MLP if backbone == "mlp" else BackboneConfig(backbone, hidden=8)
    # episodes of at most 7 steps: some end, some are cut
    agent, experience = build(
        PPOConfig(backbone=config, shared_backbone=shared, normalize_obs=True),
        num_steps=25,
        env_options={"max_episode_steps": 7},
    )
    agent.set_engine(engine)
    agent.policy.normalizer.update(agent.collect(experience).obs.flatten(0, 1))
    rollout = agent.collect(experience)
    assert rollout.start[1:].any()
    assert rollout.truncated[:-1].any()
    seen = agent.evaluate_rollout(rollout)
    with torch.no_grad():
        log_prob, values, next_values = slowly(agent, rollout)
    for got, expected in ((seen.log_prob, log_prob), (seen.values, values)):
        torch.testing.assert_close(got[rollout.valid], expected[rollout.valid], atol=1e-5, rtol=1e-4)
    going = rollout.valid & ~rollout.terminated
    torch.testing.assert_close(seen.next_values[going], next_values[going], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backbone", ["lstm", "gru"])
def test_what_a_recurrent_policy_noted_as_it_acted_is_what_one_pass_gives(backbone: str) -> None:
    agent, experience = build(ImpalaConfig(backbone=BackboneConfig(backbone, hidden=8)), num_steps=40)
    for _ in range(2):
        rollout = agent.collect(experience)
        assert rollout.start[1:].any()
        seen = agent.evaluate_rollout(rollout)
        torch.testing.assert_close(seen.log_prob, rollout.extras["log_prob"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("max_rows", [4096, 64])
def test_whole_episodes_are_recorded_in_few_sizes_and_evaluated_as_they_are(
    max_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.algorithms.actor_critic_agent._MAX_ROWS", max_rows)
    agent, experience = build(PolicyGradientConfig(backbone=MLP), num_steps=100, whole_episodes=True)
    agent.set_engine("auto")
    for _ in range(6):
        rollout = agent.collect(experience)
        recorded = agent.evaluate_rollout(rollout)
        kept, agent._recorded = agent._recorded, None
        eager = agent.evaluate_rollout(rollout)
        agent._recorded = kept
        torch.testing.assert_close(recorded.values, eager.values, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(recorded.log_prob, eager.log_prob, atol=1e-5, rtol=1e-4)
    sizes = [size for _, size, _ in agent._recorded]
    assert all(size == power_of_two(size) <= max_rows for size in sizes)
    assert [power_of_two(n) for n in (1, 2, 3, 8, 9)] == [1, 2, 4, 8, 16]


def test_successors_of_cut_steps_are_recorded_in_one_size() -> None:
    agent, experience = build(PPOConfig(backbone=MLP), num_steps=30, env_options={"max_episode_steps": 7})
    agent.set_engine("auto")
    for _ in range(3):
        assert agent.collect(experience).truncated.sum() > experience.config.num_envs
        agent.evaluate_rollout(agent.collect(experience))
    assert [size for name, size, _ in agent._recorded if name == "values"] == [4]
