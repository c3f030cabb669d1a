"""The networks of supervised learning serve agents, autoencoders and discriminators too: they train, and learn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from agents.algorithms.ppo import PPOConfig
from agents.policies.actor_critic import ActorCritic
from lab.backbones import BackboneConfig
from lab.config.overrides import resolve
from lab.data.spec import DataSpec, Discrete, TensorSpec
from lab.training.train import train
from tests.agents.envs.test_channels_first import Bright

pytestmark = pytest.mark.slow
QUICK = ["trainer.num_threads=1", "tracking.mode=disabled", "trainer.film=false", "trainer.device=cpu"]


@pytest.fixture(autouse=True)
def bright() -> Iterator[None]:
    gym.register("Bright-v0", Bright)
    yield
    del gym.registry["Bright-v0"]


@pytest.mark.parametrize("backbone", ["squeezenet", "resnet_cifar"])
def test_in_a_dqn(backbone: str, tmp_path: Path) -> None:
    depth = ["module.backbone.depth=8"] if backbone == "resnet_cifar" else ["module.backbone.dropout=0"]
    words = ["data.env=Bright-v0", f"module.backbone.name={backbone}", *depth, "trainer.budget=600"]
    words += [
        "data.learning_starts=100",
        "data.replay.capacity=1000",
        "trainer.eval_period=600",
        "module.batch_size=16",
    ]
    result = train(resolve("dqn/cartpole", [*QUICK, *words]), run_dir=tmp_path / "run")
    assert result.status == "completed"


def test_a_core_over_a_convolutional_encoder_in_a_policy_gradient(tmp_path: Path) -> None:
    words = ["data.env=Bright-v0", "module.backbone.name=gru", "module.backbone.encoder.name=lenet"]
    words += ["module.backbone.hidden=16", "trainer.budget=4000", "trainer.eval_period=4000"]
    result = train(resolve("ppo/cartpole", [*QUICK, *words]), run_dir=tmp_path / "run")
    assert result.metrics["eval/return_mean"] > 6  # of 10; chance is 3.3


def test_a_policy_with_an_encoder_steps_as_it_reads_a_whole_rollout() -> None:
    torch.manual_seed(0)
    backbone = BackboneConfig("lstm", hidden=6, encoder=BackboneConfig("lenet"))
    spec = DataSpec(TensorSpec((2, 8, 8)), actions=Discrete(3))
    policy = ActorCritic(PPOConfig(backbone=backbone, shared_backbone=True), spec)
    obs = torch.rand(5, 4, 2, 8, 8)  # (T, N, C, H, W)
    start = torch.zeros(5, 4, dtype=torch.bool)
    state: Any = policy.initial_state(4)
    parameters, values = policy.evaluate(obs, state, start)
    for t in range(5):
        action = policy.act(obs[t], state, None)
        state = action.state
        assert torch.equal(action.action.flatten(), parameters[t].argmax(-1))
    assert values is not None


def test_in_the_encoder_of_a_vae(tmp_path: Path) -> None:
    words = ["module.backbone.name=resnet18", "trainer.budget=640", "trainer.eval_period=640", "data.batch_size=32"]
    result = train(resolve("vae/digits", [*QUICK, *words]), run_dir=tmp_path / "run")
    assert result.status == "completed"


def test_in_a_discriminator(tmp_path: Path) -> None:
    words = [
        "module.backbone.name=densenet_bc",
        "module.backbone.depth=10",
        "trainer.budget=640",
        "trainer.eval_period=640",
    ]
    result = train(resolve("gan/digits", [*QUICK, *words]), run_dir=tmp_path / "run")
    assert result.status == "completed"
