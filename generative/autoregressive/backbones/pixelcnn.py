"""PixelCNN (van den Oord et al. 2016, Pixel Recurrent Neural Networks): convolutions that see earlier pixels alone.

Masked taps are not multiplied by zero, they are not there: kernels are cut to the taps that remain.

B batch, C channels, H height, W width, K kernel size.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from generative.autoregressive.backbones.causal import (
    Causal,
    ContextBias,
    PixelStream,
    RowBuffer,
    add_bias,
    bias_of,
    channels_last,
    image_channels,
    pointwise,
    tap_matrix,
)
from lab.backbones.registry import register


class CausalConv2d(nn.Module):
    """A KxK convolution over the pixels above and to the left: masks A and B of PixelRNN (van den Oord et al. 2016).

    Args:
        center: whether it sees the pixel itself (mask B) or not (mask A).
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

    def weight(self) -> Tensor:
        """The taps as one kernel (out, in, reach + 1, K) over the rows that it sees.

        It beats two kernels that leave out the last row's few zeros as well.
        """
        return torch.cat([self.above, F.pad(self.left, (0, self.above.shape[-1] - self.left.shape[-1]))], 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (self.reach, self.reach, self.reach, 0)), self.weight(), self.bias)

    def stream(self, batch_size: int, width: int) -> CausalConvStream:
        return CausalConvStream(self, batch_size, width)


class CausalConvStream:
    """A CausalConv2d that does the rows above at the start of a row, and the taps on the left for each pixel."""

    def __init__(self, layer: CausalConv2d, batch_size: int, width: int) -> None:
        self.layer, self.left = layer, tap_matrix(layer.left)
        self.buffer = RowBuffer(layer.left, batch_size, width, layer.left.shape[1], layer.reach)
        self.from_above = layer.bias.new_zeros(batch_size, width, len(layer.bias))

    def begin_row(self, above: Tensor | None = None) -> None:
        """`above` (B, W, in): the finished row of inputs, where `step` did not take its last pixel (mask A)."""
        if above is not None:
            self.buffer.fill(above)
        self.buffer.begin_row()
        reach = self.layer.reach
        out = F.conv2d(self.buffer.image(0, reach), self.layer.above, self.layer.bias, padding=(0, reach))
        self.from_above.copy_(out[:, :, 0].transpose(1, 2))

    def step(self, column: int, x: Tensor) -> Tensor:
        """Output (B, out) at `column`; `x` (B, in) is the input there (mask B) or one to the left (mask A)."""
        last = column if self.layer.center else column - 1
        if last >= 0:
            self.buffer.put(last, x)
        window = self.buffer.before(last + 1, self.layer.left.shape[-1])
        return torch.addmm(self.from_above[:, column], window, self.left)


class PixelCNNBlock(nn.Module):
    """1x1, masked KxK, 1x1 around half the channels, beside a shortcut."""

    def __init__(self, channels: int, kernel_size: int, context: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(2 * channels, channels, 1)
        self.causal = CausalConv2d(channels, channels, kernel_size, center=True)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.context = ContextBias(context, channels)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        bias = self.context(context)
        if bias is None and torch.is_grad_enabled() and x.requires_grad and not x.is_leaf:
            reduce, causal, expand = self.reduce, self.causal, self.expand
            weights = (reduce.weight, causal.weight(), expand.weight)
            biases = (bias_of(reduce), causal.bias, bias_of(expand))
            parameters = itertools.chain.from_iterable(zip(weights, biases, strict=True))
            added: Tensor = AddBottleneck.apply(x, *(p.to(x.dtype) for p in parameters))
            return added
        h = self.causal(self.reduce(F.relu(x)).relu_())
        out: Tensor = x + self.expand(add_bias(h, bias).relu_())
        return out


class AddBottleneck(torch.autograd.Function):
    """What a PixelCNNBlock does, added to x (B, 2 C, H, W) in place; the gradients, too, are made where they lie.

    Small networks spend their time on moving feature maps. This moves a quarter less of them than plain autograd does.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_in: Tensor, b_in: Tensor, w: Tensor, b: Tensor, w_out: Tensor, b_out: Tensor
    ) -> Tensor:
        reach = w.shape[2] - 1
        active = F.relu(x)
        padded = F.pad(F.conv2d(active, w_in, b_in).relu_(), (reach, reach, reach, 0))
        h = F.conv2d(padded, w, b).relu_()
        ctx.save_for_backward(active, padded, h, w_in, w, w_out)
        ctx.mark_dirty(x)
        return x.add_(F.conv2d(h, w_out, b_out))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        active, padded, h, w_in, w, w_out = ctx.saved_tensors
        reach = w.shape[2] - 1
        grad_h, grad_w_out, grad_b_out = conv_gradients(grad, h, w_out)
        grad_padded, grad_w, grad_b = conv_gradients(where_positive_(grad_h, h), padded, w)
        inside = (..., slice(reach, None), slice(reach, -reach))
        grad_reduced = where_positive_(grad_padded[inside], padded[inside])
        grad_active, grad_w_in, grad_b_in = conv_gradients(grad_reduced, active, w_in)
        grad_x = where_positive_(grad_active, active).add_(grad)
        return grad_x, grad_w_in, grad_b_in, grad_w, grad_b, grad_w_out, grad_b_out


def conv_gradients(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a plain convolution's input, weight and bias."""
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, True]
    )
    return gradients


def where_positive_(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient through a ReLU whose output was `x`, in place."""
    out: Tensor = torch.ops.aten.threshold_backward.grad_input(grad, x, 0, grad_input=grad)
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

    def stream(self, batch_size: int, width: int, context: Tensor | None = None) -> PixelStream:
        return PixelCNNStream(self, batch_size, width, context)


class PixelCNNStream(PixelStream):
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
