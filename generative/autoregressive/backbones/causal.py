"""The base of autoregressive backbones, the two ways in which they run, and their common parts.

All map images (B, C, H, W) to features (B, F, H, W), where the features at (i, j) see rows above i and, in row i,
columns left of j. `forward` does whole images, for training; for sampling, `stream(batch_size, width, context)` gives a
`PixelStream`: the same function one pixel at a time, where each layer remembers the rows that its kernel reaches and
nothing else, so that a pixel costs the same in an image of any size. With `context=D` both take a conditioning vector
(B, D).

B batch, C channels, H height, W width, F features, K kernel size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PixelStream:
    """An autoregressive backbone at work on one batch of images, row by row and pixel by pixel.

    `step` reads and writes the same memory in every row, and its operators depend on the column and on the row's
    remainder by `period` alone, so that the steps of a row can be recorded once (a CUDA graph) and replayed.
    """

    period: int | None = 1
    """the steps of rows repeat with this period; None: they do not"""

    def begin_row(self, above: Tensor) -> None:
        """Start the next row; `above` (B, W, C) is the finished row before it, zeros for the first."""
        raise NotImplementedError

    def step(self, column: int, left: Tensor) -> Tensor:
        """Features (B, F) of the pixel at `column`; `left` (B, C) is the pixel before it, zeros for the first."""
        raise NotImplementedError


class Causal(nn.Module):
    """The base of autoregressive backbones."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def stream(self, batch_size: int, width: int, context: Tensor | None = None) -> PixelStream:
        """Begin a batch of images of `width` columns."""
        raise NotImplementedError


class RowBuffer:
    """The last `reach` rows and the current one of a layer's input, with `reach` zero columns on the left."""

    def __init__(self, like: Tensor, batch_size: int, width: int, channels: int, reach: int) -> None:
        self.reach = reach
        self.rows = like.new_zeros(batch_size, reach + 1, reach + width, channels)

    def begin_row(self) -> None:
        """Move all rows up by one."""
        self.rows[:, :-1] = self.rows[:, 1:].clone()

    def fill(self, row: Tensor) -> None:
        """Set the whole current row (B, W, C)."""
        self.rows[:, -1, self.reach :] = row

    def put(self, column: int, pixel: Tensor) -> None:
        """Set one pixel (B, C) of the current row."""
        self.rows[:, -1, self.reach + column] = pixel

    def before(self, column: int, taps: int) -> Tensor:
        """The `taps` pixels of the current row that end before `column`, flat (B, taps * C)."""
        end = self.reach + column
        return self.rows[:, -1, end - taps : end].flatten(1)

    def image(self, first: int, last: int) -> Tensor:
        """Rows `first` to `last` of the buffer as an image (B, C, rows, W)."""
        return self.rows[:, first:last, self.reach :].permute(0, 3, 1, 2)


def store_in_place(places: list[Tensor], tensors: Sequence[Tensor]) -> None:
    """Copy tensors into `places`, where the steps of every row read them; the first row makes the places."""
    if not places:
        places.extend(tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors)
        return
    for place, tensor in zip(places, tensors, strict=True):
        place.copy_(tensor)


def channels_last(x: Tensor) -> Tensor:
    """The layout in which convolutions of few channels are fastest on a CPU, and bf16 ones on a GPU."""
    return x.contiguous(memory_format=torch.channels_last)


def shift_down(x: Tensor) -> Tensor:
    """Row i of the result is row i - 1 of `x`."""
    return F.pad(x[:, :, :-1], (0, 0, 1, 0))


def shift_right(x: Tensor) -> Tensor:
    """Column j of the result is column j - 1 of `x`."""
    return F.pad(x[..., :-1], (1, 0))


def tap_matrix(weight: Tensor) -> Tensor:
    """A kernel (out, in, 1, taps) as the matrix (taps * in, out) that multiplies flat windows."""
    return weight[:, :, 0].permute(2, 1, 0).reshape(-1, weight.shape[0]).contiguous()


def bias_of(conv: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """The bias of a convolution that has one."""
    assert conv.bias is not None
    return conv.bias


class ContextBias(nn.Module):
    """A bias (B, out) made from the context (B, D); zero-sized without a context."""

    def __init__(self, context: int, channels_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(context, channels_out, bias=False) if context else None

    def forward(self, context: Tensor | None) -> Tensor | None:
        if self.linear is None:
            return None
        if context is None:
            context = self.linear.weight.new_zeros(1, self.linear.in_features)
        out: Tensor = self.linear(context)
        return out


def add_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    """Add (B, C) to images (B, C, H, W), rows (B, W, C) or pixels (B, C)."""
    if bias is None:
        return x
    if x.dim() == 4:
        return x + bias[:, :, None, None]
    return x + (bias[:, None] if x.dim() == 3 else bias)


def pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution of pixels or rows (..., C)."""
    return F.linear(x, conv.weight[:, :, 0, 0], conv.bias)


def image_channels(input_shape: tuple[int, ...]) -> int:
    """Channels of an image shape (C, H, W). Raises ValueError for any other rank."""
    if len(input_shape) != 3:
        raise ValueError("it needs an image (channels, height, width)")
    return input_shape[0]
