"""Playing trained agents: films, the terminal, other environments, and what people type wrong."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from agents.play.screens import Film
from agents.play.video import to_blocks, write_video
from lab.config.overrides import override
from lab.config.recipes import find
from lab.errors import UserError
from lab.runs.directory import Run
from lab.training.restore import restore
from lab.training.train import train

Lab = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short actor-critic run."""
    path = tmp_path_factory.mktemp("play") / "run"
    settings = ["trainer.budget=2048", "trainer.eval_period=2048", "tracking.mode=disabled", "data.rounds=2"]
    train(override(find("pg/cartpole")(), settings), run_dir=path)
    return path


@pytest.mark.slow
def test_plays_and_films_episodes(lab: Lab, run: Path, tmp_path: Path) -> None:
    film = tmp_path / "pole.gif"
    done = lab("play", run, "--episodes", 2, "--render", "none", "--video", film, "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert len(report["episodes"]) == 2
    assert all(episode["return"] == episode["length"] for episode in report["episodes"])
    with Image.open(film) as image:
        assert image.size == (600, 400)
        assert image.n_frames > 2


@pytest.mark.slow
def test_the_same_seed_plays_the_same_episodes(lab: Lab, run: Path) -> None:
    words = ("play", run, "--episodes", 2, "--seed", 5, "--sample", "--render", "none", "--json")
    assert lab(*words).out == lab(*words).out


@pytest.mark.slow
def test_draws_in_the_terminal(lab: Lab, run: Path) -> None:
    done = lab("play", run, "--episodes", 1, "--render", "ansi", "--sample")
    assert done.code == 0
    assert "▀" in done.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--env", "CartPol-v1"], "Did you mean 'CartPole-v1'"),
        (["--env", "Acrobot-v1"], "does not fit this agent"),
        (["--env", "no_such_package:Env-v0"], "--import no_such_package"),
        (["--video", "film.avi"], ".gif or .mp4"),
        (["--video", "no/such/folder/film.gif"], "there is no folder"),
        (["--episodes", "0"], "give 1 to 1,000,000"),
        (["--explain"], "nowhere to be shown"),
    ],
)
def test_bad_input_is_one_sentence(lab: Lab, run: Path, arguments: list[str], says: str) -> None:
    done = lab("play", run, "--render", "none", *arguments)
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1


def test_a_window_needs_a_display(lab: Lab, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    done = lab("play", run, "--render", "human")
    assert done.code == 2
    assert "there is no display here" in done.err


def test_films_an_episode_or_says_why_not(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, data, module, _ = restore(Run.open(run))
    film = module.film(data, tmp_path / "media")
    assert film == tmp_path / "media" / "episode.mp4"
    assert film.stat().st_size > 1_000
    monkeypatch.setattr("agents.episodes.picture", lambda env, env_id: (_ for _ in ()).throw(UserError("no pictures")))
    assert module.film(data, tmp_path / "none") is None
    data.close()


def test_blocks() -> None:
    assert to_blocks(np.zeros((41, 61, 3), np.uint8), 20).count("▀") == 20 * 7


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_film_shows_each_frame_in_order(suffix: str, tmp_path: Path) -> None:
    """Sizes that are odd lose a row and a column in an mp4."""
    frames = [np.full((41, 61, 3), 40 * i, np.uint8) for i in range(6)]
    path = tmp_path / f"film{suffix}"
    write_video(path, frames, fps=10)
    if suffix == ".gif":
        with Image.open(path) as image:
            shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    else:
        _, *packed = imageio_ffmpeg.read_frames(str(path))
        shown = [np.frombuffer(frame, np.uint8).reshape(40, 60, 3) for frame in packed]
    assert shown[0].shape[:2] == ((41, 61) if suffix == ".gif" else (40, 60))
    np.testing.assert_allclose([frame.mean() for frame in shown], [40 * i for i in range(6)], atol=4)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_minutes_of_film_need_little_memory(suffix: str, tmp_path: Path) -> None:
    frame = np.zeros((200, 300, 3), np.uint8)
    tracemalloc.start()
    film = Film()
    for i in range(100):
        frame[:, : 3 * i] = 200
        film(frame)
    assert film.num_frames == 100
    write_video(tmp_path / f"film{suffix}", film.frames, fps=25)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * frame.nbytes
    assert [int(kept.mean()) for kept in film.frames] == [2 * i for i in range(100)]
