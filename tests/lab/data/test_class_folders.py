"""Folders of a folder of pictures for each class, with and without splits."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.data.images import ImageData, ImageModule, load_images
from tests.lab.data.test_image_files import X, write_folder


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_folder_of_images(tmp_path: Path, mode: str) -> None:
    write_folder(tmp_path / "flat", mode)
    arrays = load_images(str(tmp_path / "flat"))
    assert (len(arrays.train[0]), len(arrays.test[0])) == (36, 4)
    assert arrays.label_names == ("class0", "class1", "class2", "class3")
    module = ImageModule(ImageData(batch_size=4), arrays, seed=0)
    assert module.spec.inputs.shape == ((1 if mode == "L" else 3), 6, 5)  # type: ignore[union-attr]
    both = np.concatenate([arrays.train[0], arrays.test[0]]).reshape(40, -1)
    assert {row.tobytes() for row in both} == {np.asarray(Image.fromarray(x).convert(mode)).tobytes() for x in X}


def test_a_folder_with_train_and_test(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test")
    arrays = load_images(str(tmp_path))
    assert (len(arrays.train[0]), len(arrays.test[0])) == (40, 40)


def test_every_class_is_in_every_split_of_sorted_folders(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test")
    module = ImageData(name=str(tmp_path), batch_size=4, num_train=8).build(seed=0)
    for split in ("train", "val", "test"):
        assert len(next(module.batches(split)).y.unique()) == 4, split  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_val_is_the_validation_split(tmp_path: Path, name: str) -> None:
    for split in ("train", "test", name):
        write_folder(tmp_path / split)
    for file in list((tmp_path / name).rglob("*.png"))[:12]:
        file.unlink()
    module = ImageData(name=str(tmp_path), batch_size=4).build(seed=0)
    assert [module.num_samples(split) for split in ("train", "val", "test")] == [40, 28, 40]  # type: ignore[arg-type]


def test_a_class_that_the_test_split_lacks_and_what_is_no_image(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test")
    shutil.rmtree(tmp_path / "test" / "class1")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "__MACOSX").mkdir()
    (tmp_path / "train" / "class0" / "._000.png").write_bytes(b"resource fork")
    (tmp_path / "train" / "class0" / "notes.txt").write_text("notes")
    os.mkfifo(tmp_path / "train" / "class0" / "pipe.png")
    with caplog.at_level(logging.WARNING, "lab"):
        module = ImageData(name=str(tmp_path), batch_size=4).build(seed=0)
    assert (module.num_samples("train") + module.num_samples("val"), module.num_samples("test")) == (40, 30)
    assert module.spec.target.num == 4  # type: ignore[union-attr]
    assert "has no class 'class1'" in caplog.text
    assert "2 files are no images that can be read, notes.txt first" in caplog.text


def test_grey_and_coloured_pictures_are_all_coloured(tmp_path: Path) -> None:
    write_folder(tmp_path)
    Image.fromarray(np.stack([X[0]] * 3, -1)).save(tmp_path / "class0" / "000.png")
    assert load_images(str(tmp_path)).train[0].shape == (36, 6, 5, 3)
