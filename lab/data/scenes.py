"""Scenes: one to three small pictures of known classes on a black canvas, with what there is to say about them.

A scene has a caption ("a three left of a seven"), boxes, a mask of each picture and one of all classes: one generator
for tasks that describe, and for those that find. Always the same for the same pictures.
N scenes, S pixels of the canvas's side, K pictures at most in one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lab.data.targets.arrays import Array

MOST = 3
"""pictures in a scene"""
_MARGIN = 2
"""pixels by which centres differ more in one direction than in the other, so that a relation is clear"""
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Scenes(NamedTuple):
    """Scenes of one split.

    images: (N, S, S) uint8
    captions: N sentences
    classes: (N, K) int64, -1 where a scene has fewer pictures
    boxes: (N, K, 4) int64, (left, top, right, bottom) of what is drawn, right and bottom outside; 0 where there is none
    instances: (N, S, S) uint8, 0 for ground, else 1 + the number of the picture
    """

    images: Array
    captions: list[str]
    classes: Array
    boxes: Array
    instances: Array

    @property
    def semantics(self) -> Array:
        """The class of each pixel plus 1, 0 for ground (N, S, S) uint8."""
        table = np.concatenate([np.zeros((len(self.classes), 1), np.int64), self.classes + 1], 1)
        return (
            np.take_along_axis(table, self.instances.reshape(len(table), -1).astype(np.int64), 1)
            .reshape(self.instances.shape)
            .astype(np.uint8)
        )


def make_scenes(pictures: Array, labels: Array, names: Sequence[str], num: int, side: int, seed: int) -> Scenes:
    """`num` scenes of pictures (M, H, W) uint8 of classes (M,) on canvases of `side` pixels."""
    rng = np.random.default_rng(seed)
    height, width = pictures.shape[1:]
    images, instances = (np.zeros((num, side, side), np.uint8) for _ in range(2))
    classes, boxes = np.full((num, MOST), -1), np.zeros((num, MOST, 4), np.int64)
    captions = []
    for scene in range(num):
        corners = _places(rng, int(rng.integers(1, MOST + 1)), side - height, side - width, height, width)
        chosen = rng.integers(len(pictures), size=len(corners))
        for k, ((top, left), which) in enumerate(zip(corners, chosen, strict=True)):
            part = slice(top, top + height), slice(left, left + width)
            images[scene][part] = np.maximum(images[scene][part], pictures[which])
            drawn = pictures[which] > 0
            instances[scene][part][drawn] = k + 1
            rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
            boxes[scene, k] = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
            classes[scene, k] = labels[which]
        captions.append(_caption(corners, [names[labels[which]] for which in chosen]))
    return Scenes(images, captions, classes, boxes, instances)


def number_names(num: int) -> tuple[str, ...]:
    """`zero`, `one` and so on."""
    return _NUMBERS[:num]


def _places(
    rng: np.random.Generator, num: int, most_top: int, most_left: int, height: int, width: int
) -> list[tuple[int, int]]:
    """Corners (top, left) of pictures that do not overlap, from left to right, whose relations are clear."""
    while True:
        corners = sorted(
            ((int(rng.integers(most_top + 1)), int(rng.integers(most_left + 1))) for _ in range(num)),
            key=lambda corner: corner[1],
        )
        apart = all(
            abs(a[0] - b[0]) >= height or abs(a[1] - b[1]) >= width for i, a in enumerate(corners) for b in corners[:i]
        )
        clear = all(
            abs(abs(a[0] - b[0]) - (b[1] - a[1])) >= _MARGIN and b[1] - a[1] >= _MARGIN
            for a, b in itertools.pairwise(corners)
        )
        if apart and clear:
            return corners


def _caption(corners: Sequence[tuple[int, int]], names: Sequence[str]) -> str:
    """From left to right, each picture with how it lies to the next one."""
    words = [_with_article(names[0])]
    for (top, left), (next_top, next_left), name in zip(corners, corners[1:], names[1:], strict=False):
        down = next_top - top
        words.append("left of" if next_left - left > abs(down) else "above" if down > 0 else "below")
        words.append(_with_article(name))
    return " ".join(words)


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aei" else f"a {name}"
