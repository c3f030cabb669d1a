"""Pictures (H, W, C) reach networks as (C, H, W): alone and in dicts, in training, play and an exported script."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from agents.envs.channels_first import ChannelsFirst, is_channels_last
from agents.envs.make import make_env, make_envs
from agents.envs.state import env_state
from lab.data.spec import TensorSpec

HEIGHT, WIDTH = 12, 10
PICTURE = spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


class Bright(gym.Env[Any, Any]):
    """One of three channels is bright: that is the right action. With `vector`, a number tells more."""

    action_space = spaces.Discrete(3)
    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, vector: bool = False) -> None:
        self.vector = vector
        parts = {"image": PICTURE, "vector": spaces.Box(-1, 1, (2,), np.float32)}
        self.observation_space: Any = spaces.Dict(parts) if vector else PICTURE

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.channel)
        self.t += 1
        return self._obs(), reward, False, self.t == 10, {}

    def _obs(self) -> Any:
        self.channel = int(self.np_random.integers(3))
        image = np.zeros(PICTURE.shape, np.uint8)
        image[: HEIGHT // 2, :, self.channel] = 255
        return {"image": image, "vector": np.zeros(2, np.float32)} if self.vector else image


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register("Bright-v0", Bright)
    yield
    del gym.registry["Bright-v0"]


@pytest.mark.slow  # the first environment of a process
def test_a_picture_is_transposed() -> None:
    envs, plain = make_envs("Bright-v0", 2), Bright()
    assert envs.spec.inputs == TensorSpec((3, HEIGHT, WIDTH), envs.spec.inputs.dtype, 0.0, 255.0)  # type: ignore[union-attr]
    obs = envs.reset(4)
    assert np.array_equal(obs[0], plain.reset(seed=4)[0].transpose(2, 0, 1))  # type: ignore[index]
    step = envs.step(np.zeros(2, np.int64))
    assert np.array_equal(step.next_obs[0], plain.step(0)[0].transpose(2, 0, 1))  # type: ignore[index]


def test_so_is_one_in_a_dict() -> None:
    envs = make_envs("Bright-v0", 2, {"vector": True})
    assert isinstance(envs.spec.inputs, dict)
    assert {key: spec.shape for key, spec in envs.spec.inputs.items()} == {"image": (3, HEIGHT, WIDTH), "vector": (2,)}
    obs = envs.reset(4)
    assert isinstance(obs, dict)
    assert (obs["image"].shape, obs["vector"].shape) == ((2, 3, HEIGHT, WIDTH), (2, 2))


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((36, 36, 3), True),
        ((96, 96, 1), True),
        ((84, 84, 4), True),
        ((7, 7, 3), True),
        ((4, 84, 84), False),
        ((3, 64, 64), False),
        ((3, 3, 3), False),
        ((4, 4, 1), False),
        ((36, 36), False),
        ((2, 36, 36, 3), False),
    ],
)
def test_which_shapes_are_pictures_with_channels_last(shape: tuple[int, ...], last: bool) -> None:
    assert is_channels_last(spaces.Box(0, 255, shape, np.uint8)) == last
    assert not is_channels_last(spaces.MultiBinary(shape))


def test_it_has_no_state_of_its_own() -> None:
    assert env_state(make_env("CartPole-v1")) is not None
    seeing = ChannelsFirst(Stateful())
    seeing.reset()
    state = env_state(seeing)
    assert state is not None
    assert state["own"]["plain"]["entries"] == {"t": 0}


class Stateful(Bright):
    """Gives its state."""

    def state_dict(self) -> dict[str, int]:
        return {"t": self.t}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.t = state["t"]


def test_a_plain_environment_stays_itself() -> None:
    assert not [layer for layer in _layers(make_env("CartPole-v1")) if "Channels" in layer]


def _layers(env: Any) -> list[str]:
    names = [type(env).__name__]
    while isinstance(env, gym.Wrapper):
        env = env.env
        names.append(type(env).__name__)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("vector", [False, True])
def test_an_agent_learns_to_see_and_its_exported_script_too(lab: Any, tmp_path: Path, vector: bool) -> None:
    pytest.importorskip("onnxruntime")
    words = ["data.num_envs=4", "trainer.budget=6000", "trainer.eval_period=6000", "tracking.mode=disabled"]
    words += ["module.backbone.name=lenet", "module.backbone.hidden=32", "module.backbone.channels=[4,8]"]
    words += ["module.optimizer.lr=3e-3", "trainer.film=false", f"data.env_options={{vector: {str(vector).lower()}}}"]
    package = tmp_path / "seeing.py"
    source = Path(__file__).read_text(encoding="utf-8").partition("@pytest.fixture")[0]
    package.write_text(source + 'gym.register("Seeing-v0", Bright)\n', encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    try:
        run = tmp_path / "run"
        done = lab("train", "ppo/cartpole", "data.env=seeing:Seeing-v0", *words, "--import", "seeing", "--out", run)
        assert done.code == 0, done.err
        evaluated = lab("evaluate", run, "--import", "seeing", "--seed", 0, "--episodes", 1, "--json")
        assert '"eval/return_mean": 10.0' in evaluated.out
        done = lab("export", run, "--import", "seeing", "--out", tmp_path / "export")
        assert done.code == 0, done.err
        script = next((tmp_path / "export").glob("*.py"))
        environment = {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}", "PATH": "/usr/bin"}
        played = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, check=False, env=environment
        )
        assert played.stdout.strip() == "return 10.0", played.stderr
    finally:
        sys.path.remove(str(tmp_path))
        gym.registry.pop("Seeing-v0", None)
        sys.modules.pop("seeing", None)
