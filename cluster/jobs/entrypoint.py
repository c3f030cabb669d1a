"""What a job runs on the cluster: a lab command, with the keys that were sent apart from the job's description.

    python -m cluster.jobs.entrypoint sweep dqn/cartpole --seeds 5

The command is a process of its own. Ray kills a job's first process with the cluster's head, at once; this one learns
that it is alone, and ends its command as SIGTERM does: runs save themselves. What a command writes into its working
directory, a copy that is removed later, is put with the job's runs, for `lab fetch`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.session import keys, ray_private
from lab.cli import main
from lab.runs.directory import runs_root

_WATCH_SECONDS = 1.0
_SAVE_SECONDS = 60.0


def run(words: Sequence[str]) -> int:
    """Run a command line in a child process; returns its exit code."""
    folder, parent, ending = Path.cwd(), os.getpid(), (signal.SIGTERM, signal.SIGINT)
    before = _files(folder)
    handlers = [signal.signal(number, signal.SIG_IGN) for number in ending]  # both reach the child as well
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for path in _files(folder) - before:
            _put(folder / path, runs_root() / path)
        return code
    for number, handler in zip(ending, handlers, strict=True):
        signal.signal(number, handler)
    os.setsid()
    threading.Thread(target=_end_without, args=(parent,), daemon=True).start()
    _take_keys()
    return main(placed(words))


def placed(words: Sequence[str]) -> list[str]:
    """A command line whose relative `--out` lies below the job's folder of runs: what is there outlives the head."""
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--out=") else [word])]
    return [
        str(runs_root() / Path(word).expanduser()) if before == "--out" else word
        for before, word in zip(["", *words], words, strict=False)
    ]


def _files(folder: Path) -> set[Path]:
    """The files below a folder, but those that Python makes on its own."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path for path in paths if "__pycache__" not in path.parts}


def _put(path: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)


def _end_without(parent: int) -> None:
    """End this process, saved, when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    print("lab: the cluster's head is gone; what runs saves itself, then lab resume goes on with it.", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SAVE_SECONDS)
    os._exit(1)


def _take_keys() -> None:
    """Take this job's keys out of the head's memory, where they were left for it alone."""
    name = os.environ.pop(keys.DEPOSIT, None)
    if name is not None:
        content = ray_private.take_from_head(os.environ["RAY_ADDRESS"], name)
        keys.adopt(json.loads(content) if content else {})


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
