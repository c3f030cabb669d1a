"""Captions from files, as minibatches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lab.data.captions import CaptionData, CaptionModule, read_captions
from lab.data.language.vocabulary import END
from lab.data.targets import Sentence
from lab.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve grey pictures, of which the i-th is as bright as i."""
    for i in range(12):
        Image.fromarray(np.full((6, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


def coco(folder: Path, **changes: Any) -> Path:
    whole = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(12)],
        "annotations": [{"image_id": i, "caption": f"Picture {i} {word}"} for i in range(12) for word in "ab"],
    }
    path = folder / "captions.json"
    path.write_text(json.dumps(whole | changes), encoding="utf-8")
    return path


def module(path: Path, **options: Any) -> CaptionModule:
    return CaptionData.model_validate({"name": str(path), "batch_size": 4, **options}).build(0)


def test_an_image_and_all_of_its_captions_are_of_one_split(folder: Path) -> None:
    data = module(coco(folder))
    assert isinstance(data.spec.target, Sentence)
    seen: dict[str, set[int]] = {}
    for split in ("train", "val", "test"):
        for batch in data.batches(split):  # type: ignore[arg-type]
            assert batch.x.shape[1:] == (1, 6, 8)
            seen.setdefault(split, set()).update((batch.x[:, 0, 0, 0] * 255).round().int().tolist())
            for x, y in zip(batch.x, batch.y, strict=True):
                number = round(float(x[0, 0, 0]) * 255)
                words = data.spec.target.vocabulary.words(y.tolist())
                assert words[:1] == ["picture"]
                assert words[1] in (str(number), "<unk>")
                assert END in y
    assert sorted(number for numbers in seen.values() for number in numbers) == list(range(12))


def test_a_table_of_captions_and_pictures_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("elsewhere") / "captions.csv"
    path.write_text("file,caption\n" + "".join(f"{i}.png,a picture\n" for i in range(12)), encoding="utf-8")
    data = module(path, folder=str(folder), size=[3, 3], channels=3)
    assert data.spec.inputs.shape == (3, 3, 3)  # type: ignore[union-attr]
    assert [item.x.shape for item in data.items([str(folder / "1.png")])] == [torch.Size([3, 3, 3])]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"images": []}', "is no JSON of captions in COCO's form (KeyError: 'annotations')"),
        ("[", "is no JSON of captions"),
        ('{"images": [], "annotations": []}', "holds no captions"),
        (
            '{"images": [], "annotations": [{"image_id": 3, "caption": "x"}]}',
            "annotation 0: image 3 is not among its images",
        ),
        (
            '{"images": [{"id": 3, "file_name": "no.png"}], "annotations": [{"image_id": 3, "caption": "x"}]}',
            "annotation 0: there is no picture 'no.png'",
        ),
        (
            '{"images": [{"id": 3, "file_name": "../x.png"}], "annotations": [{"image_id": 3, "caption": "x"}]}',
            "annotation 0: there is no picture '../x.png'",
        ),
        (
            '{"images": [{"id": 3, "file_name": "1.png"}], "annotations": [{"image_id": 3, "caption": " "}]}',
            "annotation 0: the caption of '1.png' is empty",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(folder: Path, content: str, sentence: str) -> None:
    path = folder / "captions.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_captions(path, folder)
    assert sentence in str(error.value)
    assert str(path) in str(error.value)


def test_pictures_of_many_sizes_need_a_size(folder: Path) -> None:
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "3.png")
    with pytest.raises(UserError, match=r"3\.png' is \(5, 5\), the first one \(6, 8\); data\.size"):
        module(coco(folder))


def test_a_module_goes_on_where_its_state_says(folder: Path) -> None:
    one, other = module(coco(folder)), module(coco(folder))
    list(one.next_chunk())
    other.load_state_dict(one.state_dict())
    for first, second in zip(one.next_chunk(), other.next_chunk(), strict=True):
        assert torch.equal(first.x, second.x)
        assert torch.equal(first.y, second.y)
