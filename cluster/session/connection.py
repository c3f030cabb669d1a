"""Connecting to a Ray cluster, with a sentence for whatever is wrong with its address, its token or its versions."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

from cluster.session import ray_private
from cluster.session.error_lines import first_line
from lab.errors import UserError

OPTIONS: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "lab"}
"""of `ray.init`, wherever it begins"""
_PROBE_SECONDS = 5.0


def connect(address: str) -> None:
    """Connect this process to the cluster at host:port or "auto".

    Raises UserError when nothing answers, the token is refused, the versions differ, or this machine is not a part.
    """
    probe(address)
    if address != "auto":
        present_token(address)
    ray = import_ray()
    try:
        ray.init(address=address, **OPTIONS)
    except ray.exceptions.AuthenticationError as error:
        raise UserError(
            f"the cluster at {address!r} refused the token: {first_line(error)} "
            f"Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token file."
        ) from None
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        versions = re.findall(r"(?:Ray|Python): ([0-9]\S*)", str(error))
        if "version mismatch" in str(error).lower() and len(versions) == 4:
            raise UserError(
                f"the cluster at {address!r} runs Ray {versions[0]} on Python {versions[1]}, and this is Ray "
                f"{versions[2]} on Python {versions[3]}; both must be the same."
            ) from None
        if "resolve node to connect to" in str(error):
            raise UserError(
                f"this machine is none of the cluster at {address!r}: lab cluster start --join {address} makes it one, "
                f"and lab submit sends a command there."
            ) from None
        raise UserError(f"the cluster at {address!r} cannot be reached: {first_line(error)}") from None


def listens(address: str) -> bool:
    """Whether something accepts connections at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def probe(address: str, option: str = "--address") -> None:
    """Raise UserError unless something listens at host:port; Ray itself would wait for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"{option} {address!r} is not host:port (for example 10.0.0.5:6379), nor auto.")
    if not listens(address):
        raise UserError(f"the cluster at {address!r} cannot be reached: nothing accepts connections there.")


def present_token(address: str) -> None:
    """Raise UserError when the head at host:port refuses the token; Ray itself asks again for 20 s, and says so."""
    import grpc

    path, token = os.environ.get("RAY_AUTH_TOKEN_PATH"), os.environ.get("RAY_AUTH_TOKEN")
    if token is None and path is not None:
        try:
            token = Path(path).expanduser().read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UserError(f"the token file RAY_AUTH_TOKEN_PATH={path} cannot be read: {error.strerror}.") from None
    try:
        ray_private.ask_head(address, token, _PROBE_SECONDS)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            answer = "refused the token" if token else "asks for a token, and there is none here"
            raise UserError(f"the cluster at {address!r} {answer}: RAY_AUTH_TOKEN_PATH names its file.") from None
        raise UserError(f"the cluster at {address!r} cannot be reached: no head of Ray answers there.") from None


def import_ray() -> Any:
    """Import ray so that it takes the environment as it is now, even if it was imported before."""
    loaded = "ray" in sys.modules
    import ray

    ray_private.silence_dead_nodes()
    if loaded:
        ray_private.reread_environment()
    return ray
