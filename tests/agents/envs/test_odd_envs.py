"""Environments as people write them: odd spaces, wrong shapes, numbers that are none, episodes without an end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.algorithms.policy_gradient import PolicyGradientConfig
from agents.envs.make import InProcessEnvs, make_envs
from agents.envs.state import env_state, set_env_state
from agents.episodes import play, play_episodes
from agents.experience.data import OnPolicyData
from agents.play.export import exportable
from agents.types import Episode
from lab.cli import main
from lab.data.spec import MultiDiscrete
from lab.errors import Failure, UserError
from lab.long_work import listening


class Odd(gym.Env[Any, Any]):
    """Five steps an episode; what else it is, its options say."""

    observation_space: spaces.Space[Any] = spaces.Box(-1, 1, (3,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)
    observation: Any = np.zeros(3, np.float32)

    def __init__(self, reward: float = 1.0, length: int = 5, **attributes: Any) -> None:
        self.reward, self.length, self.actions = reward, length, []
        vars(self).update(attributes)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.actions.append(action)
        return self.observation, self.reward, self.t == self.length, False, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register("Odd-v0", Odd)
    gym.register("Seeded-v0", SeededEnv)
    yield
    del gym.registry["Odd-v0"], gym.registry["Seeded-v0"]


def agent_and_data(**options: Any) -> tuple[Any, Any]:
    data = OnPolicyData(env="Odd-v0", env_options=options, num_envs=2, num_steps=8).build(0)
    return PolicyGradientConfig().build(data.spec), data


def test_many_binary_actions_are_discrete_ones_of_two() -> None:
    env = Odd(action_space=spaces.MultiBinary((2, 2)))
    envs = InProcessEnvs([lambda: env])
    assert envs.spec.actions == MultiDiscrete((2, 2, 2, 2))
    envs.reset(0)
    envs.step(np.array([[0, 1, 1, 0]]))
    assert env.actions[0].tolist() == [[0, 1], [1, 0]]


def test_a_single_number_is_a_vector_of_one() -> None:
    number, torque = spaces.Box(0, 1, (), np.float32), spaces.Box(-1, 1, (), np.float32)
    env = Odd(observation_space=number, action_space=torque, observation=np.float32(0.5))
    envs = InProcessEnvs([lambda: env, lambda: env])
    assert envs.reset(0).tolist() == [[0.5], [0.5]]
    assert envs.spec.inputs.shape == (1,)
    envs.step(np.array([[0.25], [0.5]]))
    assert [np.shape(action) for action in env.actions] == [(), ()]


@pytest.mark.parametrize("key", [None, "joints"])
def test_observations_of_another_shape_than_promised_are_refused(key: str | None) -> None:
    env = Odd(observation=np.zeros(5, np.float32))
    if key:
        env = Odd(observation={key: env.observation}, observation_space=spaces.Dict({key: Odd.observation_space}))
    named = f" '{key}'" if key else ""
    with pytest.raises(UserError, match=rf"observations{named} have the shape \(5,\), but .* says \(3,\)"):
        InProcessEnvs([lambda: env]).reset(0)


@pytest.mark.parametrize(
    ("options", "what"),
    [({"reward": float("nan")}, "rewards"), ({"observation": np.full(3, np.inf, np.float32)}, "observations")],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_is_not_finite_is_the_environments_fault(options: dict[str, Any], what: str) -> None:
    agent, data = agent_and_data(**options)
    with pytest.raises(Failure, match=f"the environment's {what} are not all finite"):
        data.collector.collect(agent.policy, 8)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_large_numbers_are_finite() -> None:
    """Their float32 sum is not."""
    agent, data = agent_and_data(observation=np.full(3, 3e38, np.float32))
    assert data.collector.collect(agent.policy, 8).obs.max() == np.float32(3e38)


@pytest.mark.parametrize(("knows_modes", "why"), [(False, "takes no render_mode"), (True, "no screen here")])
def test_what_cannot_be_drawn_costs_the_film_alone(
    knows_modes: bool, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def render(env: Odd) -> Any:
        raise RuntimeError("no screen here")

    def make(**options: Any) -> Odd:
        if not knows_modes and "render_mode" in options:
            raise TypeError("make() got an unexpected keyword argument 'render_mode'")
        return Odd(**options)

    monkeypatch.setattr(Odd, "render", render)
    monkeypatch.setitem(gym.registry, "Odd-v0", gym.envs.registration.EnvSpec("Odd-v0", make))
    agent, data = agent_and_data()
    with caplog.at_level(logging.WARNING, "lab"):
        assert agent.film(data, tmp_path) is None
    assert "no film of Odd-v0: " in caplog.text
    assert why in caplog.text
    with pytest.raises(UserError, match=why):
        play(agent.policy, "Odd-v0", 1, seed=0, on_frame=lambda *_: None)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (np.zeros((8, 8, 3), np.float32), "draws float32"),
        (np.zeros((8, 8), np.uint8), "cannot be drawn as pictures"),
        (np.zeros((8, 8, 2), np.uint8), r"draws uint8 \(8, 8, 2\)"),
    ],
)
def test_pictures_that_are_none_are_told(frame: Any, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Odd, "render", lambda env: frame)
    agent, _ = agent_and_data()
    with pytest.raises(UserError, match=why):
        play(agent.policy, "Odd-v0", 1, seed=0, on_frame=lambda *_: None)


def test_transparency_is_left_out_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Odd, "render", lambda env: np.full((8, 8, 4), 7, np.uint8))
    agent, _ = agent_and_data()
    shapes: list[Any] = []
    play(agent.policy, "Odd-v0", 1, seed=0, on_frame=lambda frame, _: shapes.append(frame.shape))
    assert set(shapes) == {(8, 8, 3)}


class Remembers(Odd):
    """Gives its whole state, as people write it."""

    own: Any = None
    tensor = torch.ones(2)

    def state_dict(self) -> Any:
        if self.own == "absent":
            raise NotImplementedError
        return {"x": np.arange(3), "t": np.int64(self.t), 4: [self.tensor], "odd": self.own}

    def load_state_dict(self, state: Any) -> None:
        self.loaded = state


@pytest.mark.parametrize("own", [None, object(), "absent"])
def test_a_state_of_ones_own_is_saved_whole_or_not_at_all(own: Any, tmp_path: Path) -> None:
    env = Remembers(own=own)
    env.reset()
    state = env_state(env)
    assert (state is None) == (own is not None)
    if state is not None:
        env.tensor.add_(1)  # of the environment that goes on, not of what was noted
        env.tensor = torch.ones(2)
        torch.save(state, tmp_path / "state")
        set_env_state(env, torch.load(tmp_path / "state", weights_only=True))
        assert env.loaded["t"] == 0
        assert env.loaded["x"].tolist() == [0, 1, 2]
        assert torch.equal(env.loaded[4][0], torch.ones(2))
        set_env_state(env, {"own": {"t": 3}, "layers": []})  # as checkpoints had it before
        assert env.loaded == {"t": 3}


@pytest.mark.parametrize(("dtype", "digits"), [(np.int64, True), (np.int32, True), (np.int16, False)])
def test_whole_numbers_keep_their_digits(dtype: Any, digits: bool) -> None:
    env = Odd(observation_space=spaces.Box(-9, 9, (3,), dtype), observation=np.ones(3, dtype))
    wanted = torch.float64 if digits else torch.float32
    assert InProcessEnvs([lambda: env]).spec.inputs.dtype == wanted  # type: ignore[union-attr]


def test_slow_environments_let_an_evaluation_be_ended_between_any_two() -> None:
    class End(BaseException):
        pass

    heard: list[Any] = []

    def listen(*told: Any) -> None:
        heard.append(told)
        if len(heard) == 9:
            raise End

    agent, _ = agent_and_data()
    with pytest.raises(End), listening(listen):
        play_episodes(agent.policy, "Odd-v0", 5, seed=0)
    assert heard == [("playing episodes, steps of each", 0, 0)] * 9  # 1, before 5 resets, 1, before 2 of 5 steps


class Warns(Odd):
    """gymnasium's way to warn, in each step."""

    def step(self, action: Any) -> Any:
        gym.logger.warn("step %d is odd", self.t)
        return super().step(action)


