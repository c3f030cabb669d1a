"""Bags of visual words (Csurka et al. 2004; Coates and Ng 2011): how often a picture's patches are like each of some.

B batch, C channels, H rows, W columns, P patches of a picture, D numbers of a descriptor, K words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from lab.errors import UserError
from lab.supervised.baselines.features import Features, FeaturesConfig, part_of, picture_shape
from lab.supervised.baselines.hog import blocks_of, cells_of
from lab.supervised.baselines.models import check_fitted, squared_distances

_ORIENTATIONS = 9
_FLAT = (10 / 255) ** 2
"""added to the variance of a patch's pixels, so that noise of flat patches is not enlarged"""
_SAMPLED = 100_000
"""descriptors that the codebook is made of, or as many for each word"""
_FOR_EACH_WORD = 50


class VisualWordsConfig(FeaturesConfig):
    """How often patches of a picture are like each word of a codebook, by k-means of patches of the training split."""

    kind: Literal["visual_words"] = "visual_words"
    words: int = Field(default=200, ge=2, le=20_000)
    descriptor: Literal["patches", "hog"] = "patches"
    """of a patch: its pixels, of mean 0 and variance 1; or its gradients, a block of 2x2 cells of HOG"""
    patch: int = Field(default=6, ge=2)
    """rows and columns of pixels in a patch, an even number for hog"""
    stride: PositiveInt = 2
    """pixels between two patches; of hog they are half a patch apart, whatever this says"""
    encoding: Literal["hard", "triangle"] = "hard"
    """hard: the share of patches whose nearest word it is; triangle: the mean of how much nearer a word is than words
    are on average, or 0"""
    grid: PositiveInt = 1
    """rows and columns of parts that a picture's patches are divided into, each of which is counted by itself"""

    def build(self, shape: tuple[int, ...]) -> VisualWords:
        return VisualWords(self, shape)


class VisualWords(Features):
    """Pictures (B, C, H, W) -> (B, F). Raises UserError for rows, and for pictures smaller than a patch."""

    words: Tensor  # (K, D)
    share: Tensor  # (G, P) of a part's patches that a patch is

    def __init__(self, config: VisualWordsConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, rows, columns = picture_shape(config.kind, shape)
        if config.descriptor == "hog" and config.patch % 2:
            raise UserError(f"module.features.patch={config.patch} is not valid: of descriptor=hog it is even.")
        if config.patch > min(rows, columns):
            raise UserError(
                f"module.features.patch={config.patch} is not valid: pictures have {rows}x{columns} pixels."
            )
        self.config = config
        step = config.patch // 2 if config.descriptor == "hog" else config.stride
        down, right = ((length - config.patch) // step + 1 for length in (rows, columns))
        if config.grid > min(down, right):
            raise UserError(f"module.features.grid={config.grid} is not valid: there are {down}x{right} patches.")
        size = 4 * _ORIENTATIONS if config.descriptor == "hog" else channels * config.patch**2
        self.num, self.num_patches = config.grid**2 * config.words, down * right
        share = F.one_hot(part_of(down, right, config.grid).flatten(), config.grid**2).T.float()
        self.register_buffer("words", torch.empty(0, size))
        self.register_buffer("share", share / share.sum(1, keepdim=True), persistent=False)

    def check(self, num_samples: int) -> None:
        num = num_samples * self.num_patches
        if num < self.config.words:
            raise UserError(
                f"module.features.words={self.config.words} is not valid: the training split has {num} patches."
            )

    def descriptors(self, x: Tensor) -> Tensor:
        """(B, P, D) of pictures (B, C, H, W)."""
        if self.config.descriptor == "hog":
            return blocks_of(cells_of(x, _ORIENTATIONS, self.config.patch // 2), 2).flatten(3).flatten(1, 2)
        patches = F.unfold(x, self.config.patch, stride=self.config.stride).mT
        apart = patches - patches.mean(2, keepdim=True)
        return apart / (apart.square().mean(2, keepdim=True) + _FLAT).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        check_fitted(self.words)
        descriptors = self.descriptors(x)
        apart = squared_distances(descriptors.flatten(0, 1), self.words)
        if self.config.encoding == "hard":
            near = F.one_hot(apart.argmin(1), len(self.words)).to(x.dtype)
        else:
            apart = apart.sqrt()
            near = F.relu(apart.mean(1, keepdim=True) - apart)
        return (self.share @ near.unflatten(0, descriptors.shape[:2])).flatten(1)

    @torch.no_grad()
    def fit(self, batches: Callable[[], Iterable[Tensor]], seed: int) -> None:
        """Take the words from patches of all training pictures, of each as many, drawn at random."""
        from sklearn.cluster import MiniBatchKMeans

        num_pictures = sum(len(x) for x in batches())
        wanted = max(_SAMPLED, _FOR_EACH_WORD * self.config.words)
        each = min(-(-wanted // num_pictures), self.num_patches)
        generator = torch.Generator().manual_seed(seed)
        sampled = []
        for x in batches():
            order = torch.rand(len(x), self.num_patches, generator=generator).argsort(1)[:, :each, None]
            descriptors = self.descriptors(x).cpu()
            sampled.append(descriptors.gather(1, order.expand(-1, -1, descriptors.shape[2])).flatten(0, 1))
        k_means = MiniBatchKMeans(self.config.words, batch_size=4096, n_init=3, random_state=seed)
        words = k_means.fit(torch.cat(sampled).numpy()).cluster_centers_
        self.words = torch.from_numpy(words).to(self.words)
