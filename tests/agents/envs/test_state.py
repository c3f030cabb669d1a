"""The state of environments and of what is wrapped around them: whole, or none."""

from __future__ import annotations

import io
import logging
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium import wrappers

from agents.envs.make import InProcessEnvs
from agents.experience.collector import LocalCollector
from tests.agents.experience.test_collector import CountEnv, Scripted


class Counting(gym.Wrapper[Any, Any, Any, Any]):
    """Holds an object of its own kind, which nobody can save."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.counter = object()


def stacked(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return wrappers.FrameStackObservation(env, 3)


def delayed(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return wrappers.DelayObservation(env, 2)


def timed(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return wrappers.TimeAwareObservation(wrappers.RecordEpisodeStatistics(env))


def sticky(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return wrappers.StickyAction(env, 0.5)


@pytest.mark.parametrize(
    "wrap", [stacked, delayed, timed, sticky, wrappers.NormalizeObservation, wrappers.NormalizeReward]
)
def test_the_state_of_wrappers_is_saved_too(wrap: Any) -> None:
    makers = [lambda: wrap(gym.make("CartPole-v1"))] * 2
    script = torch.randint(2, (40, 2), generator=torch.Generator().manual_seed(0)).tolist()
    whole = LocalCollector(InProcessEnvs(makers), seed=3)
    whole.collect(Scripted(script[:17]), 17)
    state = whole.state_dict()
    expected = whole.collect(Scripted(script[17:]), 23)
    resumed = LocalCollector(InProcessEnvs(makers), seed=99)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    actual = resumed.collect(Scripted(script[17:]), 23)
    for name in ("obs", "next_obs", "action", "reward", "terminated", "truncated", "start", "valid"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name


def test_a_state_that_is_not_whole_is_none(caplog: pytest.LogCaptureFixture) -> None:
    makers = [lambda: Counting(gym.make("CartPole-v1"))]
    collector = LocalCollector(InProcessEnvs(makers), seed=3)
    collector.collect(Scripted([[0]] * 5), 5)
    assert collector.state_dict()["envs"] is None
    resumed = LocalCollector(InProcessEnvs(makers), seed=4)
    with caplog.at_level(logging.WARNING, "lab"):
        resumed.load_state_dict(collector.state_dict())
    assert "they go on with fresh episodes" in caplog.text
    assert resumed.collect(Scripted([[0]] * 5), 5).start[0].all()


def test_an_environment_with_an_attribute_env_is_no_wrapper() -> None:
    class Holder(CountEnv):
        def __init__(self) -> None:
            super().__init__()
            self.env = "production"

    collector = LocalCollector(InProcessEnvs([Holder]), seed=0)
    collector.collect(Scripted([[0]] * 2), 2)
    again = LocalCollector(InProcessEnvs([Holder]), seed=0)
    again.load_state_dict(collector.state_dict())
    assert again.collect(Scripted([[0]]), 1).obs.tolist() == [[[0.0, 2.0]]]  # type: ignore[union-attr]
