"""Ray Jobs as the lab uses them: a client with clear errors, job names, their logs and their runs."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import os
import re
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from cluster.session import head
from lab.errors import Failure, UserError

KEYS = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "HF_TOKEN")
"""environment variables that travel with a job, and are hidden in what is printed"""
_LOCAL = ("127.0.0.1", "localhost", "::1")
_LINE = "lab-fetch:"
_AGENT_SECONDS = 60.0


def add_address_argument(parser: Any) -> None:
    """`--address` and `--insecure` of every command that talks to a cluster's Jobs API."""
    parser.add_argument(
        "--address", metavar="URL", help="the cluster's dashboard (default: the one of lab cluster start)"
    )
    parser.add_argument("--insecure", action="store_true", help="talk to a remote address without a token")


def dashboard_address(given: str | None) -> str:
    """The dashboard's URL: as given, from the environment, or of the cluster started here. Raises UserError."""
    address = given or os.environ.get("RAY_API_SERVER_ADDRESS")
    if address is None:
        found = head.find()
        if found is None or found.dashboard is None:
            raise UserError("there is no cluster here: lab cluster start begins one, or name one with --address URL.")
        address = found.dashboard
    url = address if "://" in address else f"http://{address}"
    if not re.fullmatch(r"https?://[^\s/]+/?", url):
        raise UserError(f"--address {address!r} is not a dashboard's address, such as http://10.0.0.5:8265.")
    return url


@contextmanager
def client(address: str | None, insecure: bool = False) -> Iterator[Any]:
    """A JobSubmissionClient. Raises UserError, in a sentence, for what can be wrong with a cluster's address."""
    url = dashboard_address(address)
    head.use_token()
    if urlparse(url).hostname not in _LOCAL and os.environ.get("RAY_AUTH_MODE") != "token" and not insecure:
        raise UserError(
            f"{url} is not on this machine and there is no token for it: whoever reaches such a cluster runs code on "
            f"it. Set RAY_AUTH_TOKEN_PATH, or say --insecure."
        )
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        connection = JobSubmissionClient(url)
    except AuthenticationError:
        raise UserError(f"the cluster at {url} refused the token; RAY_AUTH_TOKEN_PATH names its file.") from None
    except (ConnectionError, RuntimeError) as error:
        raise UserError(f"the cluster at {url} cannot be reached: {_sentence(error)}") from None
    logging.getLogger("ray").setLevel(logging.WARNING)
    for name in ("packaging", "sdk"):
        for logger in [key for key in logging.Logger.manager.loggerDict if key.startswith("ray.") and name in key]:
            logging.getLogger(logger).setLevel(logging.WARNING)
    try:
        yield connection
    except AuthenticationError:
        raise UserError(f"the cluster at {url} refused the token; RAY_AUTH_TOKEN_PATH names its file.") from None
    except RuntimeError as error:
        if "does not exist" in str(error) or "404" in str(error):
            raise UserError(f"the cluster at {url} knows no such job; lab jobs lists them.") from None
        raise Failure(f"the cluster at {url} answered: {_sentence(error)}") from error


def submit_when_ready(connection: Any, **job: Any) -> None:
    """Submit a job; a head that has just started refuses jobs for some seconds, until its agent is there."""
    deadline = time.monotonic() + _AGENT_SECONDS
    while True:
        try:
            connection.submit_job(**job)
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(1.0)


def environment(runs: str) -> dict[str, str]:
    """A job's environment: where its runs go, and the keys that it needs."""
    return {"LAB_RUNS": runs, **{name: os.environ[name] for name in KEYS if os.environ.get(name)}}


def masked(text: str) -> str:
    """Text without the values of keys."""
    for name in KEYS:
        value = os.environ.get(name)
        if value and name.endswith(("KEY", "TOKEN")):
            text = text.replace(value, "*" * 8)
    return text


def follow(connection: Any, job: str) -> str:
    """Print a job's log as it grows, until it ends; returns its status. Ctrl-C leaves the job alone."""
    import asyncio

    async def tail() -> None:
        async for text in connection.tail_job_logs(job):
            print(masked(text), end="", flush=True)

    connection.get_job_status(job)  # says so when there is no such job
    asyncio.run(tail())
    return str(connection.get_job_status(job).value)


def pack(folder: Path) -> Iterator[str]:
    """A folder as lines of text that survive a log: `lab-fetch:` and base64, the last one a checksum."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, arcname=".", filter=lambda member: None if member.issym() else member)
    content = buffer.getvalue()
    for start in range(0, len(content), 48 * 1024):
        yield _LINE + base64.b64encode(content[start : start + 48 * 1024]).decode()
    yield f"{_LINE}sha256={hashlib.sha256(content).hexdigest()}"


def unpack(log: str, target: Path) -> None:
    """Write what `pack` made of a folder below `target`. Raises Failure when the log does not hold all of it."""
    lines = [line.removeprefix(_LINE) for line in log.splitlines() if line.startswith(_LINE)]
    if not lines or not lines[-1].startswith("sha256="):
        raise Failure("the runs did not arrive whole; try again, or copy them from the cluster's storage.")
    content = b"".join(base64.b64decode(line) for line in lines[:-1])
    if hashlib.sha256(content).hexdigest() != lines[-1].removeprefix("sha256="):
        raise Failure("the runs arrived damaged; try again, or copy them from the cluster's storage.")
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        archive.extractall(target, filter="data")


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":  # what `lab fetch` runs on the cluster
    import sys

    for line in pack(Path(sys.argv[1]).expanduser()):
        print(line)
