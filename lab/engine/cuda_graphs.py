"""Work on a GPU as CUDA graphs: many kernels with one launch.

The kernels of a small network take a GPU less time than Python takes to ask for them one by one. A graph asks for all
of them at once, and always for the same ones on the same memory: what it works on is copied to where it has been
recorded, and whatever depends on the values of tensors must not branch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from lab.engine.torch_private import foreach_copy_
from lab.errors import UserError

Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""work on memory that stays where it is -> the same work, to be done again"""

_NUM_WARM_UPS = 3


def on_gpu(tensors: Sequence[Tensor]) -> bool:
    """Whether work on these tensors can be a CUDA graph."""
    return all(t.is_cuda for t in tensors)


def cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """`work` as a CUDA graph, which does it when called. It has to have run before, so that it is warm.

    Raises RuntimeError when it cannot be recorded: it waits for the GPU, say, or allocates on the CPU.
    """
    graph = torch.cuda.CUDAGraph()
    torch.clear_autocast_cache()  # what was cast before would be cast never again
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may go on with theirs
        work()
    torch.clear_autocast_cache()
    replay: Callable[[], None] = graph.replay
    return replay


def warm_up(function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> list[Tensor]:
    """`function` of the inputs, run where recording will run: on a stream beside the current one."""
    main, aside = torch.cuda.current_stream(), _side_stream(torch.cuda.current_device())
    aside.wait_stream(main)
    with torch.cuda.stream(aside):
        outputs = list(function(*inputs))
    main.wait_stream(aside)
    for output in outputs:
        output.record_stream(main)
    return outputs


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """One a device: memory that it has used serves it again."""
    return torch.cuda.Stream(device)


@contextmanager
def recording() -> Iterator[None]:
    """What an update cannot be recorded for is a UserError that says how to do without."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise UserError(
            f"trainer.engine='traced' cannot record this network here ({str(error).splitlines()[0]}); "
            f"use trainer.engine=eager."
        ) from error


class Captured:
    """A function of tensors that is called as it is three times, and from then on as a CUDA graph.

    Calling it raises UserError when it cannot be recorded.

    Args:
        function: (*inputs) -> outputs, for inputs that always have these shapes and types. It may change memory of its
            own in place (running statistics), and draw from torch's own generator.
        places: memory that takes the first outputs, which are overwritten by the next call; the others are not.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], places: Sequence[Tensor] = ()) -> None:
        self.function, self.places = function, list(places)
        self._warm_ups_left = _NUM_WARM_UPS
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._replay: Callable[[], None] | None = None

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if self._warm_ups_left:
            self._warm_ups_left -= 1
            return self.places + warm_up(self._work, *inputs)
        if self._replay is None:
            self._inputs = [t.clone() for t in inputs]
            with recording():
                self._replay = cuda_graph(self._record)
        foreach_copy_(self._inputs, list(inputs))
        self._replay()
        return self.places + [output.clone() for output in self._outputs]

    def _record(self) -> None:
        self._outputs = self._work(*self._inputs)

    def _work(self, *inputs: Tensor) -> list[Tensor]:
        """The outputs that have no place."""
        outputs = [output.detach() for output in self.function(*inputs)]
        if self.places:
            with torch.no_grad():
                foreach_copy_(self.places, outputs[: len(self.places)])
        return outputs[len(self.places) :]
