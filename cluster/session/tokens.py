"""Which token this machine shows to which cluster.

The environment's (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH) is shown to all. Else there are that of the cluster that was
started or joined here, and Ray's own file: each is tried, first the one that belongs to the address.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

LOCAL = ("127.0.0.1", "localhost", "::1")


def cluster_folder() -> Path:
    """Where the files of the cluster are that was started here; LAB_CLUSTER moves it."""
    return Path(os.environ.get("LAB_CLUSTER") or "~/.lab/cluster").expanduser()


def in_environment() -> bool:
    """Whether the environment says which token to show."""
    return bool(os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"))


def candidates(host: str | None) -> list[Path | None]:
    """The files to try for a cluster at a host, in order; None stands for what the environment says, or no token."""
    if in_environment():
        return [None]
    own, of_ray = cluster_folder() / "token", Path("~/.ray/auth_token").expanduser()
    files = [own, of_ray] if host in (*LOCAL, _host_here()) else [of_ray, own]
    return [path for path in files if path.is_file()] or [None]


def show(path: Path | None) -> None:
    """Let this process and its children show a token file's content, or what the environment says."""
    if path is not None:
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    if in_environment():
        os.environ["RAY_AUTH_MODE"] = "token"
    if "ray" in sys.modules:
        from cluster.session import ray_private

        ray_private.reread_environment()


def refused(tried: Sequence[Path | None], address: str) -> str:
    """What to say when a cluster has taken none of them."""
    files = " and ".join(str(path) for path in tried if path is not None)
    if files:
        what = f"refused the token in {files}"
    elif in_environment():
        what = "refused the token"
    else:
        what = "asks for a token, and there is none here"
    return f"the cluster at {address!r} {what}: RAY_AUTH_TOKEN_PATH names its file."


def _host_here() -> str | None:
    """The host of the cluster that was started or joined here last."""
    try:
        address = json.loads((cluster_folder() / "cluster.json").read_text(encoding="utf-8"))["address"]
        return str(address).rpartition(":")[0]
    except (OSError, ValueError, KeyError, TypeError):
        return None
