"""The comparison page live, on the loopback interface.

It keeps nothing: kill it and start it again at any time; an open page finds the new one by itself.
"""

from __future__ import annotations

import html as markup
import json
import mimetypes
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from lab.errors import UserError

_CURVE_POINTS = 120_000
_SCAN_SECONDS = 1.0
_SHOWN_AS_TEXT = (".yaml", ".json", ".jsonl", ".txt", ".log")


class Board:
    """The runs below some folders and the page's data about them, renewed when somebody asks."""

    def __init__(self, folders: Sequence[Path], **options: Any) -> None:
        from lab.comparison.page.follow import Follower

        self._follower = Follower(folders)
        self._title = f"Board of {', '.join(map(str, folders))}"
        self._options = options
        self._lock = threading.Lock()
        self._scanned_at = -1e9
        self._started, self._changes = time.time_ns(), 0
        self._sections: list[Any] = []
        self._folders: dict[str, Path] = {}
        self._runs: dict[str, Any] = {}
        self._data = b""

    def data(self, version: str) -> bytes | None:
        """The page's data as JSON, or None when `version` is still the newest."""
        with self._lock:
            self._scan()
            return None if version == self._version() else self._data

    def curves(self, index: int, metric: str, groups: Sequence[int]) -> bytes:
        """The curves of one metric in a section. Raises IndexError when there is no such section."""
        from lab.comparison.page.data import curve_data, groups_of

        with self._lock:
            section = self._sections[index]
        runs = sum(len(group.runs) for at, group in enumerate(groups_of(section)) if at in set(groups))
        points = min(1_000, max(30, _CURVE_POINTS // max(1, runs)))
        return json.dumps(curve_data(section, metric, points, set(groups))).encode()

    def layers(self, name: str) -> bytes:
        """The histograms of a run by what the page calls it. Raises KeyError when there is no such run."""
        from lab.comparison.page.data import layer_data

        with self._lock:
            run = self._runs[name]
        return json.dumps(layer_data(run)).encode()

    def folder(self, name: str) -> Path | None:
        """The directory of a run that the page links to."""
        with self._lock:
            return self._folders.get(name)

    def _version(self) -> str:
        return f"{self._started}-{self._changes}"

    def _scan(self) -> None:
        if time.monotonic() - self._scanned_at < _SCAN_SECONDS:
            return
        if self._follower.update() or not self._data:
            self._renew()
        self._scanned_at = time.monotonic()

    def _renew(self) -> None:
        from lab.comparison import summary
        from lab.comparison.across import across
        from lab.comparison.page.data import page_data, run_id

        records = self._follower.records()
        metric = self._options["metric"]
        wanted = [run for run in records if metric is None or metric in run.curves]
        found = summary.sections(wanted, **self._options) if wanted else []
        self._sections = [*found, *across(found)]
        self._changes += 1
        self._runs = {run_id(run): run for run in wanted}
        names = {run_id(run): str(index) for index, run in enumerate(wanted)}
        self._folders = {names[run_id(run)]: run.path for run in wanted if run.path is not None}
        data = page_data(self._sections, self._title, lambda path: f"runs/{names[str(path)]}/")
        data["version"] = self._version()
        data["media"] = {
            run_id(run): {
                "pictures": {
                    name: [[step, _address(names[run_id(run)], run.path, path)] for step, path in items]
                    for name, items in run.media.pictures.items()
                },
                "others": [[path.stem, _address(names[run_id(run)], run.path, path)] for path in run.media.others],
            }
            for run in wanted
            if run.path is not None and (run.media.pictures or run.media.others)
        }
        self._data = json.dumps(data, separators=(",", ":")).encode()


def serve(board: Board, port: int) -> ThreadingHTTPServer:
    """A server of the board on the loopback interface. Raises UserError when the port is taken."""

    class Handler(_Handler):
        shown = board

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError):
        raise UserError(f"--port {port} cannot be used on this machine; choose another, or 0 for any.") from None


class _Handler(BaseHTTPRequestHandler):
    shown: Board
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        if host not in ("127.0.0.1", "localhost"):  # a page elsewhere that renamed itself to reach this machine
            self._answer(403, b"this board answers to 127.0.0.1 only", "text/plain")
            return
        address = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(address.query).items()}
        try:
            if address.path == "/":
                self._page()
            elif address.path == "/data":
                data = self.shown.data(query.get("version", ""))
                self._answer(204 if data is None else 200, data or b"", "application/json")
            elif address.path == "/curves":
                groups = [int(word) for word in query.get("groups", "").split(",") if word]
                curves = self.shown.curves(int(query["section"]), query["metric"], groups)
                self._answer(200, curves, "application/json")
            elif address.path == "/layers":
                self._answer(200, self.shown.layers(query["run"]), "application/json")
            elif address.path.startswith("/runs/"):
                self._file(address.path)
            else:
                self._answer(404, b"there is nothing here", "text/plain")
        except (KeyError, ValueError, IndexError):
            self._answer(404, b"there is nothing here (any more)", "text/plain")
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _page(self) -> None:
        from lab.comparison.page.html import html, plotly_source

        self._answer(200, html("lab board", None, plotly_source()).encode(), "text/html; charset=utf-8")

    def _file(self, address: str) -> None:
        """A file of a run, or the list of a folder in it; nothing outside of run directories."""
        _, _, name, *rest = address.split("/")
        folder = self.shown.folder(name)
        if folder is None:
            raise KeyError(name)
        path = folder.joinpath(*map(unquote, rest)).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise KeyError(address)
        if path.is_dir():
            self._answer(200, _listing(path), "text/html; charset=utf-8")
        elif path.is_file():
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            text = path.suffix in _SHOWN_AS_TEXT
            self._answer(200, path.read_bytes(), "text/plain; charset=utf-8" if text else kind)
        else:
            raise KeyError(address)

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.path.startswith("/runs/"):  # a stranger's page must not act as this one
            self.send_header("Content-Security-Policy", "sandbox")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is the user's."""


def _listing(folder: Path) -> bytes:
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    lines = "".join(f'<li><a href="{quote(name)}">{markup.escape(name)}</a>' for name in ["../", *names])
    return f"<!doctype html><title>{markup.escape(folder.name)}</title><ul>{lines}</ul>".encode()


def _address(name: str, folder: Path, path: Path) -> str:
    return f"runs/{name}/{quote(path.relative_to(folder).as_posix())}"
