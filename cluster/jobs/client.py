"""The Jobs API of a Ray cluster as the lab uses it: a client with clear errors, and what one asks of submitted jobs."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from cluster.session import head, tokens
from cluster.session.error_lines import one_line
from cluster.session.keys import masked
from lab.errors import Failure, UserError

JOB_PREFIX = "lab-"
COMMAND_PREFIX = f"python -m {head.JOB_MODULE} "
"""what a job runs, before the words of the lab command"""
_POLL_SECONDS = 0.3


def dashboard_address(address: str | None) -> str:
    """The dashboard's URL: `address`, from the environment, or of the cluster started here. Raises UserError."""
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if address is None:
        local = head.find()
        if local is None or local.dashboard is None:
            raise UserError("there is no cluster here: lab cluster start begins one, or name one with --address URL.")
        address = local.dashboard
    url = address if "://" in address else f"http://{address}"
    if not re.fullmatch(r"https?://[^\s/]+/?", url):
        raise UserError(f"--address {address!r} is not a dashboard's address, such as http://10.0.0.5:8265.")
    return url


@contextmanager
def client(address: str | None, insecure: bool = False) -> Iterator[Any]:
    """A JobSubmissionClient. Raises UserError, in a sentence, for what can be wrong with a cluster's address."""
    url = dashboard_address(address)
    host = urlparse(url).hostname
    tried = tokens.candidates(host)
    if host not in tokens.LOCAL and tried == [None] and not tokens.in_environment() and not insecure:
        raise UserError(
            f"{url} is not on this machine and there is no token for it: whoever reaches such a cluster runs code on "
            f"it. Set RAY_AUTH_TOKEN_PATH, or say --insecure."
        )
    from ray.exceptions import AuthenticationError

    connection = _connected(url, tried)
    logging.getLogger("ray").setLevel(logging.WARNING)
    for name in ("packaging", "sdk"):
        for logger in [key for key in logging.Logger.manager.loggerDict if key.startswith("ray.") and name in key]:
            logging.getLogger(logger).setLevel(logging.WARNING)
    try:
        yield connection
    except AuthenticationError:
        raise UserError(tokens.refused([], url)) from None
    except RuntimeError as error:
        if "does not exist" in str(error) or "404" in str(error):
            raise UserError(f"the cluster at {url} knows no such job; lab jobs lists them.") from None
        raise Failure(f"the cluster at {url} answered: {one_line(error)}") from error


def _connected(url: str, tried: Sequence[Path | None]) -> Any:
    """A client that shows the first of these tokens that the cluster takes."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for path in tried:
        tokens.show(path)
        try:
            return JobSubmissionClient(url)
        except AuthenticationError:
            continue
        except (ConnectionError, RuntimeError) as error:
            raise UserError(f"the cluster at {url} cannot be reached: {one_line(error)}") from None
    raise UserError(tokens.refused(tried, url))


def listed(connection: Any) -> list[str]:
    """A line for each job that the lab has submitted, the oldest first: id, status, start, command."""
    jobs = sorted(connection.list_jobs(), key=lambda job: job.start_time or 0)
    return [
        f"{job.submission_id}  {job.status.value:<9}  "
        f"{datetime.fromtimestamp((job.start_time or 0) / 1000):%Y-%m-%d %H:%M}  "
        f"{job.entrypoint.partition(COMMAND_PREFIX)[2]}"
        for job in jobs
        if job.submission_id and job.submission_id.startswith(JOB_PREFIX)
    ]


def log(connection: Any, job: str) -> str:
    """A job's log so far, without the values of keys."""
    return masked(connection.get_job_logs(job))


def log_lines(connection: Any, job: str) -> Iterator[str]:
    """The lines of a job's log as they come, until it ends."""
    import asyncio

    loop, tail, rest = asyncio.new_event_loop(), connection.tail_job_logs(job), ""
    try:
        while True:
            try:
                text = rest + loop.run_until_complete(anext(tail))
            except StopAsyncIteration:
                break
            *lines, rest = text.split("\n")
            yield from lines
        yield rest
    finally:
        loop.run_until_complete(tail.aclose())
        loop.close()


def follow(connection: Any, job: str) -> str:
    """Print a job's log as it grows, until it ends; returns its status. Ctrl-C leaves the job alone."""
    import asyncio

    async def tail() -> None:
        async for text in connection.tail_job_logs(job):
            print(masked(text), end="", flush=True)

    connection.get_job_status(job)  # says so when there is no such job
    asyncio.run(tail())
    return str(connection.get_job_status(job).value)


def stop(connection: Any, job: str) -> str:
    """End a job once its runs have saved themselves; returns its status."""
    connection.stop_job(job)
    return wait_until_ended(connection, job, head.STOP_SECONDS + 10)


def wait_until_ended(connection: Any, job: str, timeout_seconds: float = float("inf")) -> str:
    """Wait for the end of a job, at most so long; returns its status."""
    deadline = time.monotonic() + timeout_seconds
    while not connection.get_job_status(job).is_terminal() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return str(connection.get_job_status(job).value)
