"""Recorded episodes, cloning them, and an agent that begins with the clone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.algorithms.behaviour_cloning import BehaviourCloning
from agents.envs.make import InProcessEnvs, make_env
from agents.play.demonstrations import EpisodeRecorder, read_episodes
from agents.policies.action_distributions import SquashedGaussian
from lab.config.overrides import resolve
from lab.data.spec import Continuous
from lab.errors import UserError
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.restore import restore
from lab.training.train import train

Lab = Callable[..., Any]
Act = Callable[[Any], Any]


def balance(obs: Any) -> Any:
    """A controller that holds CartPole's pole up: push the way it falls."""
    return np.array([int(obs[0][2] + 0.5 * obs[0][3] + 0.02 * obs[0][0] + 0.1 * obs[0][1] > 0)])


def swing(obs: Any) -> Any:
    """A torque for Pendulum that is a function of what is seen."""
    cos, sin, speed = obs[0]
    return np.array([[np.clip(-3 * sin * cos - 0.6 * speed, -1.9, 1.9)]], np.float32)


def record(folder: Path, env_id: str, act: Act, episodes: int) -> list[float]:
    """Returns of episodes that a function of the observation played."""
    envs = InProcessEnvs([lambda: make_env(env_id)])
    recorder = EpisodeRecorder(folder, env_id, {}, envs.spec, "test")
    obs, returns = envs.reset(0), [0.0]
    while len(returns) <= episodes:
        step = envs.step(act(obs))
        recorder.add(obs, act(obs), step)
        returns[-1] += float(step.reward[0])
        if step.terminated[0] or step.truncated[0]:
            returns.append(0.0)
        obs = step.obs
    envs.close()
    return returns[:-1]


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demos") / "cartpole"
    assert min(record(folder, "CartPole-v1", balance, 6)) == 500
    return folder


