"""What a job takes along: the files that git tracks, as they are in the working tree, in a folder of their own.

Files that git ignores or does not track stay here: runs, data, keys. A fresh folder has a hash of its own, so that the
cluster never runs an older copy.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import lab
from lab import catalog
from lab.errors import UserError

MAX_BYTES = 256 * 2**20


@contextmanager
def staged(project: Path) -> Iterator[Path]:
    """A folder with the tracked files of the user's `project`, and the lab's packages when they are not among them.

    Raises UserError when they are too large to ship.
    """
    with TemporaryDirectory(prefix="lab-job-") as name:
        folder = Path(name)
        house = Path(lab.__file__).resolve().parent.parent
        sources = [house] if project.resolve() == house else [house, project.resolve()]
        for source in sources:
            for path in tracked(source):
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / path, target)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size > MAX_BYTES:
            raise UserError(f"the tracked files below {project} are {size / 2**20:.0f} MB; a job takes 256 MB along.")
        yield folder


def tracked(folder: Path) -> list[Path]:
    """The files below `folder` that git tracks and that exist, or every Python file of a folder without git."""
    listing = subprocess.run(
        ["git", "-C", str(folder), "ls-files", "-z", "."], capture_output=True, text=True, check=False
    )
    if listing.returncode == 0:
        names = [Path(name) for name in listing.stdout.split("\0") if name]
    elif (folder / "lab" / "__init__.py").is_file():  # the installed packages
        names = [path.relative_to(folder) for package in catalog.PACKAGES for path in (folder / package).rglob("*")]
    else:
        names = [path.relative_to(folder) for path in folder.glob("*.py")]
    return [name for name in names if (folder / name).is_file() and "__pycache__" not in name.parts]
