"""PPO: its first gradient is the policy gradient, clipping, early stopping, minibatches, schedules."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from agents.algorithms.impala import ImpalaConfig
from agents.algorithms.policy_gradient import PolicyGradientConfig
from agents.algorithms.ppo import PPO, PPOConfig, PPOMinibatch, normalized
from agents.experience.data import OnPolicyData, OnPolicyExperience
from agents.types import Rollout
from lab.backbones import BackboneConfig
from lab.config.overrides import resolve
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.training.train import train

MLP = BackboneConfig("mlp", hidden=(16,), activation="tanh")
GRU = BackboneConfig("gru", hidden=8)


def build(backbone: BackboneConfig = MLP, num_steps: int = 32, **fields: Any) -> tuple[PPO, OnPolicyExperience]:
    torch.manual_seed(1)
    data = OnPolicyData(env="CartPole-v1", num_envs=4, num_steps=num_steps).build(seed=0)
    return PPOConfig(backbone=backbone, **fields).build(data.spec), data


def batch_of(agent: PPO, rollout: Rollout, advantages: Tensor | None = None) -> PPOMinibatch:
    """What `minibatches` takes, with advantages of ones unless given."""
    evaluated = agent.evaluate_rollout(rollout)
    coefficients = torch.tensor([0.8, 1.2, 0.0]).unbind()
    return PPOMinibatch(
        **agent.sequences(
            rollout,
            x=evaluated.x,
            action=evaluated.action,
            old_log_prob=evaluated.log_prob,
            old_values=evaluated.values,
            returns=evaluated.values,
            advantages=torch.ones_like(evaluated.values) if advantages is None else advantages,
            weights=evaluated.valid.float(),
        ),
        **dict(zip(("clip_low", "clip_high", "entropy_coef"), coefficients, strict=True)),
    )


def recorded_updates(agent: PPO) -> list[PPOMinibatch]:
    """The minibatches that the agent updates by from now on; nothing is learned from them."""
    batches: list[PPOMinibatch] = []
    agent.updater.step = lambda batch: batches.append(batch) or ({}, {})  # type: ignore[method-assign, func-returns-value]
    return batches


@pytest.mark.parametrize("backbone", [MLP, GRU], ids=["mlp", "gru"])
@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
def test_the_first_gradient_is_the_policy_gradient(backbone: BackboneConfig, entropy_coef: float) -> None:
    common: dict[str, Any] = {"gae_lambda": 0.9, "entropy_coef": entropy_coef, "backbone": backbone}
    ppo, data = build(minibatch_size=10_000, normalize_advantages="no", **common)
    rollout = ppo.collect(data)
    plain = PolicyGradientConfig(**common).build(data.spec)
    plain.load_state_dict(ppo.state_dict())
    for agent in (ppo, plain):
        agent.set_engine("eager")
    batches = recorded_updates(ppo)
    ppo.config.__dict__["epochs"] = 1
    ppo.learn(rollout, data)
    loss = ppo.loss(batches[0]).value
    expected = plain.loss(plain.batch(rollout)).value
    parameters, plain_parameters = list(ppo.policy.parameters()), list(plain.policy.parameters())
    for got, want in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, plain_parameters), strict=True
    ):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("backbone", [MLP, GRU], ids=["mlp", "gru"])
@pytest.mark.parametrize("value_clip", [None, 0.1])
@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
def test_the_linearized_loss_has_the_gradient_and_the_metrics_of_the_papers(
    backbone: BackboneConfig, value_clip: float | None, entropy_coef: float
) -> None:
    agent, data = build(backbone, value_clip=value_clip, entropy_coef=entropy_coef)
    batch = batch_of(agent, rollout := agent.collect(data), torch.randn_like(rollout.reward))
    scatter = torch.Generator().manual_seed(0)
    batch = batch._replace(
        old_log_prob=batch.old_log_prob + 0.3 * torch.randn(batch.x.shape[:-1], generator=scatter),
        old_values=batch.old_values + 0.3 * torch.randn(batch.x.shape[:-1], generator=scatter),
        returns=batch.returns + torch.randn(batch.x.shape[:-1], generator=scatter),
        weights=batch.weights / batch.weights.sum(),
        entropy_coef=torch.tensor(entropy_coef),
    )
    (loss, metrics, _), (linear, linear_metrics, _) = agent.loss(batch), agent.linearized_loss(batch)
    assert 0.2 < float(metrics["clip_fraction"]) < 0.8
    torch.testing.assert_close(linear_metrics, metrics)
    parameters = list(agent.policy.parameters())
    expected = torch.autograd.grad(loss, parameters)
    for gradient, paper in zip(torch.autograd.grad(linear, parameters), expected, strict=True):
        torch.testing.assert_close(gradient, paper, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("advantage", "moved"), [(1.0, 0.5), (-1.0, -0.5)])
def test_a_ratio_that_left_the_clip_range_the_good_way_has_no_gradient(advantage: float, moved: float) -> None:
    agent, data = build(value_coef=0.0)
    rollout = agent.collect(data)
    batch = batch_of(agent, rollout, torch.full_like(rollout.reward, advantage))
    outside = batch._replace(old_log_prob=batch.old_log_prob - moved)  # the ratio is exp(moved)
    loss, metrics, _ = agent.loss(outside)
    assert all(not g.any() for g in torch.autograd.grad(loss, agent.policy.actor.parameters(), retain_graph=True))
    assert float(metrics["clip_fraction"] / batch.weights.sum()) == pytest.approx(1.0, abs=1e-5)
    loss = agent.loss(batch._replace(old_log_prob=batch.old_log_prob + moved)).value  # it must come back
    assert any(g.any() for g in torch.autograd.grad(loss, agent.policy.actor.parameters()))


def test_a_clipped_value_that_is_better_than_the_clip_range_has_no_gradient() -> None:
    agent, data = build(value_clip=0.1)
    batch = batch_of(agent, agent.collect(data))
    batch = batch._replace(
        returns=batch.returns + 1.0,  # they lie above the values
        old_values=batch.old_values - 0.5,  # far below: values have moved up beyond the range already
    )
    loss = agent.loss(batch).value
    assert agent.policy.critic is not None
    assert all(not g.any() for g in torch.autograd.grad(loss, agent.policy.critic.parameters()))


def test_epochs_end_when_the_policy_has_moved_far_enough() -> None:
    quick = OptimizerConfig(lr=0.005)
    agent, data = build(epochs=20, target_kl=0.01, optimizer=quick, minibatch_size=10_000)
    rows = agent.learn(agent.collect(data), data)
    assert 1 < len(rows) < 20
    assert all(float(row["approx_kl"]) <= 0.015 for row in rows)
    agent, data = build(epochs=20, optimizer=quick, minibatch_size=10_000)
    assert len(agent.learn(agent.collect(data), data)) == 20


@pytest.mark.parametrize("engine", ["eager", "traced"])
def test_no_update_is_made_once_the_policy_has_moved_far_enough(engine: Literal["eager", "traced"]) -> None:
    """Looked at before every minibatch, not once an epoch: the weights are those before the violation."""
    settings: dict[str, Any] = {"optimizer": OptimizerConfig(lr=0.02), "minibatch_size": 16, "epochs": 20}
    limited, data = build(target_kl=0.01, **settings)
    free = PPOConfig(backbone=MLP, **settings).build(data.spec)
    free.load_state_dict(limited.state_dict())
    rollout = limited.collect(data)
    seen: list[float] = []
    weights: list[Tensor] = []
    update = free.update

    def watched(batch: PPOMinibatch) -> Any:
        weights.append(next(free.policy.parameters()).detach().clone())
        metrics = update(batch)
        seen.append(float(metrics["approx_kl"]))
        return metrics

    free.update = watched  # type: ignore[method-assign]
    for agent in (limited, free):
        agent.set_engine(engine)
        torch.manual_seed(7)
        agent.learn(rollout, data)
    first = next(i for i, approx_kl in enumerate(seen) if approx_kl > 0.015)
    assert first % 8  # in the middle of an epoch
    assert limited.counters["updates"] == limited.updater.num_updates == first
    torch.testing.assert_close(next(limited.policy.parameters()), weights[first])


@pytest.mark.parametrize("num_invalid", [0, 1, 50, 127])
@pytest.mark.parametrize("minibatch_size", [1, 3, 32, 48, 85, 127, 1000])
def test_minibatches_hold_every_valid_row_once(minibatch_size: int, num_invalid: int) -> None:
    agent, data = build(minibatch_size=minibatch_size)
    rollout = agent.collect(data)
    rollout.valid.view(-1)[:] = torch.randperm(128) >= num_invalid
    batch = batch_of(agent, rollout, torch.randn_like(rollout.reward))
    minibatches = list(agent.minibatches(batch))
    rows = torch.cat([minibatch.x[minibatch.weights > 0] for minibatch in minibatches])
    assert sorted(rows.tolist()) == sorted(batch.x[batch.weights > 0].tolist())
    for minibatch in minibatches:
        weights, advantages = minibatch.weights, minibatch.advantages
        num_valid = int((weights > 0).sum())
        assert num_valid
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)
        assert float((weights * advantages).sum()) == pytest.approx(0.0, abs=1e-5)
        assert float((weights * advantages.square()).sum()) == pytest.approx(float(num_valid > 1), abs=1e-3)
    assert len(minibatches) == -(-(128 - num_invalid) // min(minibatch_size, 128))
    assert len({len(minibatch.x) for minibatch in minibatches}) == 1


def test_recurrent_sequences_without_a_valid_row_are_left_out() -> None:
    agent, data = build(GRU, sequence_length=2, minibatch_size=6, epochs=1)
    rollout = agent.collect(data)
    rollout.valid[:] = True
    rollout.valid[4:30] = False
    batch = batch_of(agent, rollout)
    minibatches = list(agent.minibatches(batch))
    assert [bool(minibatch.weights.any()) for minibatch in minibatches] == [True] * 4  # 3 x 4 sequences, 3 at a time
    assert sum(int((minibatch.weights > 0).sum()) for minibatch in minibatches) == 24
    assert all(torch.isfinite(metrics["policy_loss"]) for metrics in agent.learn(rollout, data))


@pytest.mark.parametrize("config", [PPOConfig, PolicyGradientConfig, ImpalaConfig])
@pytest.mark.parametrize("normalize_obs", [False, True])
def test_a_rollout_of_resets_alone_changes_nothing(config: Any, normalize_obs: bool) -> None:
    data = OnPolicyData(env="CartPole-v1", num_envs=4, num_steps=1).build(seed=0)
    options = {"staleness": 0} if config is ImpalaConfig else {}
    agent = config(backbone=MLP, normalize_obs=normalize_obs, normalize_rewards=True, **options).build(data.spec)
    rollout = agent.collect(data)
    rollout = rollout._replace(valid=torch.zeros_like(rollout.valid))
    before = {key: value.clone() for key, value in agent.state_dict().items()}
    assert agent.learn(rollout, data) == []
    assert agent.counters["updates"] == 0
    for key, value in agent.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.slow
def test_a_remainder_of_resets_trains(tmp_path: Path) -> None:
    """256 = 3 x 85 + 1: the last minibatch was a single row, now and then one that only resets."""
    words = ["module.minibatch_size=85", "trainer.budget=6000", "trainer.eval_period=6000", "tracking.mode=disabled"]
    result = train(resolve("ppo/cartpole", words), run_dir=tmp_path / "run")
    assert all(math.isfinite(row["losses/policy_loss"]) for row in result.run.metrics() if "losses/policy_loss" in row)


def test_recurrent_minibatches_are_whole_sequences_with_the_state_before_them() -> None:
    agent, data = build(GRU, sequence_length=8, minibatch_size=32, shared_backbone=True, epochs=1)
    agent.collect(data)
    rollout = agent.collect(data)
    evaluated = agent.evaluate_rollout(rollout)
    batch = batch_of(agent, rollout)
    assert batch.x.shape[:2] == (8, 16)  # 4 environments x 32 steps

    def log_prob_and_values(batch: PPOMinibatch) -> tuple[Tensor, Tensor | None]:
        parameters, values = agent.policy.evaluate(batch.x, batch.state, batch.start)
        return agent.policy.distribution.log_prob_entropy(parameters, batch.action)[0], values

    log_prob, values = log_prob_and_values(batch)
    torch.testing.assert_close(log_prob, batch.old_log_prob, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(values, batch.old_values, atol=1e-5, rtol=1e-5)
    assert torch.equal(torch.sort(batch.old_values.flatten())[0], torch.sort(evaluated.values.flatten())[0])
    minibatches = list(agent.minibatches(batch))
    assert len(minibatches) == 4
    for minibatch in minibatches:
        torch.testing.assert_close(log_prob_and_values(minibatch)[0], minibatch.old_log_prob)
    assert agent.learn(rollout, data)


def test_advantages_are_normalised_over_what_counts() -> None:
    advantages, weights = torch.tensor([[1.0, 2.0, 3.0, 100.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    got = normalized(advantages, weights)[0, :3]
    torch.testing.assert_close(got, torch.tensor([-(1.5**0.5), 0.0, 1.5**0.5]))


def test_clip_entropy_and_learning_rate_follow_their_schedules() -> None:
    linear = ScheduleConfig(name="linear")
    agent, data = build(
        entropy_coef=0.5, entropy_schedule=linear, clip_schedule=linear, optimizer=OptimizerConfig(schedule=linear)
    )
    batches = recorded_updates(agent)
    agent.set_progress(0.75)
    agent.learn(agent.collect(data), data)
    coefficients = [float(c) for c in (batches[0].clip_low, batches[0].clip_high, batches[0].entropy_coef)]
    assert coefficients == pytest.approx([0.95, 1.05, 0.125])
    assert agent.updater.optimizer.param_groups[0]["lr"] == pytest.approx(0.25 * agent.config.optimizer.lr)
