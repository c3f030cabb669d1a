"""Three ways to draw from an autoregressive image model that give the same images from the same noise.

- naive: a full forward pass for each channel of each pixel. Slow; the oracle for the others.
- cached: the backbone's stream, in which a pixel costs the same whatever the size of the image.
- fixed_point: an image is a function of its noise in which every pixel depends on those before it, so that iterating
  the parallel pass from any start ends at that image after at most as many passes as there are pixels, and usually
  after far fewer (Jacobi iteration; Song et al. 2021, Accelerating Feedforward Computation). For any masked network.

N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from generative.autoregressive.backbones.causal import Causal
from generative.autoregressive.heads import Head
from lab.engine.cuda_graphs import Recorder, cuda_graph

Backend = Literal["naive", "cached", "fixed_point"]
Progress = Callable[[int, int], None]


class AutoregressiveNet(Protocol):
    """A backbone and a head."""

    head: Head

    @property
    def causal(self) -> Causal: ...

    def features(self, x: Tensor, context: Tensor | None) -> Tensor: ...


class Given(NamedTuple):
    """A part of the images that is known: `image` (N, C, H, W) holds where `known` (N, 1, H, W) is true.

    Pixels are drawn in raster order, each given all pixels before it, known ones included: exact when the known part
    comes first (the upper rows); otherwise what lies below does not inform what lies above.
    """

    image: Tensor
    known: Tensor


class Task(NamedTuple):
    """What is to be drawn: `noise` (N, num_noise, H, W) in [0, 1), a context (N, D) or None, the known part."""

    shape: tuple[int, int, int]
    noise: Tensor
    context: Tensor | None
    temperature: float
    given: Given | None

    def with_given(self, x: Tensor) -> Tensor:
        """Images with the known part put in."""
        return x if self.given is None else torch.where(self.given.known, self.given.image, x)


def sample(net: AutoregressiveNet, task: Task, backend: Backend, progress: Progress | None = None) -> Tensor:
    """Images (N, C, H, W) in [0, 1]. `progress` is called with (rows or passes done, their largest number)."""
    with torch.no_grad():
        return _BACKENDS[backend](net, task, progress or (lambda done, total: None))


def naive(net: AutoregressiveNet, task: Task, progress: Progress) -> Tensor:
    """One forward pass over the whole images for each channel of each pixel."""
    channels, height, width = task.shape
    x = task.with_given(task.noise.new_zeros(len(task.noise), *task.shape))
    for row in range(height):
        for column in range(width):
            for channel in range(channels):
                hidden = net.head.prepare(net.features(x, task.context))
                drawn = task.with_given(net.head.draw(hidden, x, task.noise, task.temperature))
                x[:, channel, row, column] = drawn[:, channel, row, column]
        progress(row + 1, height)
    return x


def cached(net: AutoregressiveNet, task: Task, progress: Progress, record: Recorder | None = None) -> Tensor:
    """The backbone's stream: whole rows where possible, one pixel where not.

    `record` makes the pixels of a row a recording that is replayed; by default a CUDA graph where there is a GPU.
    The stream's first rows, one for each recording, warm it up.
    """
    channels, height, width = task.shape
    if record is None and task.noise.is_cuda:
        record = cuda_graph
    work = RowWork(net, task)
    recordings: list[Callable[[], None]] = []
    x = task.noise.new_zeros(len(task.noise), height + 1, width, channels)  # a row of zeros above
    for row in range(height):
        work.begin_row(row, x[:, row])
        if record is None or work.period is None or row < work.period:
            with one_thread():
                work.draw()
        else:
            if len(recordings) < work.period:
                recordings.append(record(work.draw))
            recordings[row % work.period]()
        x[:, row + 1] = work.pixels[:, 1:]
        progress(row + 1, height)
    return x[:, 1:].permute(0, 3, 1, 2).contiguous()


class RowWork:
    """All that drawing the pixels of a row reads and writes, in memory that stays where it is."""

    def __init__(self, net: AutoregressiveNet, task: Task) -> None:
        channels, _, width = task.shape
        self.net, self.task, self.width = net, task, width
        self.stream = net.causal.stream(len(task.noise), width, task.context)
        self.period = self.stream.period
        self.pixels = task.noise.new_zeros(len(task.noise), width + 1, channels)  # the row, a zero on its left
        self.noise = torch.empty_like(task.noise[:, :, :1])  # (N, num_noise, 1, W)
        if task.given is not None:
            self.known = torch.empty_like(task.given.known[:, 0, 0, :, None])  # (N, W, 1)
            self.image = torch.empty_like(task.given.image[:, :, 0].transpose(1, 2))  # (N, W, C)

    def begin_row(self, row: int, above: Tensor) -> None:
        """Go on to `row`; `above` (N, W, C) is the finished row before it."""
        self.noise.copy_(self.task.noise[:, :, row : row + 1])
        if self.task.given is not None:
            self.known.copy_(self.task.given.known[:, 0, row, :, None])
            self.image.copy_(self.task.given.image[:, :, row].transpose(1, 2))
        self.stream.begin_row(above)

    def draw(self) -> None:
        """Draw the row's pixels from left to right."""
        for column in range(self.width):
            hidden = self.net.head.prepare(self.stream.step(column, self.pixels[:, column])[:, :, None, None])
            noise = self.noise[..., column : column + 1]
            pixel = self.pixels[:, column + 1, :, None, None]  # (N, C, 1, 1), a view
            for channel in range(self.pixels.shape[2]):
                drawn = self.net.head.draw(hidden, pixel, noise, self.task.temperature)
                pixel[:, channel] = drawn[:, channel]
            if self.task.given is not None:
                now = self.pixels[:, column + 1]
                now.copy_(torch.where(self.known[:, column], self.image[:, column], now))


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: products of a pixel are too small to gain by more, and wait for them where cores are busy."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def fixed_point(net: AutoregressiveNet, task: Task, progress: Progress) -> Tensor:
    """Parallel passes until nothing changes; images that have arrived leave the batch."""
    channels, height, width = task.shape
    most = channels * height * width + 1
    x = task.with_given(task.noise.new_zeros(len(task.noise), *task.shape))
    moving = torch.arange(len(x), device=x.device)
    for done in range(1, most + 1):
        part = Task(
            task.shape,
            task.noise[moving],
            None if task.context is None else task.context[moving],
            task.temperature,
            None if task.given is None else Given(task.given.image[moving], task.given.known[moving]),
        )
        before = x[moving]
        hidden = net.head.prepare(net.features(before, part.context))
        after = part.with_given(net.head.draw(hidden, before, part.noise, task.temperature))
        x[moving] = after
        moving = moving[(after != before).flatten(1).any(1)]
        progress(done, most)
        if not len(moving):
            break
    progress(most, most)
    return x


_BACKENDS: dict[Backend, Callable[[AutoregressiveNet, Task, Progress], Tensor]] = {
    "naive": naive,
    "cached": cached,
    "fixed_point": fixed_point,
}
