"""Autoregressive backbones of images whose levels are names, not brightnesses: codes, classes, palette entries.

B batch, C channels, H height, W width, E numbers that stand for one symbol.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from generative.autoregressive.backbones.causal import Causal, PixelStream, image_channels
from generative.autoregressive.backbones.gated import GatedPixelCNN
from lab.backbones.registry import register


class SymbolPixelCNN(Causal):
    """A causal network over learned vectors, one for each level."""

    def __init__(self, levels: int, embedding: int, channels: int, net: Causal) -> None:
        super().__init__()
        self.levels, self.size, self.net = levels, embedding * channels, net
        self.table = nn.Embedding(levels, embedding)

    def embed(self, x: Tensor) -> Tensor:
        """Levels (..., C) in [0, 1] as vectors (..., C * E)."""
        symbol = (x * (self.levels - 1)).round().long().clamp(0, self.levels - 1)
        return F.embedding(symbol, self.table.weight).flatten(-2)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        out: Tensor = self.net(self.embed(x.movedim(1, -1)).movedim(-1, 1), context)
        return out

    def stream(self, batch_size: int, width: int, context: Tensor | None = None) -> PixelStream:
        return SymbolStream(self, self.net.stream(batch_size, width, context))


class SymbolStream(PixelStream):
    """Embeds the inputs of the inner stream; outside of the image there is no symbol, only zeros."""

    def __init__(self, net: SymbolPixelCNN, inner: PixelStream) -> None:
        self.net, self.inner, self.period, self.first_row = net, inner, inner.period, True

    def begin_row(self, above: Tensor) -> None:
        empty = above.new_zeros(*above.shape[:-1], self.net.size)
        self.inner.begin_row(empty if self.first_row else self.net.embed(above))
        self.first_row = False

    def step(self, column: int, left: Tensor) -> Tensor:
        empty = left.new_zeros(*left.shape[:-1], self.net.size)
        return self.inner.step(column, empty if column == 0 else self.net.embed(left))


@register("symbol_pixelcnn", example_shape=(1, 8, 8))
def symbol_pixelcnn(
    input_shape: tuple[int, ...],
    *,
    levels: int = 256,
    embedding: int = 16,
    channels: int = 32,
    layers: int = 8,
    first_kernel: int = 7,
    kernel: int = 3,
    context: int = 0,
) -> nn.Module:
    """Gated PixelCNN over symbols: each of the `levels` values of a pixel is a learned vector at the input."""
    if levels < 2:
        raise ValueError(f"levels={levels} is fewer than 2")
    num_inputs = image_channels(input_shape)
    net = GatedPixelCNN(embedding * num_inputs, channels, layers, first_kernel, kernel, context)
    return SymbolPixelCNN(levels, embedding, num_inputs, net)
