"""DQN: losses against slow loops for every switch, update counts, exact resume after SIGKILL."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.algorithms.dqn import DQN, DQNConfig
from agents.algorithms.recipes.dqn import cartpole
from agents.experience.data import OnPolicyData
from agents.policies.exploration import EpsilonConfig, epsilon_greedy
from agents.policies.q_network import NoisyLinear, QNetwork, move_target
from agents.policies.return_distributions import CategoricalConfig, QuantileConfig
from agents.replay.files import RingFiles
from agents.replay.ring import empty_ring
from agents.types import Transition
from lab.backbones import BackboneConfig
from lab.config import serialization
from lab.config.overrides import override, resolve
from lab.data.spec import Continuous, DataSpec, Discrete, TensorSpec
from lab.errors import UserError
from lab.experiment import Experiment
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.train import train

SPEC = DataSpec(TensorSpec((4,)), actions=Discrete(3))
SMALL = BackboneConfig("mlp", hidden=(8,))


def transitions(num_batches: int, batch_size: int, seed: int = 0) -> Transition:
    g = torch.Generator().manual_seed(seed)
    shape = (num_batches, batch_size)
    return Transition(
        obs=torch.randn(*shape, 4, generator=g),
        action=torch.randint(3, shape, generator=g),
        reward=torch.randn(*shape, generator=g),
        discount=torch.where(torch.rand(*shape, generator=g) < 0.3, 0.0, 0.9),
        next_obs=torch.randn(*shape, 4, generator=g),
        weight=torch.rand(*shape, generator=g),
        indices=torch.zeros(shape, dtype=torch.int64),
    )


def agent(**options: Any) -> DQN:
    torch.manual_seed(0)
    made = DQNConfig(**{"backbone": SMALL, **options}).build(SPEC)
    for p in made.target_network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return made


def q_of(network: QNetwork, obs: Tensor) -> Tensor:
    return network(obs).squeeze(-1)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_loss_is_the_papers_on_each_sample(double: bool, dueling: bool, loss: str) -> None:
    dqn = agent(double=double, dueling=dueling, loss=loss)
    sample = transitions(3, 6)
    for k, minibatch in enumerate(dqn.minibatches(sample, slice(0, 3))):
        value, _, extras = (dqn.double_loss if double else dqn.loss)(minibatch)  # type: ignore[arg-type]
        expected = 0.0
        for b in range(6):
            obs, next_obs = sample.obs[k, b][None], sample.next_obs[k, b][None]  # type: ignore[index]
            next_q = q_of(dqn.target_network, next_obs)[0]
            best = int((q_of(dqn.q_network, next_obs)[0] if double else next_q).argmax())
            y = sample.reward[k, b] + sample.discount[k, b] * next_q[best]
            q = q_of(dqn.q_network, obs)[0, int(sample.action[k, b])]
            one = F.smooth_l1_loss(q, y) if loss == "huber" else (q - y) ** 2
            expected += float(sample.weight[k, b] * one) / 6
            assert float(extras["td_error"][b]) == pytest.approx(abs(float(q - y)), abs=1e-5)
        assert float(value) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("returns", [CategoricalConfig(num_atoms=7), QuantileConfig(num_quantiles=5)])
def test_distributions_bootstrap_from_the_best_action(double: bool, returns: Any) -> None:
    dqn = agent(double=double, dueling=True, returns=returns)
    sample = transitions(2, 5)
    for k, minibatch in enumerate(dqn.minibatches(sample, slice(0, 2))):
        value = (dqn.double_loss if double else dqn.loss)(minibatch).value  # type: ignore[arg-type]
        expected = 0.0
        for b in range(5):
            obs, next_obs = sample.obs[k, b][None], sample.next_obs[k, b][None]  # type: ignore[index]
            next_outputs = dqn.target_network(next_obs)[0]  # (A, M)
            chooser = dqn.q_network(next_obs)[0] if double else next_outputs
            best = int(torch.stack([dqn.returns.mean(chooser[a]) for a in range(3)]).argmax())
            reward, discount = sample.reward[k, b][None], sample.discount[k, b][None]
            target = dqn.returns.target(next_outputs[best][None], reward, discount)
            outputs = dqn.q_network(obs)[0, int(sample.action[k, b])][None]
            expected += float(sample.weight[k, b] * dqn.returns.loss(outputs, target).loss[0]) / 5
        assert float(value) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_every_switch_updates_alike_traced_and_eager() -> None:
    for options in (
        {},
        {"double": False},
        {"noisy_sigma": 0.5, "dueling": True, "head_hidden": (6,), "returns": CategoricalConfig(num_atoms=7)},
    ):
        weights = []
        for engine in ("eager", "traced"):
            dqn = agent(**options)
            dqn.set_engine(engine)  # type: ignore[arg-type]
            torch.manual_seed(1)
            for minibatch in dqn.minibatches(transitions(5, 16), slice(0, 5)):
                dqn.updater.step(minibatch)
            weights.append(torch.cat([p.detach().flatten() for p in dqn.q_network.parameters()]))
        torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("double", [False, True])
def test_a_single_minibatch_has_the_targets_of_many(double: bool) -> None:
    dqn, sample = agent(double=double, batch_size=16), transitions(4, 16)
    expected = list(dqn.minibatches(sample, slice(0, 4)))
    dqn.set_engine("traced")
    for k in range(4):
        (minibatch,) = dqn.minibatches(sample, slice(k, k + 1))
        for single, of_many in zip(minibatch, expected[k], strict=True):
            torch.testing.assert_close(single, of_many, atol=1e-5, rtol=1e-5)
    dqn.target_network.load_state_dict({name: 2 * value for name, value in dqn.target_network.state_dict().items()})
    field = "next_outputs" if double else "target"  # what the target network gave
    changed = getattr(list(dqn.minibatches(sample, slice(0, 4)))[1], field)
    (minibatch,) = dqn.minibatches(sample, slice(1, 2))
    torch.testing.assert_close(getattr(minibatch, field), changed, atol=1e-5, rtol=1e-5)


def test_dueling_advantages_have_mean_zero() -> None:
    network = QNetwork(SMALL, SPEC, 3, 1, dueling=True, hidden=(), sigma=None)
    features = torch.randn(7, 8)
    assert network.value is not None
    torch.testing.assert_close(network.head(features).mean(1), network.value(features, None))


def test_noisy_layer_is_the_papers_with_one_noise_a_row() -> None:
    layer = NoisyLinear(5, 3, sigma=0.5)
    x, noise = torch.randn(4, 5), torch.randn(4, 8)
    f = noise.sign() * noise.abs().sqrt()
    y = layer(x, noise)
    for b in range(4):
        weight = layer.mean_weight + layer.sigma_weight * torch.outer(f[b, 5:], f[b, :5])
        bias = layer.mean_bias + layer.sigma_bias * f[b, 5:]
        torch.testing.assert_close(y[b], weight @ x[b] + bias)
    torch.testing.assert_close(layer(x, None), F.linear(x, layer.mean_weight, layer.mean_bias))


def test_epsilon_greedy_explores_as_often_as_epsilon_says() -> None:
    noise = torch.rand(40_000, 2, generator=torch.Generator().manual_seed(0))
    actions = epsilon_greedy(torch.full((40_000,), 2), torch.tensor(0.3), 4, noise)
    shares = torch.bincount(actions, minlength=4) / 40_000
    torch.testing.assert_close(shares, torch.tensor([0.075, 0.075, 0.775, 0.075]), atol=0.006, rtol=0)
    schedule = EpsilonConfig(start=1.0, end=0.1, decay_steps=100)
    assert [schedule.at(t) for t in (0, 50, 100, 1000)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


def short(*overrides: str) -> Experiment:
    return override(
        cartpole(),
        [
            "trainer.budget=1200",
            "trainer.eval_period=600",
            "trainer.log_period=200",
            "data.learning_starts=200",
            "module.backbone.hidden=[16]",
            "module.batch_size=16",
            "trainer.num_threads=1",
            "tracking.mode=disabled",
            *overrides,
        ],
    )


@pytest.mark.slow
def test_the_update_ratio_and_the_target_period_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    equal: list[int] = []

    def watched(target: nn.Module, online: nn.Module, num_updates: int, **how: Any) -> None:
        move_target(target, online, num_updates, **how)
        if all(torch.equal(a, b) for a, b in zip(target.parameters(), online.parameters(), strict=True)):
            equal.append(num_updates)

    monkeypatch.setattr("agents.algorithms.q_agent.move_target", watched)
    periodic = short("module.updates_per_env_step=0.37", "module.target_tau=0", "module.target_period=25")
    row = train(periodic).run.result()
    assert abs(row["updates"] - 0.37 * (row["env_steps"] - 200)) <= 0.37 * 160  # a round is 128 steps
    assert equal == list(range(25, row["updates"] + 1, 25))


def test_wrong_data_and_actions_are_sentences() -> None:
    with pytest.raises(UserError, match="discrete"):
        DQNConfig().build(DataSpec(TensorSpec((4,)), actions=Continuous((-1.0,), (1.0,))))
    experiment = short().model_copy(update={"data": OnPolicyData(env="CartPole-v1")})
    with pytest.raises(UserError, match="replay"):
        train(experiment)


RAINBOW = (
    "module.double=true",
    "module.dueling=true",
    "module.noisy_sigma=0.5",
    "module.returns.kind=categorical",
    "data.replay.priority.alpha=0.6",
    "data.num_envs=1",  # stepped in another way than several
    "data.num_steps=64",
)
KILLED = """
import os, signal, sys
from pathlib import Path
from agents.experience.replay import ReplayExperience
from lab.config import serialization
from lab.runs.directory import Run
from lab.training.train import train

