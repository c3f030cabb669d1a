"""A tape does on a CPU what a CUDA graph does: the same operators on the same memory."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Keeps every operator with its arguments and results; replayed, results land where they lay."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, out in self.calls:
            aliases = [returned.alias_info for returned in func._schema.returns]
            if any(alias is not None and not alias.is_write for alias in aliases):
                continue  # a view needs no work
            for place, tensor in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if place is not tensor:
                    place.copy_(tensor)


class Recorder:
    """Counts recordings and replays. Unlike a graph a tape works while it records: its first replay does nothing."""

    def __init__(self):
        self.num_recordings = self.num_replays = 0

    def __call__(self, work):
        self.num_recordings += 1
        tape, first = Tape(), [True]
        with tape:
            work()

        def replay():
            self.num_replays += 1
            if first:
                first.clear()
            else:
                tape.replay()

        return replay
