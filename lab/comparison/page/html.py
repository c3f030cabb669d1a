"""The HTML page of a comparison: one self-contained file that opens offline and sends nothing anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.progress import track

from lab.comparison.page.data import all_layers, curve_data, groups_of, metrics_of, page_data, run_id
from lab.comparison.page.media import media_data
from lab.comparison.summary import Section
from lab.runs.files import write_atomic

_ASSETS = Path(__file__).parent / "assets"
_CURVE_POINTS = 600_000
_MEDIA_BYTES = 9_000_000
_LAYER_BYTES = 3_000_000
_MIN_POINTS, _MAX_POINTS = 40, 1_000
_MANY_SERIES = 100
"""curves that take long enough for a person to want to see how far they are"""


def write_page(
    sections: Sequence[Section], path: Path, title: str, extra_media: Mapping[str, Sequence[Path]] | None = None
) -> None:
    """Write the page of a comparison. Raises Failure when the file cannot be written."""
    runs = {run_id(run): run for section in sections for group in groups_of(section) for run in group.runs}
    series = sum(len(run.curves) for run in runs.values())
    max_points = min(_MAX_POINTS, max(_MIN_POINTS, _CURVE_POINTS // max(1, series)))
    data = page_data(sections, title, partial(_link, path.parent.resolve()))
    first: dict[str, Any] = {}
    rest: dict[str, Any] = {
        "media": media_data(runs, extra_media or {}, _MEDIA_BYTES),
        "layers": all_layers(runs, _LAYER_BYTES),
    }
    wanted = [
        (index, place, metric)
        for index, section in enumerate(sections)
        for place, metric in enumerate(metrics_of(section))
    ]
    console = Console(stderr=True)
    shown = console.is_terminal and series > _MANY_SERIES
    for index, place, metric in track(wanted, "curves", console=console, disable=not shown, transient=True):
        (rest if place else first)[f"curves-{index}-{place}"] = curve_data(sections[index], metric, max_points)
    write_atomic(path, html(title, data, plotly_source(), first, rest))


def html(
    title: str,
    data: dict[str, Any] | None,
    plotly: str,
    first: Mapping[str, Any] | None = None,
    rest: Mapping[str, Any] | None = None,
) -> str:
    """The page as text; without data it asks its server for them.

    Args:
        first: parts by name that are needed for what is on the screen at once: the curves of the compared metrics.
        rest: parts that are read when they are asked for.
    """
    parts = {
        "TITLE": title.replace("&", "&amp;").replace("<", "&lt;"),
        "SERVER": "" if data is not None else "'self'",
        "CONNECT": "'none'" if data is not None else "'self'",
        "STYLE": (_ASSETS / "page.css").read_text(encoding="utf-8"),
        "SCRIPT": (_ASSETS / "page.js").read_text(encoding="utf-8"),
        "DATA": _json(data),
        "FIRST": _embedded(first or {}),
        "REST": _embedded(rest or {}),
        "PLOTLY": plotly,
    }
    page = (_ASSETS / "page.html").read_text(encoding="utf-8")
    start, *pieces = page.split("{{")
    return start + "".join(parts[piece.partition("}}")[0]] + piece.partition("}}")[2] for piece in pieces)


def _embedded(parts: Mapping[str, Any]) -> str:
    lines = [f'<script type="application/json" id="{name}">{_json(part)}</script>' for name, part in parts.items()]
    return "\n".join(lines)


def _json(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _link(folder: Path, path: Path) -> str:
    """A relative URL from the page's folder to a path."""
    return quote(Path(os.path.relpath(path.resolve(), folder)).as_posix())


def plotly_source() -> str:
    """plotly.js as it lies in the plotly package (not imported: that takes a second)."""
    from importlib.util import find_spec

    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    return source.replace("</script", "<\\/script")
