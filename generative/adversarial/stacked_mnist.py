"""Stacked MNIST: three digits as the channels of one image, 1,000 classes, for counting the modes that a GAN reaches.

Srivastava et al. 2017 (VEEGAN), after Metz et al. 2017. Made from MNIST in memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.data.image_files import read_idx_folder
from lab.data.images import ImageArrays, register_images
from lab.data.targets.arrays import Array


@register_images("stacked-mnist")
def stacked_mnist(root: Path) -> ImageArrays:
    """Three MNIST digits as the channels of one image: 60,000 + 10,000, 1,000 classes, from MNIST in LAB_DATA."""
    arrays = read_idx_folder(root / "mnist", root)
    return ImageArrays(
        stacked(*arrays.train, seed=0),
        stacked(*arrays.test, seed=1),
        label_names=tuple(f"{i:03d}" for i in range(1000)),
    )


def stacked(images: Array, labels: Array, seed: int) -> tuple[Array, Array]:
    """Images (N, 28, 28, 3) of as many random triples as there are images (N, 28, 28), and labels (N,) 0 to 999.

    Each image occurs once in each channel.
    """
    generator = np.random.default_rng(seed)
    order = np.stack([generator.permutation(len(images)) for _ in range(3)], axis=1)  # (N, 3)
    return np.moveaxis(images[order], 1, -1), labels[order].astype(np.int64) @ np.array([100, 10, 1])
