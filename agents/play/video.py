"""Frames as a film (gif or mp4) or as coloured blocks in a terminal. A frame is (H, W, 3) uint8."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from agents.types import Frame
from lab.errors import Failure, UserError, shortened

SUFFIXES = (".gif", ".mp4")
_GIF_MAX_FPS = 50  # viewers slow down what claims to be faster


def check_video_path(path: Path) -> None:
    """Raises UserError for a suffix that is not a film's, or a folder that is not there."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--video {str(path)!r} is not a film. Valid choices: a name that ends in .gif or .mp4.")
    if not path.resolve().parent.is_dir():
        raise UserError(f"--video {str(path)!r}: there is no folder {str(path.parent)!r}.")


def write_video(path: Path, frames: Iterable[Frame], fps: float) -> None:
    """Write a gif or mp4, frame by frame. Raises Failure when the file cannot be written."""
    frames = iter(frames)
    if fps > _GIF_MAX_FPS / 2 and path.suffix.lower() == ".gif":
        every = max(1, round(fps / (_GIF_MAX_FPS / 2)))
        frames, fps = _thinned(frames, every), fps / every
    frames = _alike(frames, path)
    try:
        (_write_gif if path.suffix.lower() == ".gif" else _write_mp4)(path, frames, fps)
    except Failure:
        path.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise Failure(f"{shortened(str(path))} could not be written: {error.strerror or error}.") from error


def _thinned(frames: Iterator[Frame], every: int) -> Iterator[Frame]:
    """Each so-many-th frame from the first on, and the last one."""
    position, frame = -1, None
    for position, frame in enumerate(frames):
        if position % every == 0:
            yield frame
    if frame is not None and position % every:
        yield frame


def _alike(frames: Iterator[Frame], path: Path) -> Iterator[Frame]:
    """The frames. Raises Failure when they change their size, or are too small for a film."""
    shape: tuple[int, ...] = ()
    for frame in frames:
        shape = shape or frame.shape
        if frame.shape != shape or min(shape[:2]) < 2:
            raise Failure(
                f"{shortened(str(path))} is no film: it has pictures of {shape[1]}x{shape[0]} and "
                f"{frame.shape[1]}x{frame.shape[0]} pixels; all must be of one size, at least 2x2."
            )
        yield frame


def _write_gif(path: Path, frames: Iterator[Frame], fps: float) -> None:
    from PIL import Image

    images = map(Image.fromarray, frames)
    next(images).save(path, save_all=True, append_images=images, duration=1000 / fps, loop=0)


def _write_mp4(path: Path, frames: Iterator[Frame], fps: float) -> None:
    import imageio_ffmpeg

    even = (np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]) for frame in frames)
    first = next(even)
    writer = imageio_ffmpeg.write_frames(
        str(path), first.shape[1::-1], fps=fps, codec="libx264", macro_block_size=1, ffmpeg_log_level="error"
    )
    writer.send(None)
    try:
        for frame in chain([first], even):
            writer.send(frame)
    finally:
        writer.close()
    if not path.is_file() or not path.stat().st_size:
        raise OSError(errno.EIO, "the encoder failed")


def to_blocks(frame: Frame, columns: int) -> str:
    """A frame as rows of half-block characters in 24-bit colour, two pixels a character."""
    from PIL import Image

    rows = max(1, round(columns * frame.shape[0] / frame.shape[1] / 2))
    pixels = np.asarray(Image.fromarray(frame).resize((columns, rows * 2), Image.Resampling.BILINEAR))
    lines = []
    for upper, lower in zip(pixels[0::2], pixels[1::2], strict=True):
        cells = (
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m▀"
            for a, b in zip(upper, lower, strict=True)
        )
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)
