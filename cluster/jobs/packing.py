"""A folder as lines of a job's log, which is how runs come back from any cluster: no storage need be shared.

python -m cluster.jobs.packing FOLDER     # what `lab fetch` runs on the cluster
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from lab.errors import Failure

_PREFIX = "lab-fetch:"
_LINE_BYTES = 48 * 1024


def pack(folder: Path) -> Iterator[str]:
    """A folder as lines of text that survive a log: `lab-fetch:` and base64, the last one a checksum."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, arcname=".", filter=lambda member: None if member.issym() else member)
    content = buffer.getvalue()
    for start in range(0, len(content), _LINE_BYTES):
        yield _PREFIX + base64.b64encode(content[start : start + _LINE_BYTES]).decode()
    yield f"{_PREFIX}sha256={hashlib.sha256(content).hexdigest()}"


def unpack(log: str, target: Path) -> None:
    """Write what `pack` made of a folder below `target`. Raises Failure when the log does not hold all of it."""
    lines = [line.removeprefix(_PREFIX) for line in log.splitlines() if line.startswith(_PREFIX)]
    if not lines or not lines[-1].startswith("sha256="):
        raise Failure("the runs did not arrive whole; try again, or copy them from the cluster's storage.")
    content = b"".join(base64.b64decode(line) for line in lines[:-1])
    if hashlib.sha256(content).hexdigest() != lines[-1].removeprefix("sha256="):
        raise Failure("the runs arrived damaged; try again, or copy them from the cluster's storage.")
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        archive.extractall(target, filter="data")


if __name__ == "__main__":
    for line in pack(Path(sys.argv[1]).expanduser()):
        print(line)
