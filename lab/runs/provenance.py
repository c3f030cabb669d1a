"""Where a run comes from: versions, the machine, the state of the code."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lab import __version__, catalog


def environment() -> dict[str, Any]:
    """Modules that the user allowed, versions, the machine, and the state of the code in git."""
    return {
        "imports": catalog.allowed_imports(),
        "versions": _versions(),
        "machine": _machine(),
        "git": _git_state(),
    }


def _versions() -> dict[str, str]:
    names = ("torch", "lightning", "gymnasium", "ray", "wandb", "numpy")
    found = {"lab": __version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else None
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count(), "gpu": gpu}


def _git_state() -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
