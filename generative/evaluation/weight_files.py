"""A network's weights as an .npz of plain arrays, with what is known about them: reading one runs no code."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_METADATA = "metadata"


def save_weights(path: Path, net: nn.Module, metadata: dict[str, Any]) -> None:
    """Write the weights of `net` and JSON-able `metadata`, in one piece; the hash of the weights joins the metadata.

    Raises OSError when the file cannot be written.
    """
    arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in net.state_dict().items()}
    arrays[_METADATA] = np.array(json.dumps({**metadata, "weights": weights_hash(net.state_dict())}))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_weights(path: Path, net: nn.Module) -> dict[str, Any]:
    """Load a file of `save_weights` into `net` and return the metadata.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is damaged, holds anything but plain arrays, or fits another network.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        metadata: dict[str, Any] = json.loads(str(arrays.pop(_METADATA)))
        weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    except (zipfile.BadZipFile, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is damaged or holds no weights: {error}") from error
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    if {name: tuple(value.shape) for name, value in weights.items()} != shapes:
        raise ValueError(f"{str(path)!r} holds the weights of another network")
    if weights_hash(weights) != metadata.get("weights"):
        raise ValueError(f"{str(path)!r} is damaged: the hash of its weights is not {metadata.get('weights')}")
    net.load_state_dict(weights)
    return metadata


def weights_hash(state: dict[str, Tensor]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a state dict's names and values."""
    content = hashlib.sha256()
    for name, value in sorted(state.items()):
        content.update(name.encode())
        content.update(value.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]
