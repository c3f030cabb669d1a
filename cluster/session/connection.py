"""Connecting to a Ray cluster, with a sentence for whatever is wrong with its address, its token or its versions."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from cluster.session import ray_private, tokens
from cluster.session.error_lines import first_line
from lab.errors import UserError

_OPTIONS: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "lab"}
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
        start_ray(address=address)
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
    except (OSError, UnicodeError):  # a host's name may be none
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
    """Let this process show a token that the head at host:port takes.

    Raises UserError when it takes none; Ray itself asks again for 20 s, and says so.
    """
    import grpc

    tried = tokens.candidates(address.rpartition(":")[0])
    for path in tried:
        try:
            ray_private.ask_head(address, _content(path), _PROBE_SECONDS)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAUTHENTICATED:
                raise UserError(
                    f"the cluster at {address!r} cannot be reached: no head of Ray answers there."
                ) from None
            continue
        tokens.show(path)
        return
    raise UserError(tokens.refused(tried, address))


def _content(path: Path | None) -> str | None:
    """The token in a file; None: the environment's, if it names any. Raises UserError when the file cannot be read."""
    if path is None:
        path = Path(os.environ["RAY_AUTH_TOKEN_PATH"]) if os.environ.get("RAY_AUTH_TOKEN_PATH") else None
        if path is None or os.environ.get("RAY_AUTH_TOKEN"):
            return os.environ.get("RAY_AUTH_TOKEN")
    try:
        return path.expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"the token file {path} cannot be read: {error.strerror}.") from None


def start_ray(**options: Any) -> None:
    """`ray.init`, which leaves SIGTERM to whoever handles it: Ray's own handler ends the process, whatever it saves.

    Raises what `ray.init` raises, once what it began is ended; what was there before stays.
    """
    import ray

    connected_before = ray.is_initialized()
    handler = signal.getsignal(signal.SIGTERM)
    handled = callable(handler) and threading.current_thread() is threading.main_thread()
    try:
        with ray_private.without_sigterm_handlers() if handled else contextlib.nullcontext():
            ray.init(**options, **_OPTIONS)
    except BaseException:
        if not connected_before:
            ray.shutdown()
        raise
    if handled:
        signal.signal(signal.SIGTERM, handler)  # again: the part of Ray that is no Python has put one beneath it


def import_ray() -> Any:
    """Import ray so that it takes the environment as it is now, even if it was imported before."""
    loaded = "ray" in sys.modules
    import ray

    ray_private.silence_dead_nodes()
    if loaded:
        ray_private.reread_environment()
    return ray