@pytest.mark.filterwarnings("always")
def test_what_an_environment_warns_of_in_steps_is_a_line_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(gym.registry, "Odd-v0", gym.envs.registration.EnvSpec("Odd-v0", Warns))
    fields = [
        "data.env=Odd-v0",
        "data.num_envs=2",
        "data.num_steps=16",
        "module.minibatch_size=16",
        "trainer.budget=64",
    ]
    code = main(["train", "ppo/cartpole", *fields, "tracking.mode=disabled", f"--out={tmp_path}/run"])
    assert code == 0
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("is odd") == 1
    told = capsys.readouterr()
    assert (told.out + told.err).count("step 0 is odd") == 1
    assert "UserWarning" not in told.err


def test_an_episode_without_an_end_is_cut_off_in_an_evaluation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    endless: dict[str, Any] = {"length": 10**9}
    monkeypatch.setattr("agents.algorithms.agent.ENDLESS_IN_TRAINING", 30)
    agent, data = agent_and_data(**endless)
    with caplog.at_level(logging.WARNING, "lab"):
        assert [agent.evaluate(data)["eval/length_mean"] for _ in range(2)] == [30, 30]
    assert caplog.text.count("are cut off after 30 steps where they are measured") == 1
    policy = agent.policy
    assert [e.length for e in play_episodes(policy, "Odd-v0", 3, seed=0, options=endless, limit=9)] == [9] * 3
    own = play_episodes(policy, "Odd-v0", 3, seed=0, options=endless | {"max_episode_steps": 7})
    assert [episode.length for episode in own] == [7] * 3


