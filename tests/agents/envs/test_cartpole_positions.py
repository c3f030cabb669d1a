"""CartPole without velocities: alone, side by side, and made from gymnasium alone as exported scripts do."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from agents.envs.cartpole_positions import ENV_ID, FROM_GYMNASIUM
from agents.envs.make import make_env


def test_exported_scripts_make_the_same_environment() -> None:
    options = {"sutton_barto_reward": True}
    keywords = "".join(f", {key}={value!r}" for key, value in options.items())
    theirs, ours = eval(FROM_GYMNASIUM.format(options=keywords), {"gym": gym}), make_env(ENV_ID, options)
    obs, expected = theirs.reset(seed=4)[0], ours.reset(seed=4)[0]
    for t in range(200):
        assert obs.dtype == np.float32
        np.testing.assert_array_equal(obs, expected)
        (obs, *outcome, _), (expected, *expected_outcome, _) = theirs.step(t % 2), ours.step(t % 2)
        assert outcome == expected_outcome
        if outcome[1] or outcome[2]:
            break
    assert outcome[1]
