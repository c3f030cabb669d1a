"""Baselines, whole episodes, V-trace, normalisation, and exact resume of policy-gradient agents."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from agents.algorithms.agent import Agent
from agents.algorithms.impala import ImpalaConfig
from agents.algorithms.policy_gradient import Baseline, PolicyGradient, PolicyGradientConfig, baseline_of
from agents.algorithms.studies.gradient_variance import VarianceStudyConfig
from agents.experience.data import OnPolicyData, OnPolicyExperience
from agents.policies.normalization import ObsNormalizer, RewardScaler
from agents.returns import discounted_returns
from lab.backbones import BackboneConfig
from lab.config import recipes
from lab.config.overrides import override
from lab.errors import UserError
from lab.runs import checkpoint
from lab.training.train import train

MLP = BackboneConfig("mlp", hidden=(8,), activation="tanh")


def build(num_envs: int = 4, num_steps: int = 20, **fields: Any) -> tuple[PolicyGradient, OnPolicyExperience]:
    torch.manual_seed(0)
    whole = fields.get("baseline", "value") != "value"
    data = OnPolicyData(env="CartPole-v1", num_envs=num_envs, num_steps=num_steps, whole_episodes=whole).build(seed=0)
    return PolicyGradientConfig(backbone=MLP, **fields).build(data.spec), data


RETURNS = torch.tensor([[4.0, 7.0, 1.0], [3.0, 5.0, 0.0]])  # three episodes, the last of one step
VALID = torch.tensor([[True, True, True], [True, True, False]])


def test_baselines_are_what_they_say() -> None:
    assert torch.equal(baseline_of("none", RETURNS, VALID, 9.0), torch.zeros(2, 3))
    assert torch.equal(baseline_of("moving_average", RETURNS, VALID, 9.0), torch.full((2, 3), 9.0))
    torch.testing.assert_close(baseline_of("batch_mean", RETURNS, VALID, None)[:, 0], torch.tensor([4.0, 8 / 3]))
    expected = torch.tensor([[4.0, 2.5, 5.5], [2.5, 1.5, 4.0]])  # means of the other two
    torch.testing.assert_close(baseline_of("leave_one_out", RETURNS, VALID, None), expected)
    with pytest.raises(UserError, match="num_envs"):
        baseline_of("leave_one_out", RETURNS[:, :1], VALID[:, :1], None)
    with pytest.raises(UserError, match=r"Did you mean 'batch_mean'.*leave_one_out"):
        baseline_of("batch_means", RETURNS, VALID, None)


def test_the_batch_mean_shrinks_leave_one_out_by_its_own_share() -> None:
    mean = RETURNS - baseline_of("batch_mean", RETURNS, VALID, None)
    others = RETURNS - baseline_of("leave_one_out", RETURNS, VALID, None)
    torch.testing.assert_close(mean, others * 2 / 3)


@pytest.mark.parametrize("baseline", ["none", "moving_average", "batch_mean", "leave_one_out", "value"])
def test_the_gradient_is_the_sum_of_score_times_advantage(baseline: Any) -> None:
    agent, data = build(baseline=baseline, gamma=0.9, value_coef=0.0)
    agent.mean_return = 3.0
    rollout = agent.collect(data)
    loss = agent.loss(agent.batch(rollout)).value
    got = torch.autograd.grad(loss, list(agent.policy.actor.parameters()))
    assert isinstance(rollout.obs, Tensor)
    num_steps, num_envs = rollout.reward.shape
    returns = torch.zeros(num_steps + 1, num_envs)
    values = torch.zeros(num_steps, num_envs)
    following = torch.zeros(num_steps, num_envs)
    if baseline == "value":
        assert isinstance(rollout.next_obs, Tensor)
        with torch.no_grad():
            values, following = (
                agent.policy.evaluate(obs.flatten(0, 1))[1].view(num_steps, num_envs)  # type: ignore[union-attr]
                for obs in (rollout.obs, rollout.next_obs)
            )
    for t in reversed(range(num_steps)):
        after = torch.where(rollout.truncated[t], following[t], returns[t + 1])
        if t == num_steps - 1:
            after = following[t]
        returns[t] = rollout.reward[t] + 0.9 * after * ~rollout.terminated[t]
    held = values if baseline == "value" else baseline_of(baseline, returns[:-1], rollout.valid, 3.0)
    total = torch.zeros(())
    for t in range(num_steps):
        for n in range(num_envs):
            if rollout.valid[t, n]:
                logits, _ = agent.policy.evaluate(rollout.obs[t, n][None])
                log_prob = logits.log_softmax(-1)[0, rollout.action[t, n]]
                total = total - log_prob * float(returns[t, n] - held[t, n]) / rollout.num_env_steps
    expected = torch.autograd.grad(total, list(agent.policy.actor.parameters()))
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, atol=1e-5, rtol=1e-3)


def test_monte_carlo_baselines_need_whole_episodes() -> None:
    agent, _ = build(baseline="none")
    data = OnPolicyData(env="CartPole-v1", num_envs=2).build(seed=0)
    with pytest.raises(UserError, match=r"data\.whole_episodes=true"):
        agent.training_step(data)


def test_baselines_lower_the_variance_and_keep_the_expectation() -> None:
    torch.manual_seed(0)
    data = OnPolicyData(env="CartPole-v1", num_envs=4, num_steps=60, whole_episodes=True).build(seed=0)
    study = VarianceStudyConfig(backbone=MLP, study_episodes=200, group_sizes=(2, 4)).build(data.spec)
    study.training_step(data)
    study.mean_return = 11.0
    measured = study.study(data)
    for size in (2, 4):
        none = measured["none", size]
        assert measured["leave_one_out", size].variance < 0.9 * none.variance
        assert measured["moving_average", size].variance < 0.9 * none.variance
        for baseline in ("moving_average", "leave_one_out", "value"):
            assert measured[baseline, size].deviation < 1.2, baseline
        assert 0 < measured["none", size].variance_error < measured["none", size].variance
    assert measured["none", 4].variance == pytest.approx(measured["none", 2].variance / 2, rel=0.5)


def test_the_study_takes_the_gradient_of_every_group() -> None:
    torch.manual_seed(0)
    data = OnPolicyData(env="CartPole-v1", num_envs=4, num_steps=40, whole_episodes=True).build(seed=0)
    study = VarianceStudyConfig(backbone=MLP, study_episodes=7, group_sizes=(3,), normalize_rewards=True).build(
        data.spec
    )
    study.training_step(data)
    assert study.mean_return is not None  # of the training episodes, whose baseline is the learned value
    seen = study._episodes(data)
    zero = torch.zeros_like(seen.reward)
    returns = discounted_returns(seen.reward * seen.valid, seen.terminated, seen.truncated, zero, study.config.gamma)
    gradients = study._gradients(seen, returns, 3)
    assert gradients.shape[:2] == (2, 5)  # the seventh episode is left out
    parameters = [*study.policy.actor.parameters(), *study.policy.action_head.parameters()]
    for group, columns in enumerate((slice(0, 3), slice(3, 6))):
        valid = seen.valid[:, columns]
        logits = study.policy.action_parameters(study.policy.actor.backbone(seen.x[:, columns].flatten(0, 1)))
        log_prob = logits.log_softmax(-1).gather(1, seen.action[:, columns].reshape(-1, 1)).view(valid.shape)
        for k, baseline in enumerate(get_args(Baseline)):
            g = returns[:, columns]
            value = baseline == "value"
            held = seen.values[:, columns] if value else baseline_of(baseline, g, valid, study.mean_return)
            loss = -(log_prob * (g - held) * valid).sum() / 3
            expected = torch.autograd.grad(loss, parameters, retain_graph=True)
            got = gradients[group, k].split([p.numel() for p in parameters])
            for mine, theirs in zip(got, expected, strict=True):
                torch.testing.assert_close(mine, theirs.flatten(), atol=1e-4, rtol=1e-3)


def test_a_study_without_two_groups_of_a_size_is_refused() -> None:
    _, data = build()
    with pytest.raises(UserError, match="study_episodes=30"):
        VarianceStudyConfig(backbone=MLP, study_episodes=30, group_sizes=(2, 16)).build(data.spec)
    with pytest.raises(UserError, match="'lstm'"):
        VarianceStudyConfig(backbone=BackboneConfig("lstm")).build(data.spec)


# ------------------------------------------------------------------ V-trace


def test_vtrace_of_the_acting_policy_is_plain_actor_critic() -> None:
    _, data = build()
    agent = ImpalaConfig(backbone=MLP, trace_lambda=0.9).build(data.spec)
    rollout = agent.collect(data)
    torch.testing.assert_close(rollout.extras["log_prob"], agent.evaluate_rollout(rollout).log_prob)
    assert float(agent.batch(rollout).mean_rho) == pytest.approx(1.0, abs=1e-5)


def test_stale_rollouts_wait_and_are_saved_with_the_run() -> None:
    _, data = build()
    agent = ImpalaConfig(backbone=MLP, staleness=3).build(data.spec)
    agent.set_engine("eager")
    for _ in range(5):
        metrics = agent.training_step(data)
    assert metrics["charts/policy_lag"] == 1.0  # two updates so far, this rollout was acted before any
    assert len(agent.queue) == 3
    twin = ImpalaConfig(backbone=MLP, staleness=3).build(data.spec)
    twin.load_train_state(agent.train_state())
    for waiting, expected in zip(twin.queue, agent.queue, strict=True):
        assert torch.equal(waiting.extras["log_prob"], expected.extras["log_prob"])


# ------------------------------------------------------------------ normalisation


def test_running_moments_are_those_of_everything_seen() -> None:
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 4 + 7
    normalizer = ObsNormalizer((3,))
    for piece in x.split([100, 1, 0, 399]):
        normalizer.update(piece)
    torch.testing.assert_close(normalizer.mean.float(), x.mean(0))
    torch.testing.assert_close(normalizer.var.float(), x.var(0, correction=0))
    torch.testing.assert_close(normalizer(x), (x - x.mean(0)) / x.std(0, correction=0), atol=1e-4, rtol=1e-4)


def test_rewards_are_scaled_by_the_deviation_of_the_discounted_return() -> None:
    generator = torch.Generator().manual_seed(0)
    reward = torch.randn(40, 3, generator=generator)
    start = torch.rand(40, 3, generator=generator) < 0.2
    valid = torch.rand(40, 3, generator=generator) < 0.9
    scaler = RewardScaler(0.9)
    scaler(reward[:25], start[:25], valid[:25])
    got = scaler(reward[25:], start[25:], valid[25:])
    seen = []
    for n in range(3):
        running = 0.0
        for t in range(40):
            running = float(reward[t, n]) + (0.0 if start[t, n] else 0.9 * running)
            if valid[t, n]:
                seen.append(running)
    torch.testing.assert_close(got, reward[25:] / torch.tensor(seen).std(correction=0), atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------ exact resume

RUNS = {
    "pg": ("pg/cartpole", ["data.num_envs=8"]),
    "a2c": ("pg/a2c-cartpole", ["data.num_envs=8", "module.optimizer.name=rmsprop"]),
    "ppo_lstm": ("ppo/cartpole-positions", ["data.num_steps=32", "module.backbone.hidden=8"]),
    "ppo_pendulum": ("ppo/pendulum", ["data.num_envs=4", "data.num_steps=64"]),
    "impala": ("impala/cartpole", ["data.num_envs=8"]),
}


def experiment_of(name: str, budget: int) -> Any:
    recipe, overrides = RUNS[name]
    common = [f"trainer.budget={budget}", "trainer.eval_period=1000000", "tracking.mode=disabled", "data.rounds=2"]
    return override(recipes.find(recipe)(), [*overrides, *common])


def weights_of(run: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = checkpoint.load(run / "checkpoints" / "last.ckpt")["state_dict"]
    return state


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Agent, "eval_episodes", 1)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(experiment_of(name, 2_000), run_dir=whole)
    stopped = train(experiment_of(name, 2_000), run_dir=halves, on_loop=lambda loop: loop.ask_to_stop())
    assert stopped.status == "interrupted"
    assert train(experiment_of(name, 2_000), resume=stopped.run).status == "completed"
    expected, got = weights_of(whole), weights_of(halves)
    assert all(torch.equal(got[key], value) for key, value in expected.items())


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = ["trainer.budget=16000", "trainer.eval_period=1000000", "tracking.mode=disabled", "data.rounds=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lab.cli", "train", "ppo/cartpole", *words, "trainer.checkpoint_seconds=0.05"]
    process = subprocess.Popen([*command, "--quiet", "--out", str(killed)], env=environment)
    while process.poll() is None and not (killed / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = checkpoint.load(killed / "checkpoints" / "last.ckpt")["counters"]["env_steps"]
    assert before < 16_000, "it was killed too late to show anything"
    subprocess.run([sys.executable, "-m", "lab.cli", "resume", str(killed), "--quiet"], env=environment, check=True)
    subprocess.run([*command, "--quiet", "--out", str(whole)], env=environment, check=True)
    expected, got = weights_of(whole), weights_of(killed)
    assert all(torch.equal(got[key], value) for key, value in expected.items())
    steps = [json.loads(line)["env_steps"] for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
