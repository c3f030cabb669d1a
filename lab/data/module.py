"""The base of all data modules: a spec, a device, an endless stream of chunks, and a state.

A chunk is what one `training_step` works through: many minibatches, or an experience handle. The stream never ends by
itself (the budget does), continues from the data module's state, and has a length, so that Lightning does not prefetch.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lab.data.items import Item
from lab.data.spec import DataSpec
from lab.errors import UserError
from lab.lightning import LightningDataModule


class ChunkStream:
    """An endless loader over `data.next_chunk()`."""

    def __init__(self, data: LabDataModule) -> None:
        self.data = data

    def __len__(self) -> int:
        return 2**40

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self.data.next_chunk()


class LabDataModule(LightningDataModule):
    """Subclasses set `spec` and give `next_chunk`; what lives in them between chunks goes into `state_dict`."""

    spec: DataSpec
    device: torch.device = torch.device("cpu")
    folder: Path | None = None
    """the run directory, for state that is too large for a checkpoint"""
    _digest: int | None = None

    def setup(self, stage: str) -> None:
        """Lightning's hook: before training, move to the device that trains."""
        assert self.trainer is not None
        self.to(self.trainer.strategy.root_device)

    def to(self, device: torch.device) -> None:
        """Move resident tensors to the device that trains. Called once, before the first chunk or evaluation."""
        self.device = device

    def next_chunk(self) -> Any:
        """What the next `training_step` works through."""
        raise NotImplementedError

    def items(self, sources: Sequence[str]) -> Iterator[Item]:
        """Single inputs from files or standard input (`-`), read as these data are, for predictions.

        Raises UserError, which names the file, for what cannot be read so.
        """
        raise UserError(f"lab predict cannot read inputs for {type(self).__name__}.")

    def texts(self, texts: Sequence[str]) -> Iterator[Item]:
        """Texts as they are given, read as these data are. Raises UserError where inputs are no texts."""
        if texts:
            raise UserError("--text is for models of words or characters.")
        return iter(())

    def training_sample(self, num: int) -> Any:
        """The same samples of the training split each time, spread over it evenly, without random transforms.

        At most `num`, and no more than the validation split has; None where nothing is held out of a training split.
        """
        return None

    def train_dataloader(self) -> ChunkStream:
        return ChunkStream(self)

    def fixed_tensors(self) -> Iterable[torch.Tensor]:
        """All data, where they are there before training, in a fixed order."""
        return ()

    def digest(self) -> str:
        """A checksum of `fixed_tensors`, by which a resumed run knows that its data are the same; made once."""
        if self._digest is None:
            self._digest = 0
            for t in self.fixed_tensors():
                if t.numel():
                    self._digest = zlib.crc32(t.cpu().contiguous().numpy().data.cast("B"), self._digest)
        return f"{self._digest:08x}"

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass

    def load_state_dicts(self, states: Sequence[dict[str, Any]]) -> None:
        """Restore what the `state_dict`s of another number of ranks were, in their order."""
        self.load_state_dict(states[0])

    def on_saved(self) -> None:
        """Called when the checkpoint that holds the last `state_dict` is on disk."""

    def close(self) -> None:
        """Release environments, files, processes."""
