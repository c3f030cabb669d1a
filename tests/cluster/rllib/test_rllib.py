"""RLlib's algorithms on the lab's networks: weights go both ways, states are plain, and policies act alike."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from cluster.sweep.conduct import conduct, report
from cluster.sweep.sweep import Sweep, SweepConfig
from lab.config.overrides import resolve
from lab.data.spec import DataSpec, Discrete, TensorSpec
from lab.errors import UserError
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.restore import restore
from lab.training.train import train
from lab.training.warm_start import start_from

QUICK = ["trainer.budget=1000", "trainer.eval_period=100000", "tracking.mode=disabled", "module.backbone.hidden=[16]"]


def quick(algorithm: str, *overrides: str) -> Any:
    return resolve(f"rllib/{algorithm}-cartpole", [*QUICK, *overrides])


@pytest.fixture(scope="module")
def trained(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("rllib")
    return {name: train(quick(name), run_dir=folder / name).run for name in ("ppo", "dqn", "impala", "appo")}


def greedy_return(module: Any, seed: int) -> float:
    """One episode by RLlib's own forward pass."""
    env = gym.make("CartPole-v1")
    obs, total, done = env.reset(seed=seed)[0], 0.0, False
    while not done:
        out = module.forward_inference({"obs": torch.from_numpy(obs)[None]})
        action = out["actions"] if "actions" in out else out["action_dist_inputs"].argmax(-1)
        obs, reward, terminated, truncated, _ = env.step(int(action[0]))
        total, done = total + float(reward), terminated or truncated
    return total


@pytest.mark.parametrize("name", ["ppo", "dqn", "impala", "appo"])
def test_a_policy_trained_there_plays_here_with_the_same_returns(name: str, trained: dict[str, Run]) -> None:
    from agents.episodes import play
    from cluster.rllib.modules import PolicyModule, QModule

    experiment, data, agent, content = restore(trained[name], "last")
    data.close()
    space = gym.make("CartPole-v1")
    kind = QModule if name == "dqn" else PolicyModule
    theirs = kind(
        observation_space=space.observation_space,
        action_space=space.action_space,
        model_config={"lab": experiment.module.model_dump(mode="json"), "steps_before": 0},
    )
    theirs.make_target_networks()
    saved = content["data"]["rl_module"]["default_policy"]
    missing = theirs.load_state_dict({k: torch.as_tensor(v) for k, v in saved.items()}, strict=False)
    assert all(key.startswith("target.") for key in missing.missing_keys)
    for seed in range(5):
        played = play(agent.policy, "CartPole-v1", 1, seed=seed)
        assert played[0].episode_return == greedy_return(theirs, seed)
    assert trained[name].result()["env_steps"] >= 1000


def test_weights_move(trained: dict[str, Run]) -> None:
    torch.manual_seed(0)
    for run in trained.values():
        experiment, data, agent, _ = restore(run, "last")
        data.close()
        fresh = experiment.module.build(data.spec).policy.state_dict()
        assert any(not torch.equal(fresh[k], v) for k, v in agent.policy.state_dict().items() if v.dim())


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_a_resumed_run_has_the_states_that_were_saved(name: str, trained: dict[str, Run]) -> None:
    """Networks, target networks, optimizers: given back to a new Algorithm, before it goes on."""
    run = trained[name]
    states: list[Any] = []
    before = checkpoint.load(run.checkpoint("last"))

    def look(loop: Any) -> None:
        inner = loop.on_train_batch_start

        def first(trainer: Any, module: Any, *arguments: Any) -> None:
            if not states:
                states.append(trainer.datamodule.state_dict())
            inner(trainer, module, *arguments)

        loop.on_train_batch_start = first

    result = train(quick(name, "trainer.budget=2000"), resume=run, on_loop=look)
    assert result.status == "completed"
    assert result.run.result()["env_steps"] >= 2000
    assert repr(states[0]) == repr(before["data"])


