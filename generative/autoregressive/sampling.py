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
from generative.learner import OnProgress
from lab.engine.cuda_graphs import Recorder, cuda_graph
from lab.long_work import tell

Backend = Literal["naive", "cached", "fixed_point"]


class AutoregressiveNet(Protocol):
    """A backbone and a head."""

    head: Head

    @property
    def causal(self) -> Causal: ...

    def features(self, x: Tensor, context: Tensor | None) -> Tensor: ...


class KnownPixels(NamedTuple):
    """The known part of images to be completed: the pixels of `image` (N, C, H, W) where `mask` (N, 1, H, W) is true.

    Pixels are drawn in raster order, each conditioned on all pixels before it, known ones included: exact when the
    known part comes first (the upper rows); otherwise rows below do not inform rows above.
    """

    image: Tensor
    mask: Tensor

    def part(self, index: Tensor | slice) -> KnownPixels:
        """Those of some of the images."""
        return KnownPixels(self.image[index], self.mask[index])


class SampleRequest(NamedTuple):
    """Images to draw, of `shape` (C, H, W).

    noise: (N, num_noise, H, W) uniform in [0, 1), the source of all randomness
    context: (N, D) conditioning vectors, or None
    temperature: see `GenerativeLearner.sample`
    known: the known part of the images, or None
    """

    shape: tuple[int, int, int]
    noise: Tensor
    context: Tensor | None
    temperature: float
    known: KnownPixels | None

    def with_known(self, x: Tensor) -> Tensor:
        """Images x (N, C, H, W) with the known pixels put in."""
        return x if self.known is None else torch.where(self.known.mask, self.known.image, x)


def sample(
    net: AutoregressiveNet, request: SampleRequest, backend: Backend, on_progress: OnProgress | None = None
) -> Tensor:
    """Images (N, C, H, W) in [0, 1]. `on_progress` is called with (rows or passes done, their largest number)."""
    with torch.no_grad():
        return _BACKENDS[backend](net, request, on_progress or (lambda done, total: tell("sampling", done, total)))


def naive(net: AutoregressiveNet, request: SampleRequest, on_progress: OnProgress) -> Tensor:
    """One forward pass over the whole images for each channel of each pixel."""
    channels, height, width = request.shape
    x = request.with_known(request.noise.new_zeros(len(request.noise), *request.shape))
    for row in range(height):
        for column in range(width):
            for channel in range(channels):
                hidden = net.head.prepare(net.features(x, request.context))
                drawn = request.with_known(net.head.draw(hidden, x, request.noise, request.temperature))
                x[:, channel, row, column] = drawn[:, channel, row, column]
        on_progress(row + 1, height)
    return x


def cached(
    net: AutoregressiveNet, request: SampleRequest, on_progress: OnProgress, record: Recorder | None = None
) -> Tensor:
    """The backbone's stream: whole rows where possible, one pixel where not.

    `record` makes the pixels of a row a recording that is replayed; by default a CUDA graph where there is a GPU.
    The stream's first rows, one for each recording, warm it up.
    """
    channels, height, width = request.shape
    if record is None and request.noise.is_cuda:
        record = cuda_graph
    memory = RowMemory(net, request)
    recordings: list[Callable[[], None]] = []
    x = request.noise.new_zeros(len(request.noise), height + 1, width, channels)  # a row of zeros above
    for row in range(height):
        memory.begin_row(row, x[:, row])
        if record is None or memory.period is None or row < memory.period:
            with one_thread():
                memory.draw()
        else:
            if len(recordings) < memory.period:
                recordings.append(record(memory.draw))
            recordings[row % memory.period]()
        x[:, row + 1] = memory.pixels[:, 1:]
        on_progress(row + 1, height)
    return x[:, 1:].permute(0, 3, 1, 2).contiguous()


class RowMemory:
    """The tensors that drawing the pixels of a row reads and writes; they stay in place from row to row."""

    def __init__(self, net: AutoregressiveNet, request: SampleRequest) -> None:
        channels, _, width = request.shape
        self.net, self.request, self.width = net, request, width
        self.stream = net.causal.stream(len(request.noise), width, request.context)
        self.period = self.stream.period
        self.pixels = request.noise.new_zeros(len(request.noise), width + 1, channels)  # the row, a zero on its left
        self.noise = torch.empty_like(request.noise[:, :, :1])  # (N, num_noise, 1, W)
        if request.known is not None:
            self.mask = torch.empty_like(request.known.mask[:, 0, 0, :, None])  # (N, W, 1)
            self.image = torch.empty_like(request.known.image[:, :, 0].transpose(1, 2))  # (N, W, C)

    def begin_row(self, row: int, above: Tensor) -> None:
        """Go on to `row`; `above` (N, W, C) is the finished row before it."""
        self.noise.copy_(self.request.noise[:, :, row : row + 1])
        if self.request.known is not None:
            self.mask.copy_(self.request.known.mask[:, 0, row, :, None])
            self.image.copy_(self.request.known.image[:, :, row].transpose(1, 2))
        self.stream.begin_row(above)

    def draw(self) -> None:
        """Draw the row's pixels from left to right."""
        for column in range(self.width):
            hidden = self.net.head.prepare(self.stream.step(column, self.pixels[:, column])[:, :, None, None])
            noise = self.noise[..., column : column + 1]
            pixel = self.pixels[:, column + 1, :, None, None]  # (N, C, 1, 1), a view
            for channel in range(self.pixels.shape[2]):
                drawn = self.net.head.draw(hidden, pixel, noise, self.request.temperature)
                pixel[:, channel] = drawn[:, channel]
            if self.request.known is not None:
                now = self.pixels[:, column + 1]
                now.copy_(torch.where(self.mask[:, column], self.image[:, column], now))


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: products of a pixel are too small to gain by more, and wait for them where cores are busy."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def fixed_point(net: AutoregressiveNet, request: SampleRequest, on_progress: OnProgress) -> Tensor:
    """Parallel passes until nothing changes; images that have arrived leave the batch."""
    channels, height, width = request.shape
    most = channels * height * width + 1
    x = request.with_known(request.noise.new_zeros(len(request.noise), *request.shape))
    moving = torch.arange(len(x), device=x.device)
    for num_passes in range(1, most + 1):
        part = SampleRequest(
            request.shape,
            request.noise[moving],
            None if request.context is None else request.context[moving],
            request.temperature,
            None if request.known is None else request.known.part(moving),
        )
        before = x[moving]
        hidden = net.head.prepare(net.features(before, part.context))
        after = part.with_known(net.head.draw(hidden, before, part.noise, request.temperature))
        x[moving] = after
        moving = moving[(after != before).flatten(1).any(1)]
        on_progress(num_passes, most)
        if not len(moving):
            break
    on_progress(most, most)
    return x


_BACKENDS: dict[Backend, Callable[[AutoregressiveNet, SampleRequest, OnProgress], Tensor]] = {
    "naive": naive,
    "cached": cached,
    "fixed_point": fixed_point,
}
