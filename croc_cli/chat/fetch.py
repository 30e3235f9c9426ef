"""Fetches a picture by http(s): bounded in size and time, and from public addresses alone unless others are allowed."""

import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

from croc_cli import __version__
from croc_cli.addresses import PrivateAddressError, check_address, check_public, literal_address

MAX_BYTES = 64 * 2**20
"""Most bytes of a picture; the largest JPEG that PIL's pixel limit lets through is about this size."""

SOCKET_SECONDS = 15.0
"""Longest silence of a server."""

TOTAL_SECONDS = 60.0
"""Longest time for the whole picture."""

_MAX_DIGITS = 15
_SCHEMES = ("http", "https")
_NO_PICTURE = ("text/", "application/json", "application/xhtml")


class FetchError(ValueError):
    """A picture that could not be fetched; says why in one line, without the URL."""


def is_url(reference: str) -> bool:
    """Tell whether a reference is a URL of any scheme, and not a path."""
    return "://" in reference


def fetch(
    url: str, *, max_bytes: int = MAX_BYTES, total_seconds: float = TOTAL_SECONDS, allow_private: bool = False
) -> bytes:
    """Return what an http(s) URL gives.

    Args:
        url: Where it is.
        max_bytes: Most bytes that are read.
        total_seconds: Longest time for the whole.
        allow_private: Fetch from addresses of one's own network, too.

    Raises:
        FetchError: Another scheme, a server that is not reached or says no, an address that is not public, a web page
            instead of a picture, too many bytes, or too slow.
    """
    ascii_url = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    check_scheme(ascii_url)
    if not allow_private:
        _check_host(ascii_url)
    deadline = _Deadline(total_seconds)
    opener = urllib.request.OpenerDirector()  # not build_opener: that one also opens file:// and ftp://
    for handler in (
        urllib.request.ProxyHandler(),
        _HTTPHandler(deadline, checked=not allow_private),
        _HTTPSHandler(deadline, checked=not allow_private),
        _RedirectHandler(allow_private=allow_private),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    try:
        request = urllib.request.Request(ascii_url, headers={"User-Agent": f"croc/{__version__}", "Accept": "image/*"})
        with deadline, opener.open(request, timeout=min(SOCKET_SECONDS, total_seconds)) as response:
            body = _read(response, max_bytes=max_bytes)
            if deadline.over:
                raise TimeoutError
            return body
    except FetchError as error:
        if deadline.over:
            raise FetchError(f"incomplete after {total_seconds:g} seconds") from error
        raise
    except urllib.error.HTTPError as error:
        raise FetchError(f"the server answered {error.code} {str(error.reason)[:100]}") from error
    except (OSError, http.client.HTTPException) as error:
        if deadline.over:
            raise FetchError(f"incomplete after {total_seconds:g} seconds") from error
        reason = getattr(error, "reason", error) or type(error).__name__
        raise FetchError(f"cannot be fetched: {str(reason)[:200]}") from error
    except ValueError as error:  # urllib's word for a URL that is none, such as a port that is not a number
        raise FetchError(f"is not a URL: {error}") from error


def check_scheme(url: str) -> None:
    """Raise FetchError unless the URL begins with http:// or https:// and names a host."""
    parts = urlsplit(url)
    if parts.scheme.lower() not in _SCHEMES:
        raise FetchError(f"{parts.scheme}:// is not fetched, expected http:// or https://, or a path")
    if not parts.hostname:
        raise FetchError("the URL names no host")


def _check_host(url: str) -> None:
    """Raise FetchError for a host that is not public: behind a proxy we would not connect to it ourselves."""
    try:
        check_public(url)
    except PrivateAddressError as error:
        raise FetchError(str(error)) from error


class _Deadline:
    """Ends every connection of a fetch when its time is over, whatever it waits for: headers, handshake, body."""

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> "_Deadline":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, connected: socket.socket) -> None:
        """Take a connection."""
        self._sockets.append(connected)
        if self.over:
            self._end()

    def _end(self) -> None:
        self.over = True
        for connected in self._sockets:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)


def _read(response: http.client.HTTPResponse, *, max_bytes: int) -> bytes:
    """Return the body, unless it is not a picture, too large or too slow."""
    kind = response.headers.get_content_type()
    if response.headers.get("Content-Type") and kind.startswith(_NO_PICTURE):
        raise FetchError(f"the server gave {kind}, not a picture")
    announced = response.headers.get("Content-Length", "")
    if not announced.isascii() or len(announced) > _MAX_DIGITS:
        announced = ""
    too_large = f"larger than {max_bytes // 2**20} MiB"
    if announced.isdigit() and int(announced) > max_bytes:
        raise FetchError(too_large)
    body = bytearray()
    while block := response.read1(1 << 16):
        body += block
        if len(body) > max_bytes:
            raise FetchError(too_large)
    if announced.isdigit() and len(body) < int(announced):
        raise FetchError(f"the connection broke off after {len(body)} of {announced} bytes")
    return bytes(body)


def _connect(deadline: _Deadline, *, checked: bool) -> Callable[..., socket.socket]:
    """Return what connects to a host: to addresses that were checked themselves, so that no name changes in between."""

    def connect(address: tuple[str, int], timeout: float, source: Any = None) -> socket.socket:
        host, port = address
        if checked:
            host = literal_address(host) or host
        failure: OSError | None = None
        for *_, found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            if deadline.over:
                raise TimeoutError
            if checked:
                try:
                    check_address(str(found[0]))
                except PrivateAddressError as error:
                    raise FetchError(str(error)) from error
            try:
                connected = socket.create_connection((str(found[0]), int(found[1])), timeout, source)
            except OSError as error:
                failure = error
                continue
            deadline.watch(connected)
            return connected
        raise failure or OSError("the host has no address")

    return connect


class _HTTPHandler(urllib.request.HTTPHandler):
    connection: type[http.client.HTTPConnection] = http.client.HTTPConnection

    def __init__(self, deadline: _Deadline, *, checked: bool) -> None:
        super().__init__()
        self._deadline, self._checked = deadline, checked

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._make, req)

    def _make(self, host: str, **settings: Any) -> http.client.HTTPConnection:
        made = self.connection(host, **settings)
        # A proxy of one's own may well be at a private address; what it is asked for was checked.
        checked = self._checked and host not in _proxies()
        made._create_connection = _connect(self._deadline, checked=checked)  # type: ignore[attr-defined]
        return made


class _HTTPSHandler(_HTTPHandler, urllib.request.HTTPSHandler):
    connection = http.client.HTTPSConnection

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._make, req)


def _proxies() -> set[str]:
    """Return host and port of the proxies of the environment."""
    urls = (proxy if "://" in proxy else f"http://{proxy}" for proxy in urllib.request.getproxies().values())
    return {urlsplit(url).netloc.rpartition("@")[2] for url in urls}


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def __init__(self, *, allow_private: bool) -> None:
        self.allow_private = allow_private

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_scheme(newurl)
        if not self.allow_private:
            _check_host(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
