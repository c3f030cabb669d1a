"""Pictures read from disk while a model trains: the minibatches of those in memory, resumed exactly, bounded memory."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from lab.config.overrides import resolve
from lab.data.images import ImageData, ImageModule, StreamModule
from lab.data.resident import Batch
from lab.data.transforms import TransformConfig
from lab.errors import UserError
from lab.runs.directory import Run
from lab.training.train import train
from tests.lab.ranks.several import train_on_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 60 pictures, of two sizes."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, high in (("dark", 90), ("light", 256)):
        (folder / name).mkdir()
        for i in range(60):
            shape = ((12, 10), (10, 16))[i % 2]
            Image.fromarray(rng.integers(0, high, (*shape, 3), dtype=np.uint8)).save(folder / name / f"{i:02}.png")
    return folder


def build(folder: Path, **options: Any) -> ImageModule:
    return ImageData(name=str(folder), size=(8, 8), batch_size=7, batches_per_step=4, **options).build(3)


def chunks(data: ImageModule, num: int) -> list[Batch]:
    return list(itertools.chain.from_iterable(data.next_chunk() for _ in range(num)))


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("transforms", [TransformConfig(), TransformConfig(flip=0.5, crop=1, mixup=0.3)])
def test_minibatches_are_those_of_pictures_in_memory(folder: Path, processes: int, transforms: TransformConfig) -> None:
    resident = build(folder, transforms=transforms)
    stream = build(folder, transforms=transforms, stream=True, stream_processes=processes)
    assert isinstance(stream, StreamModule)
    assert stream.spec == resident.spec
    assert_same(chunks(stream, 8), chunks(resident, 8))  # two epochs
    for split in ("train", "val", "test"):
        assert stream.num_samples(split) == resident.num_samples(split)  # type: ignore[arg-type]
        assert_same(list(stream.batches(split, 9)), list(resident.batches(split, 9)))  # type: ignore[arg-type]
    stream.close()


def test_the_sample_of_training_pictures_is_that_in_memory(folder: Path) -> None:
    transforms = TransformConfig(noise=0.5)
    resident, stream = build(folder, transforms=transforms), build(folder, stream=True, stream_processes=0)
    assert_same([resident.training_sample(6)], [stream.training_sample(6)])
    whole = next(build(folder).batches("train"))
    places = [int((whole.x == x).flatten(1).all(1).nonzero()[0]) for x in resident.training_sample(6).x]
    assert places == [len(whole.y) * i // 6 for i in range(6)]
    assert len(resident.training_sample(10**6).y) == resident.num_samples("val")


def test_what_is_read_ahead_is_read_again_by_who_goes_on(folder: Path) -> None:
    whole, stream = build(folder), build(folder, stream=True)
    expected = chunks(whole, 6)
    first = chunks(stream, 2)
    state = stream.state_dict()
    stream.close()
    again = build(folder, stream=True)
    again.load_state_dict(state)
    assert_same([*first, *chunks(again, 4)], expected)
    again.load_state_dict(state)
    assert_same(chunks(again, 4), expected[8:])
    again.close()


def test_a_picture_that_is_damaged_later_is_named(folder: Path, tmp_path: Path) -> None:
    for source in folder.rglob("*.png"):
        target = tmp_path / source.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    stream = build(tmp_path, stream=True)
    (tmp_path / "light" / "30.png").write_bytes(b"no picture")

    def walk() -> None:
        for _ in range(6):
            list(stream.next_chunk())
        list(stream.batches("val"))
        list(stream.batches("test"))

    with pytest.raises(UserError, match=r"light/30\.png' cannot be read"):
        walk()
    stream.close()
    with pytest.raises(UserError, match=r"data\.size=\[12,10\] makes them alike"):
        list(ImageData(name=str(folder), batch_size=50, stream=True).build(0).next_chunk())
    with pytest.raises(UserError, match="is no folder of pictures"):
        ImageData(name="digits", stream=True).build(0)


def test_other_files_are_other_data(folder: Path, tmp_path: Path) -> None:
    digests = {build(folder, stream=True, **options).digest() for options in ({}, {"num_train": 50})}
    assert len(digests) == 2
    assert build(folder, stream=True).digest() in digests


SLOW = """
import sys, time
import lab.supervised.supervised as s
inner = s.Supervised.training_step
def slow(self, *arguments):
    time.sleep(0.1)
    return inner(self, *arguments)
s.Supervised.training_step = slow
from lab.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_and_resumed(folder: Path, tmp_path: Path) -> None:
    words = [
        "classifier/digits-cnn",
        f"data.name={folder}",
        "data.size=[8,8]",
        "data.stream=true",
        "data.batch_size=7",
        "data.batches_per_step=4",
        "data.transforms.flip=0.5",
        "trainer.budget=2000",
        "trainer.eval_period=1000",
        "trainer.num_threads=1",
        "trainer.checkpoint_seconds=0.2",
        "tracking.mode=disabled",
    ]
    whole = train(resolve(words[0], words[1:]), run_dir=tmp_path / "whole")
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", SLOW, "train", *words, "--out", str(out), "--quiet"])
    last = out / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 100
    while not last.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    readers = psutil.Process(process.pid).children()
    assert len(readers) >= 2
    process.kill()
    process.wait()
    run = Run.open(out)
    assert run.result()["status"] == "running"
    assert not run.is_alive(), "what reads holds the lock of what trains"
    done = train(run.experiment(), resume=run)
    states = [torch.load(each.last, weights_only=True)["state_dict"] for each in (whole.run, done.run)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    _, alive = psutil.wait_procs(readers, timeout=20)
    assert not alive, "processes that read outlive the one that trains"


@pytest.mark.slow
@pytest.mark.parametrize("transforms", ["{}", "{flip: 0.5, mixup: 0.3}"])
def test_two_ranks_read_what_one_process_reads(folder: Path, tmp_path: Path, transforms: str) -> None:
    words = [
        f"data.name={folder}",
        "data.size=[8,8]",
        "data.stream=true",
        "data.batch_size=8",
        f"data.transforms={transforms}",
    ]
    words += ["data.batches_per_step=3", "trainer.budget=600", "trainer.num_threads=1", "tracking.mode=disabled"]
    words += ["module.backbone.dropout=0", "trainer.log_period=1", "trainer.eval_period=300", "trainer.engine=eager"]
    alone = train(resolve("classifier/digits-cnn", words), run_dir=tmp_path / "alone").run
    two = [*words, "trainer.num_workers=2"]
    (run,) = train_on_ranks(2, [(resolve("classifier/digits-cnn", two), tmp_path / "two", 0)])
    states = [torch.load(each.last, weights_only=True)["state_dict"] for each in (alone, run)]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    """A folder whose pictures take 800 MB as floats is walked through within 160 MB."""
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(100):
            Image.fromarray(np.tile(tile, (9, 9, 1))).save(tmp_path / name / f"{i:03}.jpg")
    code = f"""
import psutil
from lab.data.images import ImageData, ImageModule, StreamModule
data = ImageData(name={str(tmp_path)!r}, batch_size=4, batches_per_step=40, stream=True, stream_processes=1).build(0)
rss = psutil.Process().memory_info
list(zip(range(3), data.next_chunk()))
before = rss().rss
print(max(rss().rss for batch in data.next_chunk()) - before)
data.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 160 * 2**20
