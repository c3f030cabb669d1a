"""The layers of a network in the order of their calls, with what each computes and makes.

Each call of a layer is a row, and so is an operator outside of all layers that multiplies (the products of an
attention, a step of an LSTM). A layer that repeats itself at once shares the row; one that comes again later has a
number. Layers that hand on their input (flatten, identity, dropout) have no row; what has parameters and did not run as
a layer stands at the end.

Multiply-adds are those of convolutions, matrix products, recurrent layers and attention, as torch counts them; biases,
normalisation, activations and pooling add none, and attention counts whole, masked or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lab.backbones.summary.kinds import PASSES_ON, is_layer, kind_of, times
from lab.backbones.summary.receptive_field import ReceptiveFields, tensors_of
from lab.engine.torch_private import DispatchMode, cpu_attention, writes_arguments


class Row(NamedTuple):
    """One call of a layer, or several at once.

    name: dotted, within the network; "" for the network itself
    output_shape: of one call and one sample, without the batch; None of what did not run as a layer
    parameters: those that no row above has
    output_bytes: 0 where the output lies where an input lay
    receptive_field: pixels of the input along each axis, "all" for the whole input, None where it makes no sense
    """

    name: str
    kind: str
    calls: int
    output_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int
    output_bytes: int
    receptive_field: tuple[int, ...] | Literal["all"] | None


def trace_layers(net: nn.Module, inputs: Sequence[Tensor], batch_axis: int = 0) -> list[Row]:
    """The rows of a network that is in evaluation mode; its inputs hold the batch along `batch_axis`."""
    with torch.inference_mode():
        trace = _Trace(net, ReceptiveFields(inputs[0]), batch_axis, inputs[0].shape[batch_axis])
        with _frozen(net), _plain_attention(), trace.counter, trace.hooks(), trace:
            net(*inputs)
    return trace.all_rows()


def place(tensor: Tensor) -> int:
    """Where a tensor's numbers lie; views of one tensor lie in one place."""
    return tensor.untyped_storage().data_ptr()


@dataclass
class _Call:
    """A call of a module that has not come back, the multiply-adds of all before it, whether it wrote in place."""

    module: nn.Module
    multiply_adds: int
    writes: bool = False


