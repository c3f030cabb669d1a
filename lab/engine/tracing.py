"""A function of parameters and a batch as a recorded graph of operators, replayed without autograd's book-keeping.

For a small network most of an update's time is not arithmetic but bookkeeping and slow corner cases of single
operators. On a CPU, recording (`make_fx`) takes the first away; graph passes (graph_passes.py) take away the second.
On a GPU the recording is a CUDA graph (cuda_graphs.py).

The graph is a function of batch shapes: whatever depends on tensor values must not branch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from lab.engine.cuda_graphs import Captured, on_gpu
from lab.engine.graph_passes import optimize_graph
from lab.engine.loss import LossFunction, Metrics
from lab.engine.torch_private import reparametrize_module

Function = Callable[..., Sequence[Tensor]]


def record(
    module: nn.Module,
    names: Sequence[str],
    function: Function,
    inputs: Sequence[Tensor],
    places: Sequence[Tensor] = (),
) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Record `function` for inputs of these shapes.

    Args:
        function: (the named parameters of `module`, *inputs) -> outputs, in which `module` uses these parameters.
        places: memory for the first outputs, used where it spares a copy.

    Returns:
        inputs -> outputs, without gradient; it follows the parameters as long as they are changed in place.
    """
    parameters = [module.get_parameter(name) for name in names]
    if on_gpu(inputs):
        return Captured(lambda *inputs: function(parameters, *inputs), places)

    def flat(*tensors: Tensor) -> list[Tensor]:
        leaves, inputs = tensors[: len(names)], tensors[len(names) :]
        with reparametrize_module(module, dict(zip(names, leaves, strict=True))):
            return list(function(leaves, *inputs))

    with undone(module):
        graph = make_fx(flat)(*(p.detach().requires_grad_() for p in parameters), *inputs)
    storage = [p.detach() for p in parameters]
    constants = optimize_graph(graph, storage, inputs, places)
    run = graph.forward

    def replay(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad(), np.errstate(all="ignore"):
            outputs: list[Tensor] = run(*storage, *inputs, *constants)
        return outputs

    return replay


Step = Callable[[Any], tuple[list[Tensor], Metrics, dict[str, Tensor]]]
"""a minibatch -> (gradients, metrics, extras)"""


def trace(
    module: nn.Module, names: Sequence[str], loss: LossFunction, batch: Any, places: Sequence[Tensor] = ()
) -> Step:
    """Record `loss` and its gradient with respect to the named parameters for minibatches of these shapes.

    `batch` is a NamedTuple of tensors, with None in the fields that the loss does not use. `places` is memory for the
    gradients, used where it spares a copy.
    """
    form, used = type(batch), [index for index, value in enumerate(batch) if value is not None]
    metric_names: list[str] = []
    extra_names: list[str] = []

    def flat(leaves: Sequence[Tensor], *inputs: Tensor) -> list[Tensor]:
        fields: list[Tensor | None] = [None] * len(batch)
        for index, value in zip(used, inputs, strict=True):
            fields[index] = value
        value, metrics, extras = loss(form(*fields))
        metric_names[:], extra_names[:] = metrics, extras
        gradients = torch.autograd.grad(value, leaves, materialize_grads=True)
        return [*gradients, *metrics.values(), *extras.values()]

    replay = record(module, names, flat, [batch[index] for index in used], places)
    num_gradients = len(names)

    def step(batch: Any) -> tuple[list[Tensor], Metrics, dict[str, Tensor]]:
        outputs = replay([batch[index] for index in used])
        first_extra = num_gradients + len(metric_names)
        return (
            outputs[:num_gradients],
            dict(zip(metric_names, outputs[num_gradients:first_extra], strict=True)),
            dict(zip(extra_names, outputs[first_extra:], strict=True)),
        )

    return step


@contextmanager
def undone(module: nn.Module) -> Iterator[Callable[[], bool]]:
    """Leave buffers (running statistics) and random state as they were. Gives what says whether noise was drawn."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with torch.random.fork_rng():
        before = _random_states()
        yield lambda: after != before
        after = _random_states()
    for buffer, value in buffers:
        buffer.copy_(value)


def _random_states() -> list[bytes]:
    """Of the CPU's generator, and of the GPUs' where they are used."""
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]
    return [state.numpy().tobytes() for state in states]
