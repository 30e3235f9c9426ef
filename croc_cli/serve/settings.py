"""What a server is told: where it listens, who may ask, and its limits."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from croc_cli.errors import UsageError
from croc_cli.names import SERVE_KEY_VARIABLE

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """What one request may take, and how many may wait.

    Args:
        body_bytes: Largest request body; a larger one gets status 413.
        pictures: Most pictures in one request; above it 400.
        queue: Most requests that wait for a model; above it 429.
        batch: Most answers that are generated at once.
        tokens: Longest answer in tokens where a request names none.
        seconds: Longest time from request to answer; after it 503.
        body_seconds: Longest time for a request body to arrive; after it 408.
        stall_seconds: Longest time that a client may send half a request or read nothing; then it is cut off.
    """

    body_bytes: int = 32 * MEBIBYTE
    pictures: int = 8
    queue: int = 64
    batch: int = 32
    tokens: int = 512
    seconds: float = 300.0
    body_seconds: float = 30.0
    stall_seconds: float = 60.0


@dataclass(frozen=True)
class ServeSettings:
    """One server.

    Args:
        host: Address or name to listen on.
        port: 0 takes a free one.
        key: What clients send as `Authorization: Bearer KEY`; None asks for none.
        limits: See `Limits`.
        allow_private: Also fetch pictures from private network addresses.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = None
    limits: Limits = Limits()
    allow_private: bool = False


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_key(environ: Mapping[str, str], *, host: str, no_key: bool) -> str | None:
    """Return the key that clients need, or None.

    Args:
        environ: The environment; the key is in CROC_SERVE_API_KEY.
        host: Where the server listens.
        no_key: The user said that no key is wanted.

    Raises:
        UsageError: The host is reached from other machines and there is no key, or the key cannot be sent in a header.
    """
    key = environ.get(SERVE_KEY_VARIABLE, "").strip()
    if no_key:
        return None
    if not key:
        if is_loopback(host):
            return None
        raise UsageError(
            f"--host {host} can be reached from other machines, and there is no key",
            hint=f"set {SERVE_KEY_VARIABLE}, or add --no-key to let everybody in",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            f"{SERVE_KEY_VARIABLE} has characters that a header cannot carry",
            hint="use letters, digits and punctuation of ASCII, without spaces",
        )
    return key
