"""Fetches a picture by http(s): bounded in size and time, and from no link-local address unless that is allowed."""

import http.client
import ipaddress
import socket
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlsplit

from croc_cli import __version__

MAX_BYTES = 64 * 2**20
"""Most bytes of a picture; the largest JPEG that PIL's pixel limit lets through is about this size."""

SOCKET_SECONDS = 15.0
"""Longest silence of a server."""

TOTAL_SECONDS = 60.0
"""Longest time for the whole picture."""

_SCHEMES = ("http", "https")
_NO_PICTURE = ("text/", "application/json", "application/xhtml")


class FetchError(ValueError):
    """A picture that could not be fetched; says why in one line, without the URL."""


def is_url(reference: str) -> bool:
    """Tell whether a reference is a URL of any scheme, and not a path."""
    return "://" in reference


def fetch(
    url: str, *, max_bytes: int = MAX_BYTES, total_seconds: float = TOTAL_SECONDS, allow_link_local: bool = False
) -> bytes:
    """Return what an http(s) URL gives.

    Args:
        url: Where it is.
        max_bytes: Most bytes that are read.
        total_seconds: Longest time for the whole.
        allow_link_local: Fetch from link-local addresses, too.

    Raises:
        FetchError: Another scheme, a server that is not reached or says no, a link-local address, a web page instead
            of a picture, too many bytes, or too slow.
    """
    check_scheme(url)
    if not allow_link_local:
        _check_host(url)
    opener = urllib.request.OpenerDirector()  # not build_opener: that one also opens file:// and ftp://
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler() if allow_link_local else _HTTPHandler(),
        urllib.request.HTTPSHandler() if allow_link_local else _HTTPSHandler(),
        _RedirectHandler(allow_link_local=allow_link_local),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    try:
        ascii_url = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
        request = urllib.request.Request(ascii_url, headers={"User-Agent": f"croc/{__version__}", "Accept": "image/*"})
        with opener.open(request, timeout=min(SOCKET_SECONDS, total_seconds)) as response:
            return _read(response, max_bytes=max_bytes, total_seconds=total_seconds)
    except urllib.error.HTTPError as error:
        raise FetchError(f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise FetchError(f"cannot be fetched: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"cannot be fetched: {error or type(error).__name__}") from error
    except FetchError:
        raise
    except ValueError as error:  # urllib's word for a URL that is none, such as a port that is no number
        raise FetchError(f"is no URL: {error}") from error


def check_scheme(url: str) -> None:
    """Raise FetchError unless the URL begins with http:// or https:// and names a host."""
    parts = urlsplit(url)
    if parts.scheme.lower() not in _SCHEMES:
        raise FetchError(f"{parts.scheme}:// is not fetched, expected http:// or https://, or a path")
    if not parts.hostname:
        raise FetchError("the URL names no host")


def _check_host(url: str) -> None:
    """Raise FetchError for a URL that names a link-local address itself: behind a proxy we would not connect to it."""
    host = urlsplit(url).hostname or ""
    try:
        ipaddress.ip_address(host.split("%")[0])
    except ValueError:  # a name, which is looked at once it is resolved
        return
    check_address(host)


def check_address(address: str) -> None:
    """Raise FetchError for a link-local address: on cloud machines, credentials are served there."""
    ip = ipaddress.ip_address(address.split("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_link_local or ip.is_multicast:
        raise FetchError(f"{address} is a link-local address, from which nothing is fetched")


def _read(response: http.client.HTTPResponse, *, max_bytes: int, total_seconds: float) -> bytes:
    """Return the body, unless it is no picture, too large or too slow."""
    deadline = time.monotonic() + total_seconds
    kind = response.headers.get_content_type()
    if response.headers.get("Content-Type") and kind.startswith(_NO_PICTURE):
        raise FetchError(f"the server gave {kind}, not a picture")
    announced = response.headers.get("Content-Length", "")
    too_large = f"larger than {max_bytes // 2**20} MiB"
    if announced.isdigit() and int(announced) > max_bytes:
        raise FetchError(too_large)
    body = bytearray()
    while block := response.read1(1 << 16):
        body += block
        if len(body) > max_bytes:
            raise FetchError(too_large)
        if time.monotonic() > deadline:
            raise FetchError(f"not whole after {total_seconds:g} seconds")
    if announced.isdigit() and len(body) < int(announced):
        raise FetchError(f"the connection broke off after {len(body)} of {announced} bytes")
    return bytes(body)


class _CheckedConnection(http.client.HTTPConnection):
    """Connects only where `check_address` lets it, also when a name changes between look-up and connection."""

    def connect(self) -> None:
        for *_, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            check_address(str(address[0]))
        super().connect()
        check_address(str(self.sock.getpeername()[0]))


class _CheckedTLSConnection(http.client.HTTPSConnection, _CheckedConnection):
    """The same under TLS: HTTPSConnection.connect calls _CheckedConnection.connect, then shakes hands."""


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_CheckedConnection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_CheckedTLSConnection, req)


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def __init__(self, *, allow_link_local: bool) -> None:
        self.allow_link_local = allow_link_local

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_scheme(newurl)
        if not self.allow_link_local:
            _check_host(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
