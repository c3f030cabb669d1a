"""Rings on disk: immutable segments of plain arrays, and a manifest of them for the checkpoint.

Each save writes what was appended since the last one into one new file, a .npz without pickles, so that a checkpoint
rewrites nothing that did not change. A file is named by its content's place; those that no ring needs any more are
removed when the checkpoint that no longer names them is itself on disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.replay.ring import Ring, empty_ring
from lab.data import npz
from lab.errors import UserError
from lab.ranks import ranks
from lab.runs.files import disk_failure

Manifest = dict[str, Any]


def folder_name(rank: int, num_ranks: int) -> str:
    """Where a rank keeps its rings; a number of ranks never overwrites what another one left."""
    return "replay" if num_ranks == 1 else f"replay-{rank + 1}-of-{num_ranks}"


class RingFiles:
    """Keeps `rings` in `folder`.

    A manifest is `{"written": {ring: items}, "segments": [{"file": name, "ranges": {ring: [first, last]}}]}`.
    """

    def __init__(self, folder: Path, rings: dict[str, Ring]) -> None:
        self.folder, self.rings = folder, rings
        self._segments: list[dict[str, Any]] = []
        self._before: list[dict[str, Any]] = []
        """segments of the manifest before the last one: its checkpoint is kept too"""
        self._saved = dict.fromkeys(rings, 0)

    def save(self) -> Manifest:
        """Write what is new; returns the manifest of all that the rings hold. Raises Failure when the disk is full."""
        ranges = {
            name: [max(self._saved[name], ring.oldest), ring.num_written]
            for name, ring in self.rings.items()
            if ring.num_written > self._saved[name]
        }
        self._before = self._segments
        if ranges:
            file = f"segment-{sum(ring.num_written for ring in self.rings.values()):015d}.npz"
            self._write(self.folder / file, ranges)
            self._segments = [*self._segments, {"file": file, "ranges": ranges}]
            self._saved = {name: ring.num_written for name, ring in self.rings.items()}
        self._segments = [segment for segment in self._segments if self._is_needed(segment)]
        return {"written": dict(self._saved), "segments": list(self._segments)}

    def load(self, manifest: Manifest) -> None:
        """Fill the rings with what a manifest names. Raises UserError when a file is missing or damaged."""
        for segment in manifest["segments"]:
            path = self.folder / Path(str(segment["file"])).name
            try:
                npz.check_arrays(path)
                with np.load(path, allow_pickle=False) as arrays:
                    for name, (first, last) in segment["ranges"].items():
                        self.rings[name].write(first, torch.from_numpy(arrays[name]))
                        assert self.rings[name].num_written == last
            except FileNotFoundError:
                raise UserError(f"the replay segment {str(path)!r} of the checkpoint is missing.") from None
            except UserError:
                raise
            except (*npz.DAMAGES, RuntimeError) as error:
                raise UserError(f"the replay segment {str(path)!r} is damaged ({error}).") from None
        for name, written in manifest["written"].items():
            self.rings[name].num_written = written
        self._segments, self._saved = list(manifest["segments"]), dict(manifest["written"])

    def load_columns(self, folders: Sequence[Path], manifests: Sequence[Manifest], columns: slice) -> None:
        """Fill rings (R, N, ...) with some of the environments that other ranks' manifests name, side by side.

        Raises UserError as `load` does.
        """
        num_envs = next(iter(self.rings.values())).data.shape[1] * ranks.num_ranks() // len(manifests)
        sources = [
            _rings_of(folder, manifest, self.rings, num_envs)
            for folder, manifest in zip(folders, manifests, strict=True)
        ]
        for name, ring in self.rings.items():
            parts = [rings[name] for rings in sources]
            last = parts[0].num_written
            first = max(0, last - ring.capacity, *(part.oldest for part in parts))
            items = torch.cat([part.read(first, last) for part in parts], 1)[:, columns]
            ring.write(first, items.contiguous().to(ring.data.device))

    def remove_unneeded(self) -> None:
        """Remove the files that the last two manifests do not name, and what another number of ranks left."""
        for other in self.folder.parent.glob("replay*"):
            if other.name not in (folder_name(r, ranks.num_ranks()) for r in range(ranks.num_ranks())):
                shutil.rmtree(other, ignore_errors=True)
        if self.folder.is_dir():
            needed = {segment["file"] for segment in (*self._before, *self._segments)}
            for path in self.folder.iterdir():
                if path.name not in needed:
                    path.unlink(missing_ok=True)

    def _is_needed(self, segment: dict[str, Any]) -> bool:
        return any(last > self.rings[name].oldest for name, (_, last) in segment["ranges"].items())

    def _write(self, path: Path, ranges: dict[str, list[int]]) -> None:
        temporary = path.with_suffix(".tmp")
        arrays = {name: self.rings[name].read(*span).cpu().numpy() for name, span in ranges.items()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise disk_failure(path, error) from error


def _rings_of(folder: Path, manifest: Manifest, like: dict[str, Ring], num_envs: int) -> dict[str, Ring]:
    """The rings of `num_envs` environments that a manifest names, as long as what its files hold."""
    rings = {}
    for name, ring in like.items():
        spans = [segment["ranges"][name] for segment in manifest["segments"] if name in segment["ranges"]]
        rows = max([1, *(last - spans[0][0] for _, last in spans)])
        rings[name] = empty_ring(rows, (num_envs, *ring.data.shape[2:]), ring.data.dtype, torch.device("cpu"))
    RingFiles(folder, rings).load(manifest)
    return rings
