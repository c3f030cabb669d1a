"""Checkpoints: whole, plain, and read without running anybody's code."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab.errors import Failure, UserError
from lab.runs import checkpoint
from lab.runs.directory import FORMAT

CONTENT = {"experiment": {"name": "x"}, "state_dict": {"w": torch.arange(3.0)}, "counters": {"samples": 4}}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.ckpt", CONTENT)
    content = checkpoint.load(tmp_path / "a.ckpt")
    assert content["format"] == FORMAT
    assert content["counters"] == {"samples": 4}
    assert torch.equal(content["state_dict"]["w"], torch.arange(3.0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


class Bomb:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_pickles_are_refused_and_run_nothing(tmp_path: Path) -> None:
    torch.save({**CONTENT, "format": FORMAT, "bomb": Bomb(tmp_path / "exploded")}, tmp_path / "bomb.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(UserError, match="more than tensors and plain values"):
        checkpoint.load(tmp_path / "bomb.ckpt")
    with pytest.raises(UserError):
        checkpoint.load(tmp_path / "plain.ckpt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("damage", ["empty", "short", "noise", "text", "flipped"])
def test_damaged_files_are_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, {**CONTENT, "state_dict": {"w": torch.zeros(5000)}})
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[: len(whole) // 3] = bytes(len(whole) // 3)
    content = {
        "empty": b"",
        "short": whole[: len(whole) // 2],
        "noise": bytes(range(256)) * 20,
        "text": b"hello\n",
        "flipped": bytes(flipped),
    }
    path.write_bytes(content[damage])
    with pytest.raises(UserError, match="damaged") as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_foreign_and_other_formats(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "absent.ckpt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of the lab"):
        checkpoint.load(tmp_path / "foreign.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of the lab"):
        checkpoint.load(tmp_path / "list.ckpt")
    torch.save({**CONTENT, "format": FORMAT + 1}, tmp_path / "newer.ckpt")
    with pytest.raises(UserError, match=f"format {FORMAT + 1}; this lab reads format {FORMAT}"):
        checkpoint.load(tmp_path / "newer.ckpt")
    (tmp_path / "folder.ckpt").mkdir()
    with pytest.raises(UserError):
        checkpoint.load(tmp_path / "folder.ckpt")


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, CONTENT)
    before = path.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("torch.save", "os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(name, full)
            with pytest.raises(Failure, match="No space left on device; what was saved before is intact"):
                checkpoint.save(path, {**CONTENT, "counters": {"samples": 99}})
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ckpt"
    open_path = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: open_path(Path("/dev/full"), *a, **k))
    with pytest.raises(Failure, match="could not be written"):
        checkpoint.save(path, {**CONTENT, "state_dict": {"w": torch.zeros(1_000_000)}})


def test_random_states_come_back_through_a_file(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.normal()), float(torch.randn(()))

    draw()
    checkpoint.save(tmp_path / "rng.ckpt", {**CONTENT, "rng": checkpoint.rng_state()})
    expected = [draw() for _ in range(3)]
    checkpoint.set_rng_state(checkpoint.load(tmp_path / "rng.ckpt")["rng"])
    assert [draw() for _ in range(3)] == expected
