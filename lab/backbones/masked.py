"""Autoregressive backbones: features of a pixel that depend on the pixels before it alone, in raster order.

All map images (B, C, H, W) to features (B, F, H, W), where the features at (i, j) see rows above i and, in row i,
columns left of j. With `context=D` they also take a conditioning vector (B, D). Masked taps are not multiplied by
zero, they are not there: kernels are cut to the taps that remain, and the image is shifted.

For sampling, `stream(batch_size, width, context)` gives a `Stream`: the same function one pixel at a time, where each
layer keeps the rows that its kernel reaches and nothing else, so that a pixel costs the same in an image of any size.

B batch, C channels, H height, W width, F features, K kernel size.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones.registry import register


class Stream:
    """An autoregressive backbone at work on one batch of images, row by row and pixel by pixel."""

    period: int = 1
    """the work for rows repeats with this period"""

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

    def stream(self, batch_size: int, width: int, context: Tensor | None = None) -> Stream:
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


class CausalConv2d(nn.Module):
    """A KxK convolution over the pixels above and to the left: masks A and B of PixelRNN (van den Oord et al. 2016).

    Args:
        center: whether the pixel itself is seen (mask B) or not (mask A).
    """

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int, *, center: bool) -> None:
        super().__init__()
        if kernel_size % 2 == 0 or kernel_size < 3:
            raise ValueError(f"kernel_size={kernel_size} is not an odd number of at least 3")
        self.reach, self.center = kernel_size // 2, center
        num_left = self.reach + int(center)
        bound = (channels_in * (self.reach * kernel_size + num_left)) ** -0.5
        self.above = nn.Parameter(
            torch.empty(channels_out, channels_in, self.reach, kernel_size).uniform_(-bound, bound)
        )
        self.left = nn.Parameter(torch.empty(channels_out, channels_in, 1, num_left).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        # One convolution over the rows that are seen. It beats two that leave out the last row's few zeros as well.
        right = self.above.shape[-1] - self.left.shape[-1]
        weight = torch.cat([self.above, F.pad(self.left, (0, right))], 2)  # (out, in, reach + 1, K)
        return F.conv2d(F.pad(x, (self.reach, self.reach, self.reach, 0)), weight, self.bias)

    def stream(self, batch_size: int, width: int) -> CausalConvStream:
        return CausalConvStream(self, batch_size, width)


class CausalConvStream:
    """A CausalConv2d that does the rows above at the start of a row, and the taps on the left for each pixel."""

    def __init__(self, layer: CausalConv2d, batch_size: int, width: int) -> None:
        self.layer, self.left = layer, tap_matrix(layer.left)
        self.buffer = RowBuffer(layer.left, batch_size, width, layer.left.shape[1], layer.reach)
        self.from_above: Tensor = layer.bias

    def begin_row(self, above: Tensor | None = None) -> None:
        """`above` (B, W, in): the finished row of inputs, where `step` has not seen the last of it (mask A)."""
        if above is not None:
            self.buffer.fill(above)
        self.buffer.begin_row()
        reach = self.layer.reach
        out = F.conv2d(self.buffer.image(0, reach), self.layer.above, self.layer.bias, padding=(0, reach))
        self.from_above = out[:, :, 0].transpose(1, 2)  # (B, W, out)

    def step(self, column: int, x: Tensor) -> Tensor:
        """Output (B, out) at `column`; `x` (B, in) is the input there (mask B) or one to the left (mask A)."""
        last = column if self.layer.center else column - 1
        if last >= 0:
            self.buffer.put(last, x)
        window = self.buffer.before(last + 1, self.layer.left.shape[-1])
        return torch.addmm(self.from_above[:, column], window, self.left)


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


class PixelCNNBlock(nn.Module):
    """1x1, masked KxK, 1x1 around half the channels, beside a shortcut."""

    def __init__(self, channels: int, kernel_size: int, context: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(2 * channels, channels, 1)
        self.causal = CausalConv2d(channels, channels, kernel_size, center=True)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.context = ContextBias(context, channels)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.causal(self.reduce(F.relu(x)).relu_())
        out: Tensor = x + self.expand(add_bias(h, self.context(context)).relu_())
        return out


class PixelCNN(Causal):
    """See `pixelcnn`."""

    def __init__(self, channels_in: int, channels: int, blocks: int, first_kernel: int, kernel: int, context: int):
        super().__init__()
        self.input = CausalConv2d(channels_in, 2 * channels, first_kernel, center=False)
        self.blocks = nn.ModuleList(PixelCNNBlock(channels, kernel, context) for _ in range(blocks))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = channels_last(self.input(x))
        for block in self.blocks:
            h = block(h, context)
        return h

    def stream(self, batch_size: int, width: int, context: Tensor | None = None) -> Stream:
        return PixelCNNStream(self, batch_size, width, context)


class PixelCNNStream(Stream):
    def __init__(self, net: PixelCNN, batch_size: int, width: int, context: Tensor | None) -> None:
        self.input = net.input.stream(batch_size, width)
        self.blocks: list[PixelCNNBlock] = list(net.blocks)  # type: ignore[arg-type]
        self.causal = [block.causal.stream(batch_size, width) for block in self.blocks]
        self.biases = [block.context(context) for block in self.blocks]

    def begin_row(self, above: Tensor) -> None:
        self.input.begin_row(above)
        for causal in self.causal:
            causal.begin_row()

    def step(self, column: int, left: Tensor) -> Tensor:
        h = self.input.step(column, left)
        for block, causal, bias in zip(self.blocks, self.causal, self.biases, strict=True):
            inner = causal.step(column, F.relu(pointwise(block.reduce, F.relu(h))))
            h = h + pointwise(block.expand, F.relu(add_bias(inner, bias)))
        return h


def pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution of pixels or rows (..., C)."""
    return F.linear(x, conv.weight[:, :, 0, 0], conv.bias)


