"""One picture file as an array: of any mode and depth, and of the size that a net needs. H rows, W columns."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from lab.data.targets.arrays import Array
from lab.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
Fit = Literal["resize", "crop", "pad"]


class Reading(NamedTuple):
    """How pictures are read.

    size: rows and columns; None as they are, which must then be alike
    fit: how a picture of another shape gets that size: `resize` stretches it, `crop` cuts what is beyond the middle,
        `pad` puts ground on two sides
    channels: 1 grey, 3 colour, None as they are
    ground: behind what is transparent, and beside what is padded
    """

    size: tuple[int, int] | None = None
    fit: Fit = "resize"
    channels: Literal[1, 3] | None = None
    ground: Literal["white", "black"] = "white"


AS_THEY_ARE = Reading()


def read_picture(file: Path | BinaryIO, reading: Reading = AS_THEY_ARE, name: str | None = None) -> Array:
    """One picture as uint8, grey (H, W) or in colour (H, W, 3), upright; 16 bits become 8.

    Raises UserError, with the file's name or `name`, when it cannot be read.
    """
    try:
        with warnings.catch_warnings(), Image.open(file) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if reading.size is not None:
                longer = max(reading.size)
                image.draft(None, (longer, longer))  # a JPEG that is much larger need not be decoded in full
            ImageOps.exif_transpose(image, in_place=True)
            return fitted(_plain(image, reading.ground), reading)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        why = str(error).partition(" <")[0]  # of standard input, Pillow names the object in memory
        raise UserError(f"image {name or str(file)!r} cannot be read ({why}).") from None


def fitted(picture: Image.Image, reading: Reading) -> Array:
    """A picture in grey or colour as an array of the size and channels that are asked for."""
    mode = picture.mode if reading.channels is None else "L" if reading.channels == 1 else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    if reading.size is not None and picture.size != reading.size[::-1]:
        size, how = reading.size[::-1], Image.Resampling.BILINEAR
        if reading.fit == "resize":
            picture = picture.resize(size, how)
        elif reading.fit == "crop":
            picture = ImageOps.fit(picture, size, how)
        else:
            picture = ImageOps.pad(picture, size, how, color=reading.ground)
    return np.asarray(picture)


def fitted_array(image: Array, reading: Reading) -> Array:
    """An image (H, W), (H, W, 1) or (H, W, 3) of uint8 as `fitted` gives it."""
    return fitted(Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image), reading)


def _plain(picture: Image.Image, ground: Literal["white", "black"]) -> Image.Image:
    """Grey or in colour, of 8 bits, without transparency."""
    if picture.mode in ("L", "RGB") and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I"):  # 16 bits a pixel, whatever their order
        grey = (np.asarray(picture).astype(np.int64).clip(0, 65_535) / 257).round().astype(np.uint8)
        return Image.fromarray(grey)
    if picture.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("LA" if picture.mode in ("L", "LA", "1") else "RGBA")
        behind = Image.new("RGBA", picture.size, ground)
        return Image.alpha_composite(behind, picture.convert("RGBA")).convert("L" if picture.mode == "LA" else "RGB")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")
