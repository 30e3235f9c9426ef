"""An HTTP server on the loopback address that serves files as a shop would, a hub would, and as broken servers do."""

import hashlib
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Site:
    """What a server serves, and how it misbehaves.

    Attributes:
        files: Bodies by path.
        repos: Of the hub: files by repository, such as {"me/set": {"rows.json": b"…"}}.
        gated: Repositories that want a token.
        answers: By path, what happens in turn before the file is served: a status, or a function of the handler.
        headers: Further headers, by path.
        ranges: Whether ranges are served.
        etags: Whether ETags are sent.
        pause: Seconds before each block, by path.
        asked: How often each path was asked for with GET.
        seen: Headers of every GET.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    answers: dict[str, list["int | Callable[[Handler], None]"]] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    ranges: bool = True
    etags: bool = True
    pause: dict[str, float] = field(default_factory=dict)
    block: int = 1 << 16
    asked: Counter[str] = field(default_factory=Counter)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.site.asked[path] += 1
        self.site.seen.append((path, dict(self.headers)))
        waiting = self.site.answers.get(path)
        if waiting:
            step = waiting.pop(0)
            if isinstance(step, int):
                self.plain(step, b"no")
            else:
                step(self)
            return
        self.answer(body=True)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        sent = self.rfile.read(length).decode()
        match = re.match(r"/api/datasets/([^/]+/[^/]+)/paths-info/", self.path)
        if match is None:
            self.plain(404, b"{}")
            return
        paths = json.loads(sent)["paths"] if sent.startswith("{") else parse_qs(sent)["paths"]
        files = self.site.repos[match[1]]
        self.json([tree_entry(path, files[path]) for path in paths if path in files])

    def answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        hub = re.match(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        api = re.match(r"/api/datasets/([^/]+/[^/]+)(/.*)?$", path)
        if hub:
            self.resolve(hub[1], hub[3], body=body)
        elif api:
            self.api(api[1], api[2] or "")
        elif path in self.site.files:
            self.file(path, self.site.files[path], body=body)
        else:
            self.plain(404, b"not here")

    def resolve(self, repo: str, path: str, *, body: bool) -> None:
        if self.refused(repo):
            return
        content = self.site.repos[repo].get(path)
        if content is None:
            self.plain(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        # Large files lie in a store of its own, at an address that is told by a redirect.
        store = f"/store/{repo}/{path}"
        self.site.files[store] = content
        headers = {
            "Location": f"{self.site.url}{store}?signature=abc",
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(content)),
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
        }
        self.plain(302, b"", headers)

    def api(self, repo: str, rest: str) -> None:
        if self.refused(repo):
            return
        files = self.site.repos[repo]
        if rest.startswith("/commits/"):
            commit = {"id": COMMIT, "title": "t", "message": "m", "date": "2024-01-01T00:00:00.000Z", "authors": []}
            self.json([commit])
        elif rest.startswith("/tree/"):
            folder = rest.split("/", 3)[3] + "/" if rest.count("/") > 2 else ""
            self.json([tree_entry(path, content) for path, content in files.items() if path.startswith(folder)])
        elif rest in ("", "/revision/main"):
            self.json({"id": repo, "sha": COMMIT, "siblings": []})
        else:
            self.plain(404, b"{}", {"X-Error-Code": "RevisionNotFound"})

    def refused(self, repo: str) -> bool:
        if repo not in self.site.repos:
            self.plain(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return True
        if repo in self.site.gated and "Authorization" not in self.headers:
            self.plain(401, b"{}", {"X-Error-Code": "GatedRepo"})
            return True
        return False

    def file(self, path: str, content: bytes, *, body: bool) -> None:
        start = 0
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        match = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match and self.site.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(match[1])
        if start and start >= len(content):
            self.plain(416, b"")
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.site.etags:
            self.send_header("ETag", etag)
        for name, value in self.site.headers.get(path, {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not body:
            return
        try:
            for place in range(start, len(content), self.site.block):
                time.sleep(self.site.pause.get(path, 0.0))
                self.wfile.write(content[place : place + self.site.block])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def plain(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value: object) -> None:
        self.plain(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def tree_entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": "file",
        "oid": hashlib.sha1(content).hexdigest(),
        "size": len(content),
        "path": path,
    }
    entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def cut(after: int) -> Callable[[Handler], None]:
    """Send a file's beginning, then break the connection."""

    def step(handler: Handler) -> None:
        content = handler.site.files[urlsplit(handler.path).path]
        match = re.match(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(match[1]) if match else 0
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start : start + after])
        handler.wfile.flush()
        handler.close_connection = True

    return step


def redirect(to: str) -> Callable[[Handler], None]:
    """Send elsewhere, for ever."""

    def step(handler: Handler) -> None:
        handler.site.answers[urlsplit(handler.path).path].append(step)
        handler.plain(302, b"", {"Location": to})

    return step


def trickle(seconds: float) -> Callable[[Handler], None]:
    """Announce a file and send a byte of it every so many seconds, for ever."""

    def step(handler: Handler) -> None:
        path = urlsplit(handler.path).path
        handler.site.answers[path].append(step)
        content = handler.site.files[path]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        try:
            for place in range(len(content)):
                handler.wfile.write(content[place : place + 1])
                time.sleep(seconds)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True

    return step


class PatientServer(ThreadingHTTPServer):
    """Says nothing of clients that went away, as clients that are killed or that give up do here on purpose."""

    daemon_threads = True
    request_queue_size = 512  # connections that wait while the machine is busy; beyond them, clients are refused

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Web:
    """A running server; a context manager."""

    def __init__(self, site: Site | None = None) -> None:
        self.site = site or Site()
        handler = type("BoundHandler", (Handler,), {"site": self.site})
        self.server = PatientServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.site.url = self.url

    def __enter__(self) -> "Web":
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
