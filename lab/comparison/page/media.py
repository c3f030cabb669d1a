"""Pictures and videos inside the page: as many as fit a budget of bytes, spread evenly over the steps."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.comparison.records import PICTURES, VIDEOS, Record

_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}
_STEPS = (24, 12, 6, 3, 1)


def media_data(
    records: Mapping[str, Record], extra: Mapping[str, Sequence[Path]], budget: int
) -> dict[str, dict[str, Any]]:
    """By run: `pictures` {name: [[step, data URI], ...]} and `others` [[name, data URI], ...].

    Fewer steps are taken until all fits `budget` bytes; then other files are left out, the largest first.
    """
    others = {name: list(dict.fromkeys([*run.media.others, *extra.get(name, ())])) for name, run in records.items()}
    fitting = _fitting([path for paths in others.values() for path in paths], budget)
    left = budget - sum(map(_embedded_size, fitting))
    chosen: dict[str, dict[str, list[tuple[int, Path]]]] = {}
    for steps in _STEPS:
        chosen = {
            name: {picture: _spread(items, steps) for picture, items in run.media.pictures.items()}
            for name, run in records.items()
        }
        if sum(_embedded_size(path) for run in chosen.values() for items in run.values() for _, path in items) <= left:
            break
    else:
        chosen = {}
    return {
        name: {
            "pictures": {
                picture: [[step, data_uri(path)] for step, path in items]
                for picture, items in chosen.get(name, {}).items()
            },
            "others": [[path.stem, data_uri(path)] for path in others[name] if path in fitting],
        }
        for name in records
        if chosen.get(name) or any(path in fitting for path in others[name])
    }


def data_uri(path: Path) -> str:
    """A file as a `data:` URI."""
    return f"data:{_TYPES[path.suffix.lower()]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _fitting(paths: Sequence[Path], budget: int) -> set[Path]:
    taken: set[Path] = set()
    for path in sorted({path for path in paths if path.suffix.lower() in PICTURES + VIDEOS}, key=_embedded_size):
        budget -= _embedded_size(path)
        if budget < 0:
            break
        taken.add(path)
    return taken


def _embedded_size(path: Path) -> int:
    return -(-path.stat().st_size // 3) * 4


def _spread(items: Sequence[tuple[int, Path]], count: int) -> list[tuple[int, Path]]:
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
