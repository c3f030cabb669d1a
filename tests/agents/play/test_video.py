"""Films: the last picture is there, pictures that make none are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agents.play.video import write_video
from lab.errors import Failure


def grey(value: int, size: tuple[int, int] = (16, 16)) -> Any:
    return np.full((*size, 3), value, np.uint8)


@pytest.mark.parametrize("num", [1, 2, 9, 10, 11])
@pytest.mark.parametrize("fps", [10, 50, 200])
def test_a_gif_ends_with_the_last_picture(tmp_path: Path, num: int, fps: int) -> None:
    write_video(tmp_path / "a.gif", [grey(20 * i) for i in range(num)], fps)
    with Image.open(tmp_path / "a.gif") as film:
        film.seek(film.n_frames - 1)  # type: ignore[attr-defined]
        assert abs(np.asarray(film.convert("L")).mean() - 20 * (num - 1)) < 3


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
@pytest.mark.parametrize(
    "frames", [[grey(0, (1, 1))] * 3, [grey(0), grey(1, (8, 8))], [grey(0), grey(1, (1, 16))]], ids=["small", "a", "b"]
)
def test_pictures_of_other_sizes_are_no_film(tmp_path: Path, frames: list[Any], suffix: str) -> None:
    with pytest.raises(Failure, match=r"is no film: it has pictures of .* all must be of one size, at least 2x2"):
        write_video(tmp_path / f"a{suffix}", frames, 10)
    assert not list(tmp_path.iterdir())  # half a film is none


def test_an_encoder_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import imageio_ffmpeg

    def nothing(*arguments: Any, **options: Any) -> Any:
        while True:
            yield

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", nothing)
    with pytest.raises(Failure, match="the encoder failed"):
        write_video(tmp_path / "a.mp4", [grey(0)] * 3, 10)
