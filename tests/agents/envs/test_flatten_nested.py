"""Nested observations reach agents as one flat dict."""

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from agents.envs.flatten_nested import without_nesting
from agents.envs.make import make_envs
from lab.data.spec import TensorSpec


class Nested(gym.Env):
    """Counts its steps in a tuple of a dict and of two numbers that count from elsewhere."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Tuple(
        (
            spaces.Dict({"inner": spaces.Dict({"x": spaces.Box(-1, 1, (2,), np.float32)}), "n": spaces.Discrete(9)}),
            spaces.MultiDiscrete([4, 20], start=[2, 5]),
        )
    )

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), 1.0, self.t == 3, False, {}

    def _obs(self):
        inner = {"x": np.full(2, self.t / 10, np.float32)}
        return ({"inner": inner, "n": self.t}, np.array([2 + self.t, 5 + self.t]))


gym.register("LabNested-v0", entry_point=Nested)


def test_leaves_are_named_by_their_paths_and_counted_from_zero():
    envs = make_envs("LabNested-v0", 2)
    whole = torch.int64
    assert envs.spec.inputs == {
        "0.inner.x": TensorSpec((2,), torch.float32, -1.0, 1.0),
        "0.n": TensorSpec((), whole, 0, 8),
        "1.0": TensorSpec((), whole, 0, 3),
        "1.1": TensorSpec((), whole, 0, 19),
    }
    envs.reset(0)
    for t in (1, 2, 3):
        step = envs.step(np.zeros(2, np.int64))
        for name, expected in {"0.n": t, "1.0": t, "1.1": t}.items():
            assert step.next_obs[name].tolist() == [expected] * 2
        assert np.allclose(step.next_obs["0.inner.x"], t / 10)
    assert step.terminated.all()
    assert step.obs["1.1"].tolist() == [0, 0]


def test_blackjack_is_a_dict_of_three_numbers():
    envs = make_envs("Blackjack-v1", 3)
    assert {name: int(spec.high) + 1 for name, spec in envs.spec.inputs.items()} == {"0": 32, "1": 11, "2": 2}
    player = envs.reset(1)["0"]
    assert player.shape == (3,)
    assert ((player >= 4) & (player <= 21)).all()


def test_plain_observations_are_left_alone():
    env = gym.make("CartPole-v1")
    assert without_nesting(env) is env