sample, calls = ReplayExperience.sample, []

def sample_or_die(self, *arguments):
    calls.append(1)
    if self.buffer.rows_written * self.config.num_envs > 1000:
        os.kill(os.getpid(), signal.SIGKILL)
    return sample(self, *arguments)

ReplayExperience.sample = sample_or_die
train(serialization.load(Path(sys.argv[1])), run_dir=Path(sys.argv[2]))
"""


def rows(run: Run) -> list[dict[str, Any]]:
    """Metrics but for what the clock says."""
    return [{k: v for k, v in row.items() if k != "seconds" and "per_second" not in k} for row in run.metrics()]


def contents(run: Run) -> dict[str, Any]:
    """The last checkpoint, with what the replay's segments hold in place of their names."""
    content = checkpoint.load(run.checkpoint("last"))
    manifest = content["data"].pop("replay")
    capacity = 640
    rings = {
        name: empty_ring(capacity, tuple(array.shape[1:]), torch.from_numpy(array).dtype, torch.device("cpu"))
        for name, array in np.load(run.path / "replay" / manifest["segments"][0]["file"]).items()
    }
    RingFiles(run.path / "replay", rings).load(manifest)
    kept = {name: ring.read(max(0, ring.num_written - 70), ring.num_written) for name, ring in rings.items()}
    del content["loop"]  # times and offsets
    return {**content, "kept": kept}


