"""Keys and names of actions."""

from __future__ import annotations

import gymnasium as gym
import pytest

from agents.envs.make import make_env
from agents.envs.spaces import spec_of
from agents.play.key_bindings import Controls, action_names, controls_of, parse_keys
from lab.data.spec import Continuous, Discrete, MultiDiscrete
from lab.errors import UserError

IDS = ["CartPole-v1", "CartPolePositions-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1", "Pendulum-v1",
       "FrozenLake-v1", "CliffWalking-v1", "Taxi-v3"]  # fmt: skip


@pytest.mark.parametrize("env_id", IDS)
def test_every_key_is_an_action_of_the_environment(env_id: str) -> None:
    env = make_env(env_id)
    actions = spec_of(env.observation_space, env.action_space).actions
    controls = controls_of(env_id, env, actions)
    for action in [*controls.keys.values(), *([] if controls.idle is None else [controls.idle])]:
        if isinstance(action, int):
            assert action in range(int(env.action_space.n))  # type: ignore[attr-defined]
        else:
            low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
            assert all(low[i] <= part <= high[i] for i, part in enumerate(action))
    names = action_names(env_id, env, actions)
    assert len(names) == len(set(names)) == actions.num  # type: ignore[union-attr]
    assert not names[0].startswith("action")
    assert all(line.strip() for line in controls.lines(names))
    env.close()


def test_keys_held_together_mean_their_own_action_or_the_newest_alone() -> None:
    controls = Controls({frozenset({"a"}): 1, frozenset({"d"}): 2, frozenset({"a", "d"}): 3}, 0)
    assert controls.action(frozenset(), None) == 0
    assert controls.action(frozenset({"a", "d"}), "d") == 3
    assert controls.action(frozenset({"a", "x"}), "x") == 0
    assert controls.action(frozenset({"a", "x"}), "a") == 1
    assert Controls({frozenset({"a"}): 1}).action(frozenset(), None) is None


def test_typed_keys() -> None:
    controls = parse_keys("left=0 up+left=2 none=1", Discrete(3))
    assert controls.keys == {frozenset({"left"}): 0, frozenset({"up", "left"}): 2}
    assert controls.idle == 1
    assert parse_keys("up=0,1 none=0,0", Continuous((-1, -1), (1, 1))).keys == {frozenset({"up"}): (0.0, 1.0)}


@pytest.mark.parametrize("text", ["left", "left=x", "left=7", "=1", "left=0.5", ""])
def test_wrong_keys_are_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match="--keys"):
        parse_keys(text, Discrete(3))
    with pytest.raises(UserError, match="--keys"):
        parse_keys("left=0,5", MultiDiscrete((2, 2)))


def test_an_environments_own_keys_and_those_of_unknown_ones() -> None:
    class Game(gym.Env):  # type: ignore[type-arg]
        def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
            return {("w",): 1, ("w", " "): 2, ("e",): 0}

        def get_action_meanings(self) -> list[str]:
            return ["NOOP", "UP", "UPFIRE"]

    controls = controls_of("Game-v0", Game(), Discrete(3))
    assert controls.idle == 0
    assert controls.keys[frozenset({"up", "space"})] == controls.keys[frozenset({"w", "space"})] == 2
    assert action_names("Game-v0", Game(), Discrete(3)) == ("noop", "up", "upfire")
    plain: gym.Env = gym.Env()  # type: ignore[type-arg]
    assert controls_of("My-v0", plain, Discrete(3)).keys[frozenset({"2"})] == 2
    assert controls_of("My-v0", plain, Continuous((0.5,), (2.0,))).idle == (0.5,)
    with pytest.raises(UserError, match="--keys 'up=1,0 none=0,0'"):
        controls_of("My-v0", plain, Continuous((0, 0), (1, 1)))
