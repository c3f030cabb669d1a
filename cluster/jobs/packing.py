"""A folder as lines of a job's log, which is how runs come back from any cluster: no storage need be shared.

python -m cluster.jobs.packing FOLDER     # what `lab fetch` runs on the cluster

Both ends work piece by piece: a folder of many gigabytes takes a few megabytes of memory.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from lab.errors import Failure

_PREFIX = "lab-fetch:"
_LINE_BYTES = 48 * 1024


class _Lines:
    """A file that gives what is written into it as lines of text: `lab-fetch:` and base64, the last one a checksum."""

    def __init__(self, say: Callable[[str], Any]) -> None:
        self._say, self._left, self._hash = say, b"", hashlib.sha256()

    def write(self, content: bytes) -> int:
        self._hash.update(content)
        self._left += content
        while len(self._left) >= _LINE_BYTES:
            self._give(_LINE_BYTES)
        return len(content)

    def close(self) -> None:
        if self._left:
            self._give(len(self._left))
        self._say(f"{_PREFIX}sha256={self._hash.hexdigest()}")

    def _give(self, size: int) -> None:
        piece, self._left = self._left[:size], self._left[size:]
        self._say(_PREFIX + base64.b64encode(piece).decode())


def pack(folder: Path, say: Callable[[str], Any]) -> None:
    """Say a folder in lines of text that survive a log. Links stay behind."""
    lines = _Lines(say)
    target: IO[bytes] = lines  # type: ignore[assignment]
    with tarfile.open(fileobj=target, mode="w|gz") as archive:
        archive.add(folder, arcname=".", filter=lambda member: None if member.issym() else member)
    lines.close()


def unpack(lines: Iterable[str], target: Path) -> None:
    """Write what `pack` has said of a folder, among other lines, below `target`.

    Raises Failure when the lines do not hold all of it.
    """
    digest, end = hashlib.sha256(), None
    with TemporaryFile() as file:
        for line in lines:
            if not line.startswith(_PREFIX):
                continue
            text = line.removeprefix(_PREFIX).strip()
            if text.startswith("sha256="):
                end = text.removeprefix("sha256=")
                break
            try:
                piece = base64.b64decode(text, validate=True)
            except binascii.Error:
                continue  # the checksum tells
            digest.update(piece)
            file.write(piece)
        if end is None:
            raise Failure("the runs did not arrive whole; try again, or copy them from the cluster's storage.")
        if digest.hexdigest() != end:
            raise Failure("the runs arrived damaged; try again, or copy them from the cluster's storage.")
        target.mkdir(parents=True, exist_ok=True)
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:gz") as archive:
            archive.extractall(target, filter="data")


if __name__ == "__main__":
    pack(Path(sys.argv[1]).expanduser(), print)