def assert_same(a: Any, b: Any, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}.{i}")
    else:
        assert a == b, where


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), RAINBOW], ids=["dqn", "rainbow"])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    """Weights, optimizer, replay with priorities, environments, random states and metrics equal an unbroken run's."""
    experiment = short(
        "trainer.budget=1600",
        "data.replay.capacity=640",
        "module.updates_per_env_step=0.2",
        "trainer.checkpoint_seconds=0.001",
        *overrides,
    )
    (tmp_path / "experiment.yaml").write_text(serialization.to_yaml(experiment))
    whole = train(experiment, run_dir=tmp_path / "whole").run
    words = [str(tmp_path / "experiment.yaml"), str(tmp_path / "killed")]
    process = subprocess.run(
        [sys.executable, "-c", KILLED, *words], check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.returncode == -signal.SIGKILL
    killed = Run.open(tmp_path / "killed")
    assert 700 < killed.metrics()[-1]["env_steps"] < 1200
    resumed = train(killed.experiment(), resume=killed).run
    assert rows(resumed) == rows(whole)
    assert_same(contents(resumed), contents(whole))


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("options", [{}, {"dueling": True, "head_hidden": (7,)}])
def test_acting_in_arrays_takes_the_actions_that_act_takes(options: dict[str, Any], num_envs: int) -> None:
    dqn, generator = agent(**options), torch.Generator().manual_seed(3)
    obs, noise = torch.randn(200, num_envs, 4), dqn.policy.draw_noise(200, num_envs, generator)
    for epsilon in (1.0, 0.3, 0.0):
        dqn.policy.epsilon.fill_(epsilon)
        actor = dqn.policy.array_actor(noise)
        assert actor is not None
        for t in range(200):
            actor(t, obs[t].numpy())
        expected = torch.stack([dqn.policy.act(obs[t], None, noise[t]).action for t in range(200)])
        assert torch.equal(actor.actions(), expected)
    with torch.no_grad():  # as an optimizer does
        for p in dqn.q_network.parameters():
            p.neg_()
    assert actor(0, obs[0].numpy()).tolist() == dqn.policy.act(obs[0], None, noise[0]).action.tolist()


def test_acting_in_arrays_follows_parameters_that_move_and_copies_follow_their_own() -> None:
    dqn, generator = agent(), torch.Generator().manual_seed(3)
    obs, noise = torch.randn(50, 2, 4), dqn.policy.draw_noise(50, 2, generator)
    dqn.policy.epsilon.fill_(0.0)

    def agrees(policy: Any) -> bool:
        actor = policy.array_actor(noise)
        for t in range(50):
            actor(t, obs[t].numpy())
        return torch.equal(actor.actions(), torch.stack([policy.act(obs[t], None, noise[t]).action for t in range(50)]))

    assert agrees(dqn.policy)
    first = dqn.policy._numpy_mlp
    assert agrees(dqn.policy)
    assert dqn.policy._numpy_mlp is first  # nothing moved
    copied = copy.deepcopy(dqn.policy)
    for p in dqn.q_network.parameters():
        p.data = -p.data
    assert agrees(dqn.policy)
    with torch.no_grad():
        for p in copied.parameters():
            p.mul_(-2.0)
    assert agrees(copied)
    assert dqn.policy.array_actor(noise[:, :1]) is not None  # another number of environments


def test_what_is_no_small_perceptron_acts_in_torch() -> None:
    noise = torch.rand(5, 2, 2)
    assert agent(noisy_sigma=0.5).policy.array_actor(noise) is None
    assert agent(returns=QuantileConfig(num_quantiles=5)).policy.array_actor(noise) is None
    assert agent(backbone=BackboneConfig("mlp", hidden=(8,), activation="gelu")).policy.array_actor(noise) is None
    assert agent(backbone=BackboneConfig("mlp", hidden=(512, 512))).policy.array_actor(noise) is None


@pytest.mark.parametrize("options", [{}, {"dueling": True}, {"returns": QuantileConfig(num_quantiles=5)}])
def test_initial_values(options: dict[str, Any]) -> None:
    obs = torch.randn(9, 4)
    plain, optimistic = (agent(initial_reward=reward, **options).q_network(obs).detach() for reward in (0.0, 1.0))
    torch.testing.assert_close(optimistic, plain + 100.0)


def test_initial_values_belong_to_their_gamma() -> None:
    assert resolve("dqn/cartpole", ["module.gamma=0.9"]).module.initial_value == pytest.approx(10)  # type: ignore[attr-defined]
    before = serialization.dump(resolve("dqn/cartpole", []))
    del before["module"]["initial_reward"]
    before["module"]["initial_value"] = 50.0  # as runs of before say it
    assert serialization.validate(before).module.initial_value == pytest.approx(50)  # type: ignore[attr-defined]
    before["module"]["initial_value"] = "high"
    with pytest.raises(UserError, match="initial_value"):
        serialization.validate(before)
    with pytest.raises(UserError, match="initial_reward=1 has no finite return for ever with gamma=1"):
        resolve("dqn/cartpole", ["module.gamma=1"])


def test_small_networks_train_on_one_thread() -> None:
    assert DQNConfig().build(DataSpec(TensorSpec((4,)), actions=Discrete(2))).num_threads == 1
    images = DataSpec(TensorSpec((4, 84, 84)), actions=Discrete(2))
    assert DQNConfig(backbone=BackboneConfig("nature_cnn")).build(images).num_threads is None
