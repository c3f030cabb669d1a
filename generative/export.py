"""What makes images of latents, as a network that runs without the lab. B images, D latents, C, H, W of an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lab.data.spec import TensorSpec
from lab.export import Exportable, Input

_EXAMPLE = '''"""Makes 16 images with {name}.onnx and writes them to images.npy; needs numpy and onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime

folder = Path(__file__).parent
{name} = onnxruntime.InferenceSession(folder / "{name}.onnx")
noise = np.random.default_rng(0)
inputs = {{"latents": noise.standard_normal((16, {num_latents}), np.float32)}}
{classes}(images,) = {name}.run(None, inputs)  # (16, channels, height, width), pixels from 0 to 1
np.save(folder / "images.npy", images)
print("images", images.shape, "pixels from", images.min(), "to", images.max())
'''
_CLASSES = 'inputs["class"] = np.arange(16) % {num_classes}\n'


ImagesOf = Callable[[Tensor, Tensor | None], Tensor]
"""latents (B, D) and classes (B,) or None -> images (B, C, H, W)"""


class ImageNetwork(nn.Module):
    """`images_of` as a module with the parameters of `net`; it takes latents, and classes of a conditional model."""

    def __init__(self, images_of: ImagesOf, net: nn.Module) -> None:
        super().__init__()
        self.images_of, self.net = images_of, net

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.images_of(tensors[0], tensors[1] if len(tensors) > 1 else None)


def exportable_images(
    name: str, images_of: ImagesOf, net: nn.Module, num_latents: int, num_classes: int = 0
) -> Exportable:
    """`images_of(latents, classes)` with the parameters of `net`, called `name`; 0 classes: latents alone."""
    inputs = {"latents": Input(TensorSpec((num_latents,)))}
    if num_classes:
        inputs["class"] = Input(TensorSpec((), torch.int64, 0, num_classes - 1))
    classes = _CLASSES.format(num_classes=num_classes) if num_classes else ""
    example = _EXAMPLE.format(name=name, num_latents=num_latents, classes=classes)
    return Exportable(name, ImageNetwork(images_of, net), inputs, ("images",), example)
