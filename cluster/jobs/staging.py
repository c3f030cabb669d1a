"""What a job takes along: the files that git tracks, as they are in the working tree, in a folder of their own.

Files that git ignores or does not track stay here: runs, data, keys. Of a folder without git code and YAML files go.
A fresh folder has a hash of its own, so that the cluster never runs an older copy.
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
_CODE = (".py", ".yaml", ".yml")
_SHOWN = 5


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
    """The files below `folder` that git tracks and that exist; of a folder without git its code and its YAML files."""
    names = _listed_by_git(folder)
    if names is None and (folder / "lab" / "__init__.py").is_file():  # the installed packages
        names = [path.relative_to(folder) for package in catalog.PACKAGES for path in (folder / package).rglob("*")]
    elif names is None:
        names = [path.relative_to(folder) for path in _code(folder)]
    return [name for name in names if (folder / name).is_file() and "__pycache__" not in name.parts]


def left_behind(folder: Path) -> str:
    """The code and YAML files below `folder` that git would track but does not, in words; "" where there are none."""
    names = [str(name) for name in _listed_by_git(folder, "--others", "--exclude-standard") or ()]
    names = [name for name in names if name.endswith(_CODE)]
    more = f" and {len(names) - _SHOWN} others" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _listed_by_git(folder: Path, *options: str) -> list[Path] | None:
    """What `git ls-files` lists below a folder; None where there is no git."""
    command = ["git", "-C", str(folder), "ls-files", "-z", *options, "."]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return [Path(name) for name in listing.stdout.split("\0") if name] if listing.returncode == 0 else None


def _code(folder: Path) -> Iterator[Path]:
    """Code and YAML files below a folder; not in hidden folders, virtual environments and run directories."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            if path.name[0] not in "._" and not any((path / mark).exists() for mark in ("pyvenv.cfg", "result.json")):
                yield from _code(path)
        elif path.name.endswith(_CODE) and (path.name != "experiment.yaml" or not (folder / "result.json").exists()):
            yield path
