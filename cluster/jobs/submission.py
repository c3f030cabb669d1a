"""A lab command shipped to a cluster as a job, with the code, and its runs brought back."""

from __future__ import annotations

import json
import math
import secrets
import shlex
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.jobs.client import COMMAND_PREFIX, JOB_PREFIX, log_lines, wait_until_ended
from cluster.jobs.packing import unpack
from cluster.jobs.staging import left_behind, staged
from cluster.session import ray_private
from cluster.session.keys import DEPOSIT, own_keys
from lab.errors import Failure, UserError, unknown

COMMANDS = ("train", "sweep", "resume", "evaluate", "demo", "compare", "sample")
"""what may be submitted"""
_AGENT_SECONDS = 60.0


def check(command: Sequence[str], cpus: float, gpus: float) -> None:
    """Raise UserError for a command that cannot be submitted, or for resources that no machine can have."""
    if not command:
        raise UserError("lab submit needs a command, for example: lab submit train dqn/cartpole.")
    if command[0] not in COMMANDS:
        raise unknown("command to submit", command[0], COMMANDS)
    for option, amount in (("cpus", cpus), ("gpus", gpus)):
        if not 0 <= amount < math.inf:
            raise UserError(f"--{option} {amount} is not valid; it must be 0 or more.")


def submit(connection: Any, command: Sequence[str], *, cpus: float, gpus: float, storage: str) -> tuple[str, str]:
    """Submit a command that `check` has passed, with the tracked files of the working directory.

    Returns the job's id, and which files stay here that may have been meant to go along, in words.

    Args:
        cpus, gpus: what the command itself takes of the cluster.
        storage: the folder on the cluster where the job's own folder of runs is made.
    """
    job = f"{JOB_PREFIX}{datetime.now().strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    runs = f"{storage.rstrip('/')}/{job}"
    with staged(Path.cwd()) as folder:
        _submit_when_ready(
            connection,
            entrypoint=f"{COMMAND_PREFIX}{shlex.join(command)}",
            submission_id=job,
            runtime_env={"working_dir": str(folder), "env_vars": {"LAB_RUNS": runs, **_deposited(connection)}},
            entrypoint_num_cpus=cpus or None,
            entrypoint_num_gpus=gpus or None,
        )
    return job, left_behind(Path.cwd())


def fetch(connection: Any, job: str, out: Path) -> None:
    """Bring a job's run directories to the new folder `out`.

    Raises:
        UserError: when the lab has not submitted the job, or it has left no runs.
        Failure: when they cannot be read on the cluster, or arrive damaged.
    """
    info = connection.get_job_info(job)
    folder = (info.runtime_env or {}).get("env_vars", {}).get("LAB_RUNS")
    if folder is None:
        raise UserError(f"{job} was not submitted by the lab.")
    working_dir = {key: value for key, value in info.runtime_env.items() if key == "working_dir"}
    packing = connection.submit_job(
        entrypoint=f"python -m cluster.jobs.packing {shlex.quote(folder)}", runtime_env=working_dir
    )
    try:
        unpack(log_lines(connection, packing), out)
    except Failure:
        if wait_until_ended(connection, packing) == "SUCCEEDED":
            raise
        log = connection.get_job_logs(packing)[-10_000:]
        if "FileNotFoundError" in log:
            raise UserError(f"{job} has left no runs: there is no {folder} on the cluster.") from None
        reason = "".join(log.strip().splitlines()[-1:])
        raise Failure(f"{folder} could not be read on the cluster: {reason}") from None
    finally:
        if wait_until_ended(connection, packing, _AGENT_SECONDS) in ("SUCCEEDED", "FAILED", "STOPPED"):
            connection.delete_job(packing)


def _deposited(connection: Any) -> dict[str, str]:
    """Leave the keys that the job may need in the head's memory; the environment that says where."""
    keys = own_keys()
    if not keys:
        return {}
    name = f"lab-keys-{secrets.token_hex(16)}"
    ray_private.leave_with_head(connection, name, json.dumps(keys).encode())
    return {DEPOSIT: name}


def _submit_when_ready(connection: Any, **job: Any) -> None:
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
