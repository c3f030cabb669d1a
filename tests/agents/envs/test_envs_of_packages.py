"""Environments of packages outside the project, by `package:Env-v0`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from agents.envs.make import make_env, make_envs
from lab import catalog
from lab.errors import UserError

PACKAGE = """
import gymnasium
import numpy as np

class Steps(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.ones(3, np.float32), 1.0, False, False, {}

gymnasium.register("Steps-v0", Steps)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "steps_of_a_package.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("steps_of_a_package", None)
    return "steps_of_a_package"


def test_an_environment_of_an_allowed_package_is_made(package: str) -> None:
    catalog.allow_import(package)
    envs = make_envs(f"{package}:Steps-v0", 3)
    assert np.array_equal(envs.reset(0), np.zeros((3, 3)))
    assert envs.step(np.zeros(3, np.int64)).reward.tolist() == [1.0] * 3
    envs.close()
    assert make_env(f"{package}:Steps-v0").reset()[0].shape == (3,)
    with pytest.raises(UserError, match="'steps_of_a_package' registers no environment 'Step-v0'"):
        make_envs(f"{package}:Step-v0", 1)