class SeededEnv(gym.Env[Any, Any]):
    """Even seeds: one step, return 0. Odd seeds: 100 steps, return 1. Without a seed: a return of 1,000."""

    observation_space = gym.spaces.Box(-1000, 1000, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed, self.t = seed, 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        if self.seed is None:
            return np.zeros(3, np.float32), 1000.0, self.t == 50, False, {}
        done = self.t == (100 if self.seed % 2 else 1)
        return np.zeros(3, np.float32), float(done and self.seed % 2), done, False, {}


@pytest.mark.parametrize("episodes", [1, 2, 4, 6, 20, 21, 50])
def test_episode_k_of_an_evaluation_is_that_of_seed_plus_k(episodes: int) -> None:
    policy = agent_and_data()[0].policy
    expected = [Episode(float(k % 2), 100 if k % 2 else 1) for k in range(7, 7 + episodes)]
    assert play_episodes(policy, "Seeded-v0", episodes, seed=7) == expected
    assert play(policy, "Seeded-v0", min(episodes, 4), seed=7) == expected[:4]


def test_an_evaluation_is_repeated_by_hand() -> None:
    """CartPole, which has a vector environment of its own, whose random numbers are others."""
    agent = PolicyGradientConfig().build(make_envs("CartPole-v1", 1).spec)
    episodes = play_episodes(agent.policy, "CartPole-v1", 25, seed=11)
    env = gym.make("CartPole-v1")
    for k, episode in enumerate(episodes):
        obs, _ = env.reset(seed=11 + k)
        total, done = 0.0, False
        while not done:
            action = agent.policy.act(torch.tensor(obs)[None])[0]
            obs, reward, terminated, truncated, _ = env.step(int(action))
            total, done = total + float(reward), terminated or truncated
        assert total == episode.episode_return == episode.length


def test_training_leaves_episodes_without_an_end_alone() -> None:
    envs = make_envs("Odd-v0", 1, {"length": 10**9})
    envs.reset(0)
    assert not any(envs.step(np.zeros(1, np.int64)).truncated[0] for _ in range(20_010))


def test_cutting_off_is_not_an_end() -> None:
    envs = make_envs("CliffWalking-v1", 2, training=False)
    envs.reset(0)
    up = np.zeros(2, np.int64)
    steps = [envs.step(up) for _ in range(20_000)]
    assert torch.tensor(np.stack([step.truncated for step in steps])).nonzero()[:, 0].tolist() == [19_999, 19_999]
    assert not any(step.terminated.any() for step in steps)


@pytest.mark.parametrize(
    ("space", "observation", "expected"),
    [
        (spaces.Discrete(3, start=5), 6, {"obs": [1]}),
        (spaces.Box(0, 1, (), np.float32), 0.5, {"obs": [[0.5]]}),
        (spaces.Box(0, 1, (1,), np.float32), np.float32([0.5]), {"obs": [[0.5]]}),
        (spaces.Tuple([spaces.Discrete(4), spaces.Discrete(3, start=-1)]), (3, -1), {"0": [3], "1": [0]}),
        (
            spaces.Dict({"far": spaces.Discrete(2, start=1), "wind": spaces.Box(-1, 1, (2,), np.float32)}),
            {"far": 2, "wind": np.float32([0.0, 1.0])},
            {"far": [1], "wind": [[0.0, 1.0]]},
        ),
    ],
)
def test_the_exported_script_reads_observations_as_training_does(
    monkeypatch: pytest.MonkeyPatch, space: Any, observation: Any, expected: Any
) -> None:
    monkeypatch.setattr(Odd, "observation_space", space)
    monkeypatch.setattr(Odd, "observation", observation)
    agent, data = agent_and_data()
    script = exportable(agent.policy, data.spec, "Odd-v0", {}).example
    seen: list[Any] = []

    class Session:
        def run(self, outputs: None, inputs: dict[str, Any]) -> Any:
            seen.append({name: array.tolist() for name, array in inputs.items()})
            return np.zeros(1, np.int64), np.zeros((1, 2), np.float32)

    runtime = ModuleType("onnxruntime")
    runtime.InferenceSession = lambda path: Session()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    exec(script, {"__file__": "example.py"})
    assert seen == [expected] * 5
    tensors = {name: torch.tensor(value) for name, value in expected.items()}
    with torch.no_grad():
        agent.policy.act(tensors if isinstance(data.spec.inputs, dict) else tensors["obs"])
