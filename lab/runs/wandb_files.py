"""What the offline parts of a W&B run hold on disk, which is less than was handed over when the client was killed.

A part's file is a log of records in blocks of 32 KiB, as LevelDB's: each piece has a checksum, its length and whether
it is whole (1), the first (2), a middle (3) or the last (4) of a record. W&B's package has no reader of it any more,
and takes a part without a record of its end for one that is still being written.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_START = b":W&B"
_HEADER = 7
_BLOCK = 32_768
_PIECE = struct.Struct("<IHB")
_ENDS = (1, 4)


def parts_of(run_path: Path) -> list[Path]:
    """The folders of a run's offline parts, in the order in which they were written."""
    return [folder for folder in sorted((run_path / "wandb").glob("offline-run-*")) if any(folder.glob("*.wandb"))]


def set_aside_cut(run_path: Path) -> None:
    """Rename the parts of a run that is not being trained whose client was killed: `wandb sync` would refuse them."""
    for part in parts_of(run_path):
        uploaded = any(part.glob("*.wandb.synced"))
        if not uploaded and not all(_contents(file.read_bytes()).ended for file in part.glob("*.wandb")):
            part.rename(part.with_name(part.name.replace("offline-run", "cut-run", 1)))


def wait_for_end(run_path: Path, seconds: float) -> bool:
    """Wait until the newest part is on disk to its end, which its client's service writes after the client has ended;
    returns whether it is."""
    deadline = time.monotonic() + seconds
    while True:
        parts = parts_of(run_path)
        if not parts or all(_contents(file.read_bytes()).ended for file in parts[-1].glob("*.wandb")):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


def num_rows_held(run_path: Path) -> int | None:
    """How many of a run's rows its offline parts hold; None where none ever was written, or some went online."""
    folders = [path.name for path in (run_path / "wandb").glob("*-*")] if (run_path / "wandb").is_dir() else []
    if not any(name.startswith(("offline-run", "cut-run")) for name in folders) or any(
        name.startswith("run-") for name in folders
    ):
        return None
    for part in reversed(parts_of(run_path)):
        steps = [step for file in part.glob("*.wandb") for step in _contents(file.read_bytes()).steps]
        if steps:
            return max(steps) + 1
    return 0


class _Contents(NamedTuple):
    """The steps of the rows in a part's file, and whether it came to its end."""

    steps: list[int]
    ended: bool


def _contents(content: bytes) -> _Contents:
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    steps: list[int] = []
    ended = False
    for data in _records(content):
        record = messages.Record()
        try:
            record.ParseFromString(data)
        except Exception:  # protobuf's own class of error depends on its implementation
            break
        kind = record.WhichOneof("record_type")
        if kind == "history":
            steps.append(record.history.step.num)
        ended = ended or kind == "exit"
    return _Contents(steps, ended)


def _records(content: bytes) -> Iterator[bytes]:
    """The whole records of a file, up to where a killed client left off."""
    place, pieces = _HEADER, b""
    while content.startswith(_START) and place + _PIECE.size <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _PIECE.size:  # too little for another piece
            place += left
            continue
        _, length, kind = _PIECE.unpack_from(content, place)
        place += _PIECE.size
        if not kind or place + length > len(content):
            return
        pieces += content[place : place + length]
        place += length
        if kind in _ENDS:
            yield pieces
            pieces = b""
