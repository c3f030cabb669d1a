"""What a backbone consists of: its layers, parameters, multiply-adds and memory.

The network runs as it is evaluated: nothing is dropped, and heads that only training has do not run. Memory, in bytes:

    weights    parameters and buffers
    outputs    those of all rows, in-place ones once: what a forward pass makes; less is alive at a time in inference,
               which frees an output once it is used
    training   a step with Adam: parameters, their gradients and two moments, buffers, and all that autograd keeps of a
               forward pass; gradients of outputs, which come and go, and masks of dropout are not counted

Samples are counted by running one and two of them: each further sample adds what the second one adds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lab.backbones.registry import Backbone
from lab.backbones.summary.trace import Row, place, trace_layers


class Summary(NamedTuple):
    """The rows of a backbone in the order of their calls, and totals for `batch_size` samples.

    num_steps: of each sample that a recurrent backbone reads; None of a feed-forward one
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    batch_size: int
    num_steps: int | None
    rows: tuple[Row, ...]
    parameters: int
    trainable_parameters: int
    multiply_adds: int
    weight_bytes: int
    output_bytes: int
    training_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return self._asdict() | {"rows": [row._asdict() for row in self.rows]}


def summarize(backbone: Backbone, batch_size: int = 1, num_steps: int = 1) -> Summary:
    """Summarize a backbone for a batch of inputs; a recurrent one reads `num_steps` steps of each."""
    rows, saved = _measured(backbone, 1, num_steps)
    if batch_size > 1:
        more_rows, more_saved = _measured(backbone, 2, num_steps)
        rows = [_scaled(one, two, batch_size) for one, two in zip(rows, more_rows, strict=True)]
        saved += (batch_size - 1) * (more_saved - saved)
    trainable = [p for p in backbone.parameters() if p.requires_grad]
    weights = sum(tensor.nbytes for tensor in (*backbone.parameters(), *backbone.buffers()))
    return Summary(
        input_shape=backbone.input_shape,
        output_shape=backbone.output_shape,
        batch_size=batch_size,
        num_steps=num_steps if backbone.recurrent else None,
        rows=tuple(rows),
        parameters=sum(p.numel() for p in backbone.parameters()),
        trainable_parameters=sum(p.numel() for p in trainable),
        multiply_adds=sum(row.multiply_adds for row in rows),
        weight_bytes=weights,
        output_bytes=sum(row.output_bytes for row in rows),
        training_bytes=weights + 3 * sum(p.nbytes for p in trainable) + saved,
    )


def _scaled(one: Row, two: Row, batch_size: int) -> Row:
    """A row for `batch_size` samples, from that of one and that of two."""
    return one._replace(
        multiply_adds=one.multiply_adds + (batch_size - 1) * (two.multiply_adds - one.multiply_adds),
        output_bytes=one.output_bytes + (batch_size - 1) * (two.output_bytes - one.output_bytes),
    )


def _measured(backbone: Backbone, batch_size: int, num_steps: int) -> tuple[list[Row], int]:
    """The rows of a batch, and the bytes that autograd keeps of it."""
    if backbone.recurrent:
        x = torch.zeros(num_steps, batch_size, *backbone.input_shape)
        no_reset = torch.zeros(num_steps, batch_size, dtype=torch.bool)
        inputs: tuple[Tensor, ...] = (x, backbone.initial_state(batch_size), no_reset)
    else:
        inputs = (torch.zeros(batch_size, *backbone.input_shape),)
    training = backbone.training
    backbone.eval()
    try:
        return trace_layers(backbone.net, inputs, int(backbone.recurrent)), saved_bytes(backbone, inputs)
    finally:
        backbone.train(training)


def saved_bytes(backbone: Backbone, inputs: tuple[Tensor, ...]) -> int:
    """Bytes that autograd keeps of a forward pass, each place of memory once, without parameters and buffers."""
    weights = {place(tensor) for tensor in (*backbone.parameters(), *backbone.buffers())}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if place(tensor) not in weights:
            saved[place(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = backbone(*inputs)  # while it is there, what is kept for it keeps its place
    del outputs
    return sum(saved.values())