@pytest.fixture(scope="module")
def clone(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the controller."""
    path = tmp_path_factory.mktemp("bc") / "run"
    settings = [f"data.path={demos}", "trainer.budget=60000", "trainer.eval_period=60000", "tracking.mode=disabled"]
    train(resolve("bc/cartpole", settings), run_dir=path)
    return path


def test_what_was_recorded_is_read_back(demos: Path) -> None:
    env = InProcessEnvs([lambda: make_env("CartPole-v1")])
    read = read_episodes(demos, env.spec)
    assert read.obs.shape == (3000, 4)  # type: ignore[union-attr]
    assert read.start.nonzero().flatten().tolist() == [0, 500, 1000, 1500, 2000, 2500]
    assert read.action.tolist() == [int(balance(obs[None])[0]) for obs in read.obs.numpy()]  # type: ignore[union-attr]
    with np.load(demos / "episode-000001.npz", allow_pickle=False) as file:
        assert file["obs"].shape == (501, 4)
        assert (bool(file["terminated"]), bool(file["truncated"])) == (False, True)
    env.close()


@pytest.mark.slow
def test_a_clone_does_what_was_shown(clone: Path) -> None:
    best = Run.open(clone).result()["best"]
    assert best["value"] >= 450
    last = Run.open(clone).result()["metrics"]
    assert last["eval/accuracy"] > 0.9
    assert last["eval/nll"] < 0.2


@pytest.mark.slow
def test_an_agent_begins_with_the_clone_and_a_resumed_one_does_not_ask_for_it(clone: Path, tmp_path: Path) -> None:
    settings = ["module.normalize_obs=true", "trainer.budget=512", "trainer.eval_period=512", "tracking.mode=disabled"]
    seen = {}

    def look(loop: Any) -> None:
        loop.ask_to_stop()

    experiment = resolve("ppo/cartpole", [*settings, f"trainer.start_from={clone}", "module.optimizer.lr=1e-12"])
    train(experiment, run_dir=tmp_path / "ppo", on_loop=look)
    run = Run.open(tmp_path / "ppo")
    own = checkpoint.load(run.checkpoint("last"))["state_dict"]
    given = checkpoint.load(Run.open(clone).checkpoint("best"))["state_dict"]
    for name in ("policy.action_head.weight", "policy.actor.backbone.layers.0.weight"):
        seen[name] = (own.get(name), given.get(name))
    shared = [name for name in given if name in own and "normalizer" not in name]
    assert len(shared) >= 4
    for name in shared:
        torch.testing.assert_close(own[name], given[name], atol=1e-6, rtol=0)
    experiment = experiment.model_copy(
        update={"trainer": experiment.trainer.model_copy(update={"start_from": "no/such/run"})}
    )
    assert train(experiment, resume=run).status == "completed"


@pytest.mark.parametrize(
    ("recipe", "settings", "says"),
    [
        ("dqn/cartpole", [], "only 0 of"),
        ("ppo/cartpole", ["module.normalize_obs=false"], "normalize_obs=true"),
        ("ppo/cartpole", ["trainer.start_from=no/such/run"], "there is no run"),
    ],
)
@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    clone: Path, tmp_path: Path, recipe: str, settings: list[str], says: str
) -> None:
    settings = ["tracking.mode=disabled", "trainer.budget=64", f"trainer.start_from={clone}", *settings]
    with pytest.raises(UserError, match=says):
        train(resolve(recipe, settings), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [["module.backbone.name=gru", "module.backbone.hidden=32"], []])
def test_continuous_actions_and_memories(tmp_path: Path, backbone: list[str]) -> None:
    record(tmp_path / "demos", "Pendulum-v1", swing, 5)
    settings = [f"data.path={tmp_path / 'demos'}", "data.batch_size=16" if backbone else "data.batch_size=64"]
    settings += ["trainer.budget=80000", "trainer.eval_period=80000", "tracking.mode=disabled", *backbone]
    result = train(resolve("bc/pendulum", settings), run_dir=tmp_path / "run")
    assert result.metrics["eval/action_error"] < 0.25  # of torques up to 1.9
    _, data, module, _ = restore(result.run)
    assert isinstance(module, BehaviourCloning)
    data.close()


@pytest.mark.slow
def test_agents_record_too(lab: Lab, clone: Path, tmp_path: Path) -> None:
    words = ("play", clone, "--render", "none", "--record", tmp_path / "more", "--json")
    done = lab(*words, "--episodes", 2)
    assert (done.code, json.loads(done.out)["record"]) == (0, str(tmp_path / "more"))
    assert lab(*words, "--episodes", 1).code == 0
    index = json.loads((tmp_path / "more" / "dataset.json").read_text())
    assert [episode["file"] for episode in index["episodes"]] == [f"episode-00000{k}.npz" for k in range(3)]
    other = lab("play", clone, "--render", "none", "--record", clone)
    assert (other.code, "is no data set" in other.err) == (2, True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([], "lab play --record"),
        (["data.path=/no/such"], "no data set"),
        (["data.path={demos}", "data.env=Acrobot-v1"], "not of data.env='Acrobot-v1'"),
        (["data.path={demos}", "data.env_options={{sutton_barto_reward: true}}"], "not of data.env_options="),
        (["data.path={bad}"], "not an .npz of plain arrays"),
    ],
)
def test_bad_data_is_one_sentence(lab: Lab, demos: Path, tmp_path: Path, settings: list[str], says: str) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "dataset.json").write_text((demos / "dataset.json").read_text())
    (bad / "episode-000000.npz").write_bytes(b"PK nothing")
    words = [setting.format(demos=demos, bad=bad) for setting in settings]
    done = lab("train", "bc/cartpole", "--out", tmp_path / "run", *words)
    assert done.code == 2
    assert says in done.err
    assert not (tmp_path / "run").exists()


def test_a_pickle_in_a_data_set_is_not_opened(demos: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text((demos / "dataset.json").read_text())
    np.savez(tmp_path / "episode-000000.npz", obs=np.array([{}], dtype=object), action=np.zeros(1, int))
    env = InProcessEnvs([lambda: make_env("CartPole-v1")])
    with pytest.raises(UserError, match=r"not an \.npz of plain"):
        read_episodes(tmp_path, env.spec)
    env.close()


def test_squashed_actions_come_back() -> None:
    squashed = SquashedGaussian(Continuous((-2.0, 0.0), (2.0, 1.0)))
    action = torch.tensor([[-1.9, 0.05], [0.0, 0.5], [1.5, 0.99]])
    torch.testing.assert_close(squashed.to_env(squashed.from_env(action)), action)
    assert torch.isfinite(squashed.from_env(torch.tensor([[2.0, 1.0]]))).all()
