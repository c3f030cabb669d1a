"""Features against scikit-image, NumPy and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lab.errors import UserError
from lab.supervised.baselines.features import ColourHistogramConfig, FeaturesConfig, RawConfig
from lab.supervised.baselines.hog import HogConfig
from lab.supervised.baselines.visual_words import VisualWordsConfig


def pictures(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random(shape)


@pytest.mark.parametrize(
    ("shape", "orientations", "cell", "block"),
    [((1, 28, 28), 9, 7, 2), ((1, 30, 41), 8, 4, 3), ((3, 32, 32), 9, 8, 2), ((1, 8, 8), 12, 2, 1)],
)
def test_hog_is_that_of_scikit_image(shape: tuple[int, ...], orientations: int, cell: int, block: int) -> None:
    hog = pytest.importorskip("skimage.feature").hog
    x = pictures(4, *shape)
    x[0] = 0.5  # flat: no gradient at all
    x[1] = np.round(x[1] * 3)  # many gradients along the axes, where bins begin
    features = HogConfig(orientations=orientations, cell=cell, block=block).build(shape)
    axis = None if shape[0] == 1 else -1
    theirs = [
        hog(
            image[0] if axis is None else np.moveaxis(image, 0, -1),
            orientations,
            (cell, cell),
            (block, block),
            channel_axis=axis,
        )
        for image in x
    ]
    ours = features(torch.from_numpy(x)).numpy()
    assert ours.shape == (4, features.num)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(features(torch.from_numpy(x).float()).numpy(), theirs, atol=1e-4)


@pytest.mark.parametrize(("joint", "grid"), [(False, 1), (True, 1), (False, 3), (True, 2)])
def test_histograms_are_those_of_numpy(joint: bool, grid: int) -> None:
    x = pictures(3, 3, 8, 7)
    x[0, :, 0, 0] = 1.0  # in the last bin
    features = ColourHistogramConfig(bins=4, joint=joint, grid=grid).build((3, 8, 7))
    ours = features(torch.from_numpy(x)).numpy()
    assert ours.shape == (3, features.num)
    bins, rows, columns = [np.linspace(0, 1, 5)] * 3, np.arange(8) * grid // 8, np.arange(7) * grid // 7
    for image, got in zip(x, ours.reshape(3, grid, grid, -1), strict=True):
        for i in range(grid):
            for j in range(grid):
                pixels = image[:, rows == i][:, :, columns == j].reshape(3, -1)
                if joint:
                    want = np.histogramdd(pixels[::-1].T, bins)[0].flatten()
                else:
                    want = np.concatenate([np.histogram(each, bins[0])[0] for each in pixels])
                np.testing.assert_allclose(got[i, j], want / pixels.shape[1], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("descriptor", ["patches", "hog"])
def test_words_are_the_nearest_centres(descriptor: Any) -> None:
    x = torch.from_numpy(pictures(30, 1, 16, 14)).float()
    config = VisualWordsConfig(words=8, patch=4, stride=3, descriptor=descriptor, grid=2)
    features = config.build((1, 16, 14))
    with pytest.raises(UserError, match="not fitted yet"):
        features(x)
    features.fit(lambda: x.split(7), seed=0)
    descriptors = features.descriptors(x).numpy()
    down, right = (7, 6) if descriptor == "hog" else (5, 4)
    near = ((descriptors[:, :, None] - features.words.numpy()) ** 2).sum(-1).argmin(-1).reshape(30, down, right)
    ours = features(x).numpy().reshape(30, 2, 2, 8)
    rows, columns = np.arange(down) * 2 // down, np.arange(right) * 2 // right
    for i in range(2):
        for j in range(2):
            part = near[:, rows == i][:, :, columns == j].reshape(30, -1)
            want = np.stack([np.bincount(each, minlength=8) for each in part]) / part.shape[1]
            np.testing.assert_allclose(ours[:, i, j], want, atol=1e-6)
    if descriptor == "patches":
        patch = x[0, 0, 3:7, 6:10].numpy()
        want = (patch - patch.mean()) / np.sqrt(patch.var() + (10 / 255) ** 2)
        np.testing.assert_allclose(descriptors[0, 1 * right + 2], want.flatten(), atol=1e-5)
    again = config.build((1, 16, 14))
    again.load_state_dict(features.state_dict())
    assert torch.equal(again(x), features(x))


@pytest.mark.slow
def test_a_triangle_says_how_much_nearer_a_word_is() -> None:
    x = torch.from_numpy(pictures(60, 3, 8, 8)).float()
    features = VisualWordsConfig(words=5, patch=8, encoding="triangle").build((3, 8, 8))
    features.fit(lambda: [x], seed=0)
    distances = torch.cdist(features.descriptors(x)[:, 0], features.words)
    torch.testing.assert_close(features(x), (distances.mean(1, keepdim=True) - distances).relu(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", [HogConfig(), ColourHistogramConfig(), VisualWordsConfig()])
def test_rows_are_no_pictures(config: FeaturesConfig) -> None:
    with pytest.raises(
        UserError, match=rf"module\.features\.kind='{config.kind}' is of pictures; .* rows of 10 numbers"
    ):
        config.build((10,))
    assert RawConfig().build((3, 4, 4)).num == 48


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (HogConfig(), r"at least one block, 24x24 pixels \(cell=8 x block=3\); these have 8x9\."),
        (ColourHistogramConfig(grid=9), r"module\.features\.grid=9 is not valid: pictures have 8x9 pixels\."),
        (ColourHistogramConfig(bins=64, joint=True), r"bins=64 makes 262,144 features; at most 100,000"),
        (VisualWordsConfig(patch=9), r"module\.features\.patch=9 is not valid: pictures have 8x9 pixels\."),
        (VisualWordsConfig(patch=3, descriptor="hog"), r"module\.features\.patch=3 is not valid: .* even\."),
        (VisualWordsConfig(patch=6, grid=3), r"module\.features\.grid=3 is not valid: there are 2x2 patches\."),
    ],
)
def test_what_does_not_fit_pictures_is_one_sentence(config: FeaturesConfig, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        config.build((3, 8, 9))


def test_more_words_than_patches_are_refused() -> None:
    features = VisualWordsConfig(words=50, patch=6).build((3, 8, 8))
    with pytest.raises(
        UserError, match=r"module\.features\.words=50 is not valid: the training split has 40 patches\."
    ):
        features.check(10)
