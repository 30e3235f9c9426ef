"""The process that runs the real img2dataset: `python -m croc_cli.sources.fetch.img2dataset_child SETTINGS.json`.

img2dataset fetches with urllib, so an opener for its processes fixes what it lacks: a bound on a URL's whole time (its
own timeout covers each silence only, and a server that trickles holds a thread for ever) and on its bytes, and no file://
or ftp://. The processes that it spawns import this module as their main module, and so have the opener as well.
"""

import http.client
import json
import os
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from croc_cli.addresses import check_public

URL_SECONDS = "CROC_IMG2DATASET_URL_SECONDS"
ALLOW_PRIVATE = "CROC_IMG2DATASET_ALLOW_PRIVATE"
MAX_BYTES = 64 * 2**20
"""Most bytes of a picture."""


class _BoundedResponse(http.client.HTTPResponse):
    """Gives up on a body that takes too long or is too large."""

    def read(self, amt: int | None = None) -> bytes:
        """Read as the base class does, with an eye on clock and size where all is asked for."""
        if amt is not None:
            return super().read(amt)
        seconds = float(os.environ.get(URL_SECONDS, "60"))
        deadline = time.monotonic() + seconds
        body = bytearray()
        while block := self.read1(1 << 16):
            body += block
            if time.monotonic() > deadline:
                raise TimeoutError(f"incomplete after {seconds:g} seconds")
            if len(body) > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES // 2**20} MiB")
        if self.length:  # what the header announced and did not come
            raise http.client.IncompleteRead(bytes(body), self.length)
        return bytes(body)


class _HTTPConnection(http.client.HTTPConnection):
    response_class = _BoundedResponse


class _HTTPSConnection(http.client.HTTPSConnection):
    response_class = _BoundedResponse


def _check(req: urllib.request.Request) -> None:
    """Refuse an address that is not public: who wrote a list of URLs is not who fetches it. Redirects come here too."""
    if not os.environ.get(ALLOW_PRIVATE):
        check_public(req.full_url)


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        _check(req)
        return self.do_open(_HTTPConnection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        _check(req)
        return self.do_open(_HTTPSConnection, req)


def install_opener() -> None:
    """Make urllib's urlopen bounded in this process, and http and https all that it opens."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _HTTPHandler(),
        _HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    urllib.request.install_opener(opener)


def end_with_parent() -> None:
    """End this process group once the parent is gone: it holds the other end of stdin as long as it lives."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def run(settings_file: Path) -> None:
    """Run img2dataset with the settings of a JSON file."""
    from img2dataset import download  # type: ignore[import-not-found, import-untyped, unused-ignore]  # untyped

    download(**json.loads(settings_file.read_text(encoding="utf-8")))


if __name__ in ("__main__", "__mp_main__"):
    install_opener()
    # webdataset, which img2dataset imports, takes torch where it is there, and needs it for nothing here: two seconds
    # and 200 MB for each process.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # None makes the import fail (Python: import system)
if __name__ == "__main__":
    end_with_parent()
    run(Path(sys.argv[1]))
