"""Total variation of images (Rudin, Osher and Fatemi 1992): what is rough has much of it, flat areas have none.

N images of C channels, H rows and W columns.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Form = Literal["anisotropic", "isotropic"]


def total_variation(images: Tensor, form: Form = "anisotropic") -> Tensor:
    """The sum over pixels and channels of an image's differences to its neighbours below (d) and to the right (r).

    Args:
        images: (N, C, H, W); beyond their edges there are no differences.
        form: anisotropic, |d| + |r|; isotropic, sqrt(d^2 + r^2), which does not prefer level and upright edges. Where
            both differences are 0, so is the gradient.

    Returns: (N,).
    """
    down = F.pad(images.diff(dim=2), (0, 0, 0, 1))
    right = F.pad(images.diff(dim=3), (0, 1))
    if form == "anisotropic":
        return (down.abs() + right.abs()).flatten(1).sum(1)
    return torch.linalg.vector_norm(torch.stack([down, right]), dim=0).flatten(1).sum(1)
