"""Checkpoints: plain tensors and plain values, written in one piece, read without running code.

format, experiment, monitor value, counters, state_dict, and in `last` also: train, data, rng, loop
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lab.errors import UserError
from lab.runs.directory import FORMAT
from lab.runs.files import disk_failure, temporary_name


def save(path: Path, content: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write a checkpoint so that `path` is always a whole one; the one that was there before becomes `keep`.

    Raises Failure when the disk is full.
    """
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.is_file():
            link = temporary_name(keep)
            with contextlib.suppress(OSError):  # a file system without links keeps none
                link.unlink(missing_ok=True)
                link.hardlink_to(path)
                link.replace(keep)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) or "write" in str(error):
            raise disk_failure(path, cause if isinstance(cause, OSError) else OSError(str(error))) from error
        raise


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint whose checksums are right; only tensors and plain values are accepted.

    Raises UserError when it is anything else.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise UserError(f"checkpoint {str(path)!r} is damaged, or none.")
            with zipfile.ZipFile(file) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise UserError(f"checkpoint {str(path)!r} is damaged (the checksum of {damaged!r} is wrong).")
            file.seek(0)
            content = torch.load(file, map_location=device, weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {str(path)!r}.") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"checkpoint {str(path)!r} holds more than tensors and plain values; it is not loaded."
        ) from None
    except (RuntimeError, EOFError, zipfile.BadZipFile, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {str(path)!r} is damaged ({reason}).") from None
    if not isinstance(content, dict) or "experiment" not in content:
        raise UserError(f"{str(path)!r} is not a checkpoint of the lab.")
    if content.get("format") != FORMAT:
        raise UserError(f"checkpoint {str(path)!r} has format {content.get('format')}; this lab reads format {FORMAT}.")
    return content


def rng_state() -> dict[str, Any]:
    """The global random states of Python, NumPy and torch."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [
            name,
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` gave."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state.cpu(), device)
