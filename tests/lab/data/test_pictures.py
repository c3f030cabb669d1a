"""Pictures of any mode and depth keep their greys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.data.pictures import read_picture

GREY = np.arange(0, 256, 9, dtype=np.uint8)[:28].reshape(4, 7)


@pytest.mark.parametrize("mode", ["L", "I;16", "1", "P", "RGBA", "LA", "CMYK", "transparent", "turned"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pictures_keep_their_greys(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    picture = Image.fromarray(GREY)
    expected = GREY
    if mode == "I;16":
        picture = Image.fromarray(GREY.astype(np.uint16) * 257)
    elif mode == "1":
        picture = picture.point(lambda v: 255 * (v > 127)).convert("1")
        expected = np.where(GREY > 127, 255, 0).astype(np.uint8)
    elif mode == "transparent":
        alpha = Image.fromarray(np.where(GREY > 127, 255, 0).astype(np.uint8))
        picture.putalpha(alpha)
        expected = np.where(GREY > 127, GREY, 255)
    elif mode == "turned":
        exif = Image.Exif()
        exif[0x0112] = 3  # upside down
        picture = Image.fromarray(GREY[::-1, ::-1].copy())
        picture.save(path, exif=exif)
    elif mode != "L":
        picture = picture.convert("RGB").convert(mode) if mode == "CMYK" else picture.convert(mode)
    if mode == "CMYK" and suffix == "png":
        pytest.skip("there is no such PNG")
    if mode != "turned":
        picture.save(path)
    read = read_picture(path)
    assert read.dtype == np.uint8
    grey = read if read.ndim == 2 else read[..., 0]
    assert np.abs(grey.astype(int) - expected).max() <= 1
    assert read.ndim == (3 if mode in ("P", "RGBA", "CMYK") else 2)
