"""Keys of the environment stand in no file that the lab, W&B or Ray has written."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG

import pytest

ROOT = Path(__file__).parents[3]
NAMES = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Home, temporary folder and working folder in one; its path is short, as Ray's sockets need."""
    path = Path(tempfile.mkdtemp(prefix="lab-"))
    yield path
    shutil.rmtree(path)


class Search:
    """Looks again and again for planted keys in files that have changed."""

    def __init__(self, folder: Path, planted: dict[str, str]) -> None:
        self.folder, self.planted = folder, planted
        self.found: set[str] = set()
        """the files that held a key, each with the key's name"""
        self._seen: dict[str, tuple[int, int]] = {}

    def look(self) -> None:
        for root, _, names in os.walk(self.folder):
            for name in names:
                path = Path(root, name)
                try:
                    stat = path.lstat()
                    if not S_ISREG(stat.st_mode) or self._seen.get(str(path)) == (stat.st_size, stat.st_mtime_ns):
                        continue
                    content = path.read_bytes()
                except OSError:  # removed meanwhile
                    continue
                self._seen[str(path)] = (stat.st_size, stat.st_mtime_ns)
                self.found |= {f"{path}: {name}" for name, key in self.planted.items() if key.encode() in content}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("train", "dqn/cartpole", "trainer.budget=300"),
        pytest.param(("sweep", "dqn/cartpole", "trainer.budget=300", "--seeds", "2"), marks=pytest.mark.cluster),
    ],
    ids=["train", "sweep"],
)
def test_keys_are_in_no_file(folder: Path, words: tuple[str, ...]) -> None:
    planted = {name: secrets.token_hex(20) for name in NAMES}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "LAB_", "XDG_"))},
        **planted,
        **{"HOME": str(folder), "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)},
    }
    command = [sys.executable, "-m", "lab.cli", *words, "tracking.mode=offline", "--quiet"]
    search = Search(folder, planted)
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=-1, stderr=subprocess.STDOUT) as process:
        while process.poll() is None:
            search.look()
            time.sleep(0.5)
        assert process.returncode == 0, process.stdout.read() if process.stdout else ""
    search.look()
    assert search.found == set()
    assert list(folder.rglob("*.wandb"))
    (folder / "diary.txt").write_text("my key is " + planted["HF_TOKEN"])
    search.look()
    assert search.found == {f"{folder}/diary.txt: HF_TOKEN"}
