"""Atari: the drawable game sees what the vector environment sees; options; training-only preprocessing; replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agents.envs.make import Step, make_env, make_envs
from agents.replay.observation_store import FrameStore
from lab.data.spec import TensorSpec
from lab.errors import UserError

pytest.importorskip("ale_py")

REPEATABLE: dict[str, Any] = {"noop_max": 1, "repeat_action_probability": 0.0, "num_threads": 1}


@pytest.mark.slow
@pytest.mark.parametrize(("game", "ends"), [("Pong", False), ("Breakout", True)])
def test_a_drawable_game_is_the_vector_environment(game: str, ends: bool) -> None:
    """To the last frame of a game that ends."""
    envs = make_envs(f"ALE/{game}-v5", 1, REPEATABLE, training=False)
    env = make_env(f"ALE/{game}-v5", {**REPEATABLE, "noop_max": 0}, render_mode="rgb_array")
    seen, (obs, _) = envs.reset(0), env.reset(seed=0)
    rng = np.random.default_rng(0)
    terminated = False
    for _ in range(1000 if ends else 150):
        assert np.abs(seen[0].astype(int) - obs).max() <= 1  # rounding
        if terminated:
            break
        action = rng.integers(envs.spec.actions.num, size=1)  # type: ignore[union-attr]
        step = envs.step(action)
        obs, reward, terminated, truncated, _ = env.step(int(action[0]))
        assert (reward, terminated, truncated) == (step.reward[0], step.terminated[0], step.truncated[0])
        seen = step.next_obs
    assert terminated == ends
    assert np.asarray(env.render()).shape == (210, 160, 3)
    env.close()


def random_steps(options: dict[str, Any], training: bool, num_steps: int) -> list[Step]:
    envs = make_envs("ALE/Breakout-v5", 4, {"num_threads": 1, **options}, training=training)
    envs.reset(0)
    rng = np.random.default_rng(0)
    steps = [envs.step(rng.integers(4, size=4)) for _ in range(num_steps)]
    envs.close()
    return [step._replace(obs=step.obs.copy(), next_obs=step.next_obs.copy()) for step in steps]


@pytest.mark.slow
def test_life_loss_ends_episodes_in_training_only() -> None:
    with_lives, whole = (
        sum(int(step.terminated.sum()) for step in random_steps({"life_loss": True}, training, 250))
        for training in (True, False)
    )
    assert with_lives > 2 * whole > 0


@pytest.mark.slow
def test_frames_of_a_game_are_stored_once() -> None:
    envs = make_envs("ALE/Breakout-v5", 4, {"num_threads": 1, "life_loss": True})
    store = FrameStore(400, 4, TensorSpec((4, 84, 84), torch.uint8), torch.device("cpu"))
    obs, start, rng = envs.reset(0), np.ones(4, bool), np.random.default_rng(0)
    wanted = []
    for _ in range(120):
        before = np.array(obs)
        step = envs.step(rng.integers(4, size=4))
        wanted.append((before, step.next_obs.copy()))  # type: ignore[union-attr]
        store.append(*(torch.from_numpy(x[None].copy()) for x in (before, step.next_obs, start)))  # type: ignore[arg-type]
        obs, start = step.obs, step.terminated | step.truncated
    for t, (want, want_next) in enumerate(wanted):
        index = torch.arange(t * 4, t * 4 + 4)
        np.testing.assert_array_equal(store.obs(index).numpy(), want)
        np.testing.assert_array_equal(store.next_obs(index).numpy(), want_next)
    assert store.rings["frames"].num_written < 120 * 4 * 1.1


def test_unknown_options_and_games_are_sentences() -> None:
    with pytest.raises(UserError, match="life_loss"):
        make_envs("ALE/Pong-v5", 1, {"life_los": True})
    with pytest.raises(UserError, match="ALE/Pong-v5"):
        make_envs("ALE/Pogn-v5", 1)