class _Trace(DispatchMode):
    """Writes down rows while a network runs in inference mode, where operators are seen as they were called."""

    def __init__(self, net: nn.Module, fields: ReceptiveFields, batch_axis: int, batch_size: int) -> None:
        super().__init__()
        self.counter = FlopCounterMode(display=False, custom_mapping=dict(_FLOPS))
        self.fields, self.batch_axis, self.batch_size = fields, batch_axis, batch_size
        self.names = {module: name for name, module in net.named_modules()}
        self.layers = {module for module in self.names if is_layer(module)}
        self.owners = {place(p): module for module in self.layers for p in module.parameters()}
        self.calls: list[_Call] = []
        self.counted: set[Tensor] = set()
        self.rows: list[Row] = []
        self.num_rows: Counter[nn.Module] = Counter()
        self.last: tuple[Any, ...] = ()

    def all_rows(self) -> list[Row]:
        """The rows in the order of their calls, then what has parameters and did not run as a layer."""
        rest = []
        for module, name in self.names.items():
            if module in self.layers:
                rest.append(Row(name, kind_of(module), 0, None, self._new(module.parameters()), 0, 0, None))
            else:
                for key, p in module.named_parameters(prefix=name, recurse=False):
                    rest.append(Row(key, f"Parameter {times(p.shape)}", 0, None, self._new([p]), 0, 0, None))
        return [*self.rows, *(row for row in rest if row.parameters)]

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Take note of the calls of all modules as long as this lasts."""
        with ExitStack() as stack:
            for module in self.names:
                stack.callback(module.register_forward_pre_hook(self._enter).remove)
                stack.callback(module.register_forward_hook(self._leave, with_kwargs=True).remove)
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        before, kwargs = self._multiply_adds(), kwargs or {}
        out = func(*args, **kwargs)
        outputs, inputs = tensors_of([out]), tensors_of([args, *kwargs.values()])
        self.fields.follow(func, args, kwargs, outputs)
        layer = self._layer()
        if layer is not None:
            layer.writes |= writes_arguments(func)
        elif self._multiply_adds() > before:
            owner = next((self.owners[place(each)] for each in inputs if place(each) in self.owners), None)
            self._add(owner or self.calls[-1].module, func.overloadpacket.__name__, inputs, outputs[0], before)
        return out

    def _enter(self, module: nn.Module, args: Any) -> None:
        self.calls.append(_Call(module, self._multiply_adds()))

    def _leave(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        call = self.calls.pop()
        inputs, outputs = tensors_of([args, *kwargs.values()]), tensors_of([output])
        if self._layer() is not None or module not in self.layers or isinstance(module, PASSES_ON) or not outputs:
            return
        if isinstance(module, nn.LocalResponseNorm):  # it averages over channels as over one more axis of space
            self.fields.same(inputs[0], outputs[0])
        made = place(outputs[0]) not in map(place, inputs)
        if made or call.writes or any(True for _ in module.parameters()):
            self._add(module, "", inputs, outputs[0], call.multiply_adds)

    def _add(self, module: nn.Module, operator: str, inputs: list[Tensor], output: Tensor, before: int) -> None:
        """Write down a call of a layer, or of an `operator` with the weights of a layer, or with none."""
        layer = module in self.layers
        parameters = module.parameters() if layer else [each for each in inputs if isinstance(each, nn.Parameter)]
        row = Row(
            name=self.names[module],
            kind=kind_of(module) if layer else operator.replace("_", " "),
            calls=1,
            output_shape=self._sample_shape(output),
            parameters=self._new(parameters),
            multiply_adds=self._multiply_adds() - before,
            output_bytes=0 if place(output) in map(place, inputs) else output.nbytes,
            receptive_field=self.fields.size(output),
        )
        what = (row.name, row.kind, row.output_shape, row.receptive_field)
        if what == self.last:
            above = self.rows.pop()
            row = above._replace(
                calls=above.calls + 1,
                multiply_adds=above.multiply_adds + row.multiply_adds,
                output_bytes=above.output_bytes + row.output_bytes,
            )
        elif layer:
            self.num_rows[module] += 1
            number = self.num_rows[module]
            row = row._replace(name=f"{row.name} ({number})" if number > 1 else row.name)
        self.last = what
        self.rows.append(row)

    def _layer(self) -> _Call | None:
        """The call of a layer that has not come back."""
        return next((call for call in self.calls if call.module in self.layers), None)

    def _multiply_adds(self) -> int:
        return self.counter.get_total_flops() // 2

    def _new(self, parameters: Iterable[Tensor]) -> int:
        """How many numbers the parameters hold that no row has yet."""
        new = set(parameters) - self.counted
        self.counted |= new
        return sum(p.numel() for p in new)

    def _sample_shape(self, output: Tensor) -> tuple[int, ...]:
        """Without the batch, which is one sample."""
        axis = self.batch_axis if output.dim() > self.batch_axis + 1 else 0
        shape = list(output.shape)
        if shape and shape[axis] == self.batch_size:
            del shape[axis]
        return tuple(shape)


@contextmanager
def _frozen(net: nn.Module) -> Iterator[None]:
    """No parameter asks for gradients: torch's counter would look for them where a module is called with one."""
    trainable = [p for p in net.parameters() if p.requires_grad]
    try:
        for p in trainable:
            p.requires_grad_(False)
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention layers take no shortcut through one operator, of which nobody knows what it multiplies."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _lstm_flops(x: Sequence[int], w_ih: Sequence[int], w_hh: Sequence[int], *_: Any, **__: Any) -> int:
    """One layer of an LSTM in one direction over x (T, B, D)."""
    return 2 * prod(x[:-1]) * (prod(w_ih) + prod(w_hh))


def _attention_flops(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    """Queries (..., T, D), keys (..., S, D), values (..., S, V): both products."""
    return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


_FLOPS = {torch.ops.aten.mkldnn_rnn_layer: _lstm_flops, cpu_attention: _attention_flops}
"""of operators that a CPU has and torch does not count"""
