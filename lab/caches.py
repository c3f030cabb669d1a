"""Where other libraries keep caches and settings when the home directory cannot be written."""

from __future__ import annotations

import atexit
import os
from pathlib import Path

_FOLDERS = {
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "MPLCONFIGDIR": "matplotlib",
    "WANDB_CACHE_DIR": "cache",
    "WANDB_CONFIG_DIR": "config/wandb",
    "WANDB_DATA_DIR": "data",
}


def without_a_home() -> None:
    """Point libraries to a temporary folder, removed at this process's end, if the home directory cannot be written.

    In containers and jobs it often cannot; without this each library tells so in lines of its own, and some then fail.
    """
    if _home_can_be_written():
        return
    import shutil
    import tempfile

    try:
        folder = tempfile.mkdtemp(prefix="lab-home-")
    except OSError:  # nothing can be written anywhere
        return
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for variable, name in _FOLDERS.items():
        os.environ.setdefault(variable, str(Path(folder, name)))


def _home_can_be_written() -> bool:
    try:
        home = Path("~").expanduser()
        nearest = next(path for path in (home, *home.parents) if path.exists())
        return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    except (RuntimeError, OSError):  # nobody knows where it is, or its name is too long
        return False