def gate(x: Tensor) -> Tensor:
    """tanh(a / 2) * sigmoid(b) of the halves of the channels: dimension 1 of images, the last of rows and pixels.

    The paper has tanh(a), which is the same with other weights; tanh(a / 2) = 2 sigmoid(a) - 1 needs one function over
    contiguous memory, four times as fast as two functions over the halves.
    """
    a, b = torch.sigmoid(x).chunk(2, dim=1 if x.dim() == 4 else -1)
    return (2 * a - 1) * b


class GatedLayer(nn.Module):
    """One layer of two stacks (van den Oord et al. 2016, Conditional Image Generation, figure 2).

    The inputs of the first layer are shifted (vertical down, horizontal right), so that no layer masks anything.
    """

    def __init__(self, channels_in: int, channels: int, kernel_size: int, context: int, *, last: bool) -> None:
        super().__init__()
        self.reach, self.residual, self.last = kernel_size // 2, channels_in == channels, last
        self.vertical = nn.Conv2d(channels_in, 2 * channels, (self.reach + 1, kernel_size))
        self.horizontal = nn.Conv2d(channels_in, 2 * channels, (1, self.reach + 1))
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels if last else 2 * channels, 1)
        self.context_v, self.context_h = ContextBias(context, 2 * channels), ContextBias(context, 2 * channels)

    def forward(self, v: Tensor, h: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Vertical stack, horizontal stack and skip connection, each (B, channels, H, W)."""
        reach = self.reach
        from_v = self.vertical(F.pad(v, (reach, reach, reach, 0)))
        from_h = self.horizontal(F.pad(h, (reach, 0))) + self.link(from_v)
        out = self.out(gate(add_bias(from_h, self.context_h(context))))
        if self.last:
            return v, h, out
        residual, skip = out.chunk(2, dim=1)
        v = gate(add_bias(from_v, self.context_v(context)))
        return v, (h + residual if self.residual else residual), skip


class GatedPixelCNN(Causal):
    """See `gated_pixelcnn`."""

    def __init__(self, channels_in: int, channels: int, layers: int, first_kernel: int, kernel: int, context: int):
        super().__init__()
        widths = [channels_in, *([channels] * layers)]
        self.layers = nn.ModuleList(
            GatedLayer(before, after, first_kernel if i == 0 else kernel, context, last=i == layers - 1)
            for i, (before, after) in enumerate(itertools.pairwise(widths))
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        v, h = channels_last(shift_down(x)), channels_last(shift_right(x))
        skips: Tensor | None = None
        for layer in self.layers:
            v, h, skip = layer(v, h, context)
            skips = skip if skips is None else skips + skip
        assert skips is not None
        return skips

    def stream(self, batch_size: int, width: int, context: Tensor | None = None) -> Stream:
        return GatedStream(self, batch_size, width, context)


class GatedStream(Stream):
    """The vertical stack does whole rows; only the horizontal one works pixel by pixel."""

    def __init__(self, net: GatedPixelCNN, batch_size: int, width: int, context: Tensor | None) -> None:
        self.layers: list[GatedLayer] = list(net.layers)  # type: ignore[arg-type]
        self.vertical: list[RowBuffer] = []
        self.horizontal: list[RowBuffer] = []
        self.left: list[Tensor] = []
        for layer in self.layers:
            like, channels_in = layer.horizontal.weight, layer.horizontal.in_channels
            self.vertical.append(RowBuffer(like, batch_size, width, channels_in, layer.reach))
            self.horizontal.append(RowBuffer(like, batch_size, width, channels_in, layer.reach))
            self.left.append(tap_matrix(like))
        self.biases = [(layer.context_v(context), layer.context_h(context)) for layer in self.layers]
        self.from_above: list[Tensor] = []

    def begin_row(self, above: Tensor) -> None:
        v, self.from_above = above, []
        for layer, buffer, (bias_v, bias_h) in zip(self.layers, self.vertical, self.biases, strict=True):
            buffer.begin_row()
            buffer.fill(v)
            conv = layer.vertical
            image = buffer.image(0, layer.reach + 1)
            from_v = F.conv2d(image, conv.weight, conv.bias, padding=(0, layer.reach))[:, :, 0].transpose(1, 2)
            self.from_above.append(add_bias(pointwise(layer.link, from_v) + bias_of(layer.horizontal), bias_h))
            v = gate(add_bias(from_v, bias_v))

    def step(self, column: int, left: Tensor) -> Tensor:
        h = left
        skips: Tensor | None = None
        for layer, buffer, above, taps in zip(self.layers, self.horizontal, self.from_above, self.left, strict=True):
            buffer.put(column, h)
            window = buffer.before(column + 1, layer.reach + 1)
            out = pointwise(layer.out, gate(torch.addmm(above[:, column], window, taps)))
            residual, skip = (out, out) if layer.last else out.chunk(2, dim=-1)
            skips = skip if skips is None else skips + skip
            h = h + residual if layer.residual else residual
        assert skips is not None
        return skips


def image_channels(input_shape: tuple[int, ...]) -> int:
    """Channels of an image shape (C, H, W). Raises ValueError for any other rank."""
    if len(input_shape) != 3:
        raise ValueError("it needs an image (channels, height, width)")
    return input_shape[0]


@register("pixelcnn", example_shape=(1, 8, 8))
def pixelcnn(
    input_shape: tuple[int, ...],
    *,
    channels: int = 16,
    blocks: int = 15,
    first_kernel: int = 7,
    kernel: int = 3,
    context: int = 0,
) -> nn.Module:
    """PixelCNN with masks A and B (van den Oord et al. 2016): features of each pixel from those before it."""
    return PixelCNN(image_channels(input_shape), channels, blocks, first_kernel, kernel, context)


@register("gated_pixelcnn", example_shape=(1, 8, 8))
def gated_pixelcnn(
    input_shape: tuple[int, ...],
    *,
    channels: int = 32,
    layers: int = 8,
    first_kernel: int = 7,
    kernel: int = 3,
    context: int = 0,
) -> nn.Module:
    """Gated PixelCNN (van den Oord et al. 2016): vertical and horizontal stacks, no blind spot."""
    return GatedPixelCNN(image_channels(input_shape), channels, layers, first_kernel, kernel, context)
