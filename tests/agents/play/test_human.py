"""A person at the keyboard, as pygame's own events in a window without a screen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.envs.make import InProcessEnvs, make_env
from agents.play.demonstrations import EpisodeRecorder
from agents.play.human import play_by_hand
from agents.play.key_bindings import Controls, controls_of
from agents.play.screens import GameWindow

Lab = Callable[..., Any]


@pytest.fixture
def window() -> Any:
    made = GameWindow("test")
    made(np.zeros((4, 4, 3), np.uint8))
    yield made
    made.close()


def typing(*moments: dict[str, Any]) -> Callable[[float], None]:
    """Instead of sleeping: what the person does before the next step, one moment a step; then the window is closed."""
    import pygame

    left = iter(moments)

    def sleep(seconds: float) -> None:
        moment = next(left, {"close": True})
        for name in moment.get("down", "").split():
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.key.key_code(name)))
        for name in moment.get("up", "").split():
            pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.key.key_code(name)))
        if "close" in moment:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    return sleep


def test_keys_move_the_environment_and_are_recorded(window: GameWindow, tmp_path: Path) -> None:
    envs = InProcessEnvs([lambda: make_env("CartPole-v1", None, render_mode="rgb_array")])
    controls = controls_of("CartPole-v1", envs.envs[0], envs.spec.actions)
    recorder = EpisodeRecorder(tmp_path / "demos", "CartPole-v1", {}, envs.spec, "human")
    held_right: list[dict[str, Any]] = [{}, {"down": "right"}, *[{}] * 200]
    episodes = play_by_hand(
        envs, "CartPole-v1", controls, window, 1, seed=3, recorder=recorder, sleep=typing(*held_right)
    )
    envs.close()
    (episode,) = episodes
    with np.load(tmp_path / "demos" / "episode-000000.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert arrays["obs"].shape == (episode.length + 1, 4)
    assert arrays["action"].tolist() == [1] * episode.length  # time stood still before the key
    assert bool(arrays["terminated"])
    env = make_env("CartPole-v1")
    obs, _ = env.reset(seed=3)
    for seen in arrays["obs"][:-1]:
        np.testing.assert_array_equal(obs, seen)
        obs, *_ = env.step(1)
    np.testing.assert_array_equal(obs, arrays["obs"][-1])
    index = json.loads((tmp_path / "demos" / "dataset.json").read_text())
    assert index["episodes"] == [
        {"file": "episode-000000.npz", "return": episode.episode_return, "length": episode.length, "source": "human"}
    ]


def test_time_goes_on_where_there_is_an_action_for_no_key(window: GameWindow) -> None:
    taken: list[float] = []

    class Seen(InProcessEnvs):
        def step(self, actions: Any) -> Any:
            taken.append(float(actions[0][0]))
            return super().step(actions)

    envs = Seen([lambda: make_env("Pendulum-v1", None, render_mode="rgb_array")])
    controls = controls_of("Pendulum-v1", envs.envs[0], envs.spec.actions)
    moments: list[dict[str, Any]] = [{}, {"down": "left"}, {}, {"up": "left", "down": "right"}]
    assert play_by_hand(envs, "Pendulum-v1", controls, window, 1, sleep=typing(*moments)) == []
    assert taken == [0.0, 0.0, 2.0, 2.0, -2.0]
    envs.close()


def test_escape_ends_and_leaves_out_what_was_not_finished(window: GameWindow, tmp_path: Path) -> None:
    envs = InProcessEnvs([lambda: make_env("CartPole-v1", None, render_mode="rgb_array")])
    recorder = EpisodeRecorder(tmp_path / "demos", "CartPole-v1", {}, envs.spec, "human")
    controls = Controls({frozenset({"a"}): 1}, 0)
    moments: list[dict[str, Any]] = [{}, {"down": "escape"}]
    assert play_by_hand(envs, "CartPole-v1", controls, window, 1, recorder=recorder, sleep=typing(*moments)) == []
    assert not (tmp_path / "demos").exists()
    envs.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--human", "CartPole-v1"], "there is no display here"),
        (["--human", "CartPol-v1"], "Did you mean 'CartPole-v1'"),
        (["--human", "CartPole-v1", "--keys", "left=9"], "--keys"),
        (["--human", "CartPole-v1", "runs/x"], "it is you who plays"),
        (["runs/x", "--keys", "left=0"], "--keys belongs to --human"),
        ([], "--human ENV to play yourself"),
    ],
)
def test_bad_input_is_one_sentence(lab: Lab, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if "no display" not in says:
        monkeypatch.setenv("DISPLAY", ":0")  # SDL's own driver stays the one without a screen
    done = lab("play", *words)
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1


def test_a_person_plays_from_the_command_line(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(GameWindow, "listen", lambda self: self.keys_down.__setitem__(slice(None), ["right"]))
    words = ("--episodes", 2, "--record", tmp_path / "demos", "--video", tmp_path / "me.gif")
    done = lab("play", "--human", "CartPole-v1", *words)
    assert done.code == 0, done.err
    assert "right  push right" in done.out
    assert "over 2 episodes of CartPole-v1" in done.out
    assert (tmp_path / "me.gif").stat().st_size > 1_000
    index = json.loads((tmp_path / "demos" / "dataset.json").read_text())
    assert [episode["source"] for episode in index["episodes"]] == ["human", "human"]
