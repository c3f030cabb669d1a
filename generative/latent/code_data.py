"""A prior over a VQ-VAE's codes: the codes of a trained run as data, so that any autoregressive model can learn them.

`data.kind=codes data.run=RUN` encodes the images of a VQ-VAE run once and hands out grids of codes (1, h, w) as images
of K levels. Pictures and distances of samples are those of the images that the run's decoder makes of them.
B images, K codes, h x w grid.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from generative.latent.vq_vae import VQVAE
from lab.data.image_batches import ImageBatches
from lab.data.images import ImageModule
from lab.data.resident import ShuffledOrder
from lab.data.spec import DataSpec, TensorSpec
from lab.errors import UserError
from lab.experiment import DataConfig, Shared
from lab.runs.directory import Run
from lab.training.restore import restore


class CodeData(DataConfig):
    """The codes of a trained VQ-VAE, resident on the device."""

    kind: Literal["codes"] = "codes"
    run: str
    """the run directory of the VQ-VAE"""
    batch_size: Annotated[int, Shared("equal")] = Field(default=64, ge=1, le=65_536)
    batches_per_step: PositiveInt = 8
    """minibatches in one training step"""

    def build(self, seed: int) -> CodeModule:
        """Encode the images of the run. Raises UserError when it is not a trained VQ-VAE."""
        try:
            run = Run.open(self.run)
        except UserError as error:
            raise UserError(
                f"data.run={self.run!r} must be the run directory of a trained VQ-VAE "
                f"(lab train vq-vae/digits --out {self.run}; of one that lies elsewhere now, say where): {error}"
            ) from None
        experiment, images, module, _ = restore(run)
        if not isinstance(module, VQVAE) or not isinstance(images, ImageModule):
            raise UserError(
                f"data.run={self.run!r} trains module.kind={experiment.module.kind!r}; codes come from a vq_vae."
            )
        return CodeModule(self, module, images, seed)


class CodeModule(ImageBatches):
    """x (B, 1, h, w) codes on K levels in [0, 1], y (B,) the classes of their images."""

    def __init__(self, config: CodeData, vq_vae: VQVAE, images: ImageModule, seed: int) -> None:
        super().__init__()
        self.config, self.batches_per_step = config, config.batches_per_step
        self.vq_vae, self.images, self.device = vq_vae, images, images.device
        self.levels = vq_vae.config.num_codes
        self._splits = {split: self._encode(split) for split in ("train", "val", "test")}
        self.spec = DataSpec(
            TensorSpec((1, *vq_vae.grid), torch.float32, 0.0, 1.0, self.levels), target=images.spec.target
        )
        self.order = ShuffledOrder(self.num_samples("train"), config.batch_size, seed, self.device)

    @property
    def image_module(self) -> ImageModule:
        return self.images

    @torch.no_grad()
    def to_images(self, x: Tensor) -> Tensor:
        """Mean images (N, C, H, W) of grids of codes x (N, 1, h, w) in [0, 1]."""
        codes = (x[:, 0] * (self.levels - 1)).round().long()
        return torch.cat([self.vq_vae.net.likelihood.mean(self.vq_vae.decode(part)) for part in codes.split(500)])

    def to(self, device: torch.device) -> None:
        super().to(device)
        self.vq_vae.to(device)
        self.images.to(device)

    @torch.no_grad()
    def _encode(self, split: Literal["train", "val", "test"]) -> tuple[Tensor, Tensor]:
        batches = [(self.vq_vae.encode(x), y) for x, y in self.images.batches(split)]
        return torch.cat([codes for codes, _ in batches])[:, None], torch.cat([y for _, y in batches])