def test_an_agent_of_the_lab_starts_a_run_there_and_back(cluster: Any, tmp_path: Path) -> None:
    ours = resolve(
        "ppo/cartpole",
        [
            "trainer.budget=512",
            "tracking.mode=disabled",
            "module.backbone.name=mlp",
            "module.backbone.hidden=[16]",
            "module.backbone.activation=tanh",
            "module.shared_backbone=false",
            "module.normalize_obs=true",
        ],
    )
    first = train(ours, run_dir=tmp_path / "ours").run
    weights: list[Any] = []

    def look(loop: Any) -> None:
        inner = loop.on_train_batch_start

        def begin(trainer: Any, module: Any, *arguments: Any) -> None:
            weights.append(trainer.datamodule.weights())
            inner(trainer, module, *arguments)

        loop.on_train_batch_start = begin

    overrides = [f"trainer.start_from={first.path}", "module.normalize_obs=true"]
    train(quick("ppo", *overrides), run_dir=tmp_path / "theirs", on_loop=look)
    policy = checkpoint.load(first.checkpoint("best"))["state_dict"]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, policy[name], check_dtype=False)


def test_what_a_file_may_not_say() -> None:
    spec = DataSpec(TensorSpec((4,)), actions=Discrete(2))
    with pytest.raises(UserError, match="options"):
        quick("dqn", "module.options.replay_buffer_config={type: os.system}")
    with pytest.raises(UserError, match="recurrent"):
        resolve("rllib/ppo-cartpole", ["module.backbone.name=lstm"]).module.build(spec)


def test_an_unknown_option_is_one_sentence(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"RLlib refuses module\.options"):
        train(quick("ppo", "module.options.no_such_thing=1"), run_dir=tmp_path / "run")


def test_an_algorithm_trains_in_a_sweep(cluster: Any, tmp_path: Path) -> None:
    sweep = Sweep.create(
        tmp_path / "sweep", SweepConfig(name="test", targets=("rllib/ppo-cartpole",), overrides=(*QUICK,))
    )
    assert report(sweep, conduct(cluster, sweep, quiet=True)) == 0
    assert [entry.status for entry in sweep.entries] == ["completed"]


def test_its_dqn_starts_one_of_the_lab(trained: dict[str, Run], tmp_path: Path) -> None:
    """The names under which the two keep the same network differ; the target network begins as the network."""
    given = checkpoint.load(trained["dqn"].checkpoint("best"))["state_dict"]
    module: Any = resolve("dqn/cartpole", ["module.backbone.hidden=[16]"]).module.build(
        DataSpec(TensorSpec((4,)), actions=Discrete(2))
    )
    sentence = start_from(module, str(trained["dqn"].path)).sentence
    assert f"{len(list(module.q_network.parameters()))} of {len(list(module.q_network.parameters()))}" in sentence
    for name, value in module.q_network.state_dict().items():
        torch.testing.assert_close(value, given[f"policy.q_network.{name}"])
        torch.testing.assert_close(value, module.target_network.state_dict()[name])


def test_another_networks_weights_are_too_little_to_begin_with(trained: dict[str, Run]) -> None:
    module: Any = resolve("dqn/cartpole", ["module.backbone.hidden=[24]"]).module.build(
        DataSpec(TensorSpec((4,)), actions=Discrete(2))
    )
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(
        UserError, match=r"only \d of \d parameter tensors .* fit this module by name and shape, too lit"
    ):
        start_from(module, str(trained["dqn"].path))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.cluster
def test_sigterm_ends_a_run_saved(tmp_path: Path) -> None:
    """Ray's own handler, which is set when the run begins a cluster, does not take its place."""
    words = ["trainer.budget=100000000", "trainer.log_period=1000", "tracking.mode=disabled", "--out", "run"]
    command = [sys.executable, "-m", "lab.cli", "train", "rllib/ppo-cartpole", *words]
    with subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=subprocess.STDOUT, text=True) as run:
        try:
            deadline = time.monotonic() + 150
            while not (tmp_path / "run" / "metrics.jsonl").is_file() or not Run(tmp_path / "run").metrics():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            run.send_signal(signal.SIGTERM)
            output, _ = run.communicate(timeout=90)
        finally:
            run.kill()
    assert run.returncode == 130, output
    assert Run.open(tmp_path / "run").result()["status"] == "interrupted"
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last.ckpt")["counters"]["env_steps"] > 0
