"""A W&B server that takes what a real client uploads, remembers it, and gives it back to a client that reads."""

from __future__ import annotations

import gzip
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

KEY = "a" * 40


@dataclass
class Uploaded:
    """One run on the server."""

    config: dict[str, Any] = field(default_factory=dict)
    group: str | None = None
    name: str | None = None
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    """rows by line number: a line that is sent twice is held once"""
    lines_sent: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class FakeWandb:
    """Serves on loopback until `close`; `runs` holds what arrived."""

    def __init__(self) -> None:
        self.runs: dict[str, Uploaded] = {}
        self.refuse = False
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                status, answer = (401, {}) if fake.refuse else (200, fake.answer(self.path, body))
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = take

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path.endswith("/graphql"):
            request = json.loads(body)
            return {"data": self._graphql(request["query"], request.get("variables") or {})}
        if path.endswith("/file_stream"):
            self._stream(self.runs[path.split("/")[-2]], json.loads(body).get("files") or {})
        elif path.startswith("/upload/"):
            _, _, name, file = path.split("/", 3)
            self.runs[name].files[unquote(file)] = body
        return {}

    def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            return {"upsertBucket": {"bucket": self._upsert(variables), "inserted": True}}
        if "createRunFiles" in query:
            urls = [
                {"name": name, "uploadUrl": f"{self.url}/upload/{variables['run']}/{name}"}
                for name in variables["files"]
            ]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": urls}}
        if "viewer" in query:
            return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        return {"project": self._project(query, variables)}

    def _project(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """What the public client and its history reader ask of a project and its runs."""
        if "HistoryPage" in query:
            rows = [row for _, row in sorted(self.runs[variables["run"]].history.items())]
            low, high = int(variables["minStep"]), int(variables["maxStep"])
            return {"run": {"history": [json.dumps(row) for row in rows if low <= row["_step"] < high]}}
        if "parquetHistory" in query:
            return {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}
        if "name" in variables:
            return {"internalId": "1", "run": self._node(variables["name"])}
        group = json.loads(variables.get("filters") or "{}").get("group")
        wanted = [name for name, run in self.runs.items() if group in (None, run.group)]
        edges = [{"node": self._node(name), "cursor": name} for name in wanted]
        page = {"endCursor": None, "hasNextPage": False}
        return {
            "internalId": "1",
            "runCount": len(wanted),
            "readOnly": False,
            "runs": {"edges": edges, "pageInfo": page},
        }

    def _node(self, name: str) -> dict[str, Any]:
        run = self.runs[name]
        steps = [row["_step"] for row in run.history.values()]
        keys = {"lastStep": max(steps, default=-1), "keys": {}}
        return {
            "id": name,
            "projectId": "1",
            "name": name,
            "displayName": run.name,
            "state": "finished",
            "config": json.dumps(run.config),
            "summaryMetrics": json.dumps(run.summary),
            "systemMetrics": "{}",
            "historyKeys": keys,
            "historyLineCount": len(run.history),
            "group": run.group,
            "tags": [],
            "sweepName": None,
            "jobType": "train",
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00Z",
            "heartbeatAt": "2026-01-01T00:00:00Z",
            "user": {"name": "me", "username": "me"},
        }

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        run = self.runs.setdefault(name, Uploaded())
        run.config |= json.loads(variables.get("config") or "{}")
        run.group = variables.get("groupName") or run.group
        run.name = variables.get("displayName") or run.name
        owner = {"id": "e", "name": variables.get("entity") or "me"}
        project = {"id": "p", "name": variables.get("project") or "lab", "entity": owner}
        return {
            "id": "x",
            "name": name,
            "displayName": run.name,
            "description": "",
            "config": "{}",
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.history),
        }

    def _stream(self, run: Uploaded, files: dict[str, Any]) -> None:
        chunk = files.get("wandb-history.jsonl")
        if chunk:
            run.lines_sent += len(chunk["content"])
            for line, row in enumerate(chunk["content"], chunk["offset"]):
                run.history[line] = json.loads(row)
        for line in (files.get("wandb-summary.json") or {}).get("content", ()):
            run.summary |= json.loads(line)
