"""Serves the report of runs on the loopback address, and keeps it fresh while they train."""

import threading
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from croc_cli.errors import CrocError, UsageError
from croc_cli.place import check_place
from croc_cli.report.page import PAGE_FILE
from croc_cli.report.run_data import FOLDERS
from croc_cli.report.run_page import write_report
from croc_cli.run_dir import RunDir

HOST = "127.0.0.1"
REFRESH_SECONDS = 10
"""Seconds after which a browser loads the page again."""
_REFRESH = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">'


class _Handler(SimpleHTTPRequestHandler):
    """Hands out the report's folder; the page itself with a line that reloads it."""

    def do_GET(self) -> None:
        """Answer one request."""
        if self.path.split("?")[0] not in ("/", f"/{PAGE_FILE}"):
            super().do_GET()
            return
        try:
            text = (Path(self.directory) / PAGE_FILE).read_text(encoding="utf-8")
        except OSError:
            text = "<!doctype html><head></head><p>The first page is being made.</p>"
        content = text.replace("<head>", f"<head>{_REFRESH}", 1).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing of requests."""


class LivePage:
    """The report of runs on the loopback address.

    Args:
        run_dirs: Run folders.
        out: Folder of the page.
        port: To listen on; 0 takes a free one.

    Raises:
        UsageError: A file of the user's lies where the page goes, or the port is taken.
    """

    def __init__(self, run_dirs: Sequence[Path], out: Path, *, port: int = 0) -> None:
        self.run_dirs = run_dirs
        self.out = out
        self._seen: object = None
        check_place(out / PAGE_FILE)  # a user's page is neither replaced nor handed out
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{out} cannot be made: {error.strerror}", hint="name the run by another path") from error
        try:
            self.server = ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(out)))
        except OSError as error:
            raise UsageError(
                f"--port {port}: {error.strerror}", hint="another port, or 0, which takes a free one"
            ) from error
        self._ended = threading.Event()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def follow(self) -> None:
        """Keep the page fresh from now on, in a thread of its own: drawing it takes seconds."""

        def keep_fresh() -> None:
            while not self._ended.is_set():
                self.refresh()
                self._ended.wait(REFRESH_SECONDS)

        threading.Thread(target=keep_fresh, daemon=True).start()

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        return f"http://{HOST}:{self.server.server_address[1]}/"

    def refresh(self) -> bool:
        """Write the page again if a run's files changed, and tell whether it was written."""
        state = self._state()
        if state == self._seen:
            return False
        try:
            write_report(self.run_dirs, out=self.out)
        except CrocError:
            return False  # a run that has written nothing yet
        self._seen = state
        return True

    def close(self) -> None:
        """Stop serving."""
        self._ended.set()
        self.server.shutdown()
        self.server.server_close()

    def _state(self) -> list[tuple[str, int, int]]:
        found = []
        for folder in self.run_dirs:
            for stage in (RunDir(folder).stage(name) for name in FOLDERS):
                for file in (stage.metrics_file, stage.summary_file, stage.results_file):
                    if file.is_file():
                        status = file.stat()
                        found.append((str(file), status.st_size, status.st_mtime_ns))
        return found
