"""Downloads one file over HTTP: takes up where it stopped, waits and tries again, checks size, content and sha256."""

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from croc_cli import __version__
from croc_cli.addresses import PrivateAddressError
from croc_cli.errors import UsageError
from croc_cli.files import free_disk
from croc_cli.place import check_place, is_there
from croc_cli.progress import Task
from croc_cli.sources.fetch.feed import Feed, TooSlowError
from croc_cli.sources.read.content import HEAD_BYTES, FetchError, WrongContentError, check_head
from croc_cli.words import counted

if TYPE_CHECKING:
    import httpx

_BLOCK = 1 << 20
_MAX_DIGITS = 15
_CHECK_EVERY = 64 << 20
_RESERVE = 10**9
"""Bytes after which the disk is looked at while an answer of unknown length comes in, and bytes that are left alone."""
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class Remote:
    """Where a file's bytes are to be had now.

    Args:
        url: http or https.
        size: Bytes, where they are known beforehand.
        sha256: Of the whole file, where it is known beforehand.
        headers: To be sent with the request.
        origin: What messages call it; default: the URL without its query, which may hold a signature.
    """

    url: str
    size: int | None = None
    sha256: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    origin: str | None = None

    @property
    def shown(self) -> str:
        """What messages call it."""
        return self.origin or self.url.split("?", 1)[0]


@dataclass(frozen=True)
class Limits:
    """When to give up, in seconds and tries.

    Args:
        tries: In a row that bring less than `window_bytes`.
        wait: Before the second try; doubled with each further one, to at most a minute.
        silence: A server may be silent so long.
        window: A server that sends less than `window_bytes` in so long is left, and asked again.
        window_bytes: See above.
    """

    tries: int = 6
    wait: float = 1.0
    silence: float = 60.0
    window: float = 60.0
    window_bytes: int = 64 * 1024


@dataclass(frozen=True)
class Downloaded:
    """A file that is whole.

    Args:
        size: In bytes.
        sha256: Of what lies on disk.
    """

    size: int
    sha256: str


class _Again(Exception):
    """A try that failed and may be repeated.

    Args:
        reason: Why.
        wait: Seconds that the server asked for.
        afresh: Whether what was fetched so far must go.
    """

    def __init__(self, reason: str, *, wait: float | None = None, afresh: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.afresh = afresh


class _Part:
    """The unfinished file beside its target, with its digest so far and what is known of its origin."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f".{target.name}.part")
        self.note = target.with_name(f".{target.name}.part.json")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for there in (self.path, self.note):  # the note is written first, so a part without one is not croc's
            if there.is_symlink() or (is_there(there) and not self.known()):
                raise UsageError(f"{there} exists, and croc did not create it", hint="move it away, then fetch again")
        self.size = 0
        self.digest = hashlib.sha256()
        if self.path.exists():
            with self.path.open("rb") as file:
                while block := file.read(_BLOCK):
                    self.digest.update(block)
                    self.size += len(block)

    def known(self) -> dict[str, Any]:
        """Return what was noted of the origin: validator and total size."""
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def clear(self) -> None:
        """Forget everything that was fetched."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.size = 0
        self.digest = hashlib.sha256()


def download(
    locate: Callable[[], Remote], to: Path, *, task: Task | None = None, limits: Limits | None = None
) -> Downloaded:
    """Download a file; what a call before this one fetched of it is kept and gone on from.

    Args:
        locate: Says where the bytes are; asked before every try, as signed addresses expire.
        to: Where the file lands; it appears there whole and checked, or not at all.
        task: Told the bytes.
        limits: When to give up.

    Raises:
        UsageError: Something that croc did not make lies where the file goes.
        FetchError: The server refuses, gives something else, or too many tries brought nothing.
    """
    task, limits = task or Task(), limits or Limits()
    check_place(to)
    part = _Part(to)
    fruitless = 0
    restarted = False
    while True:
        before = part.size
        try:
            remote = locate()
            _one_try(remote, part, to.name, task, limits)
            sha256 = part.digest.hexdigest()
            if remote.sha256 is not None and sha256 != remote.sha256:
                wrong = f"{remote.shown} has sha256 {sha256[:12]}…, expected {remote.sha256[:12]}…"
                part.clear()
                if restarted or before == 0:
                    raise WrongContentError(wrong, hint="the file changed at its source, or on the way")
                restarted = True
                raise _Again(f"{wrong}; once more from the start")
            break
        except _Again as reason:
            if reason.afresh:
                part.clear()
            fruitless = 0 if part.size - before >= limits.window_bytes else fruitless + 1
            if fruitless >= limits.tries:
                raise FetchError(
                    f"{to.name} cannot be fetched: {reason} ({limits.tries} tries)",
                    hint=f"kept so far: {counted(part.size, 'byte')}; the same command resumes from there",
                ) from reason
            pause = reason.wait if reason.wait is not None else limits.wait * 2 ** max(0, fruitless - 1)
            task.note(f"{reason}; again in {min(60.0, pause):.0f} s")
            time.sleep(min(60.0, pause))
    size = part.size
    part.path.replace(to)
    part.note.unlink(missing_ok=True)
    return Downloaded(size, sha256)


def _one_try(remote: Remote, part: _Part, name: str, task: Task, limits: Limits) -> None:
    """Fetch what is missing of a file.

    Raises:
        _Again: It stopped, and may be tried again.
        FetchError: It is of no use to try again.
    """
    import httpx

    if remote.size is not None and part.size > remote.size:
        part.clear()
    if remote.size is not None and part.size == remote.size and part.path.exists():
        return
    headers = {"User-Agent": f"croc/{__version__}", "Accept-Encoding": "identity", **remote.headers}
    known = part.known()
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if known.get("validator"):
            headers["If-Range"] = known["validator"]
    wait = max(limits.silence, limits.window)
    try:
        with Feed(remote.url, headers, silence=limits.silence, wait=wait) as feed:
            response = feed.response()
            total = _check_answer(response, remote, part, known)
            _read(feed, response, remote, part, name, total, task, limits)
    except TooSlowError as error:
        raise _Again(f"{remote.shown} sent neither its headers nor a block in {wait:g} s") from error
    except PrivateAddressError as error:
        raise FetchError(f"{remote.shown} leads to another address: {error}") from error
    except httpx.TooManyRedirects as error:
        raise FetchError(
            f"{remote.shown} leads from address to address without end", hint="look at it in a browser"
        ) from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise UsageError(f"{remote.shown} is not an address that can be fetched: {error}") from error
    except httpx.TransportError as error:
        raise _Again(f"{remote.shown}: {_reason(error, limits)}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchError(
                f"no space is left for {name}", hint=f"{part.size:,} bytes are kept; make room and start again"
            ) from error
        raise FetchError(f"{name} cannot be written: {error.strerror or error}") from error


def _check_answer(response: "httpx.Response", remote: Remote, part: _Part, known: Mapping[str, Any]) -> int | None:
    """Make sense of status and headers; return the file's whole size where it is told."""
    status = response.status_code
    if status == 416:
        raise _Again(f"{remote.shown}: the part on disk does not fit the file there", afresh=True, wait=0)
    if status in (408, 425, 429) or status >= 500:
        after = response.headers.get("Retry-After", "")
        raise _Again(f"{remote.shown} answered {status}", wait=_number(after))
    if status not in (200, 206):
        raise refusal(remote.shown, status, response.reason_phrase)
    total = _number(response.headers.get("Content-Length", ""))
    if status == 206:
        match = _RANGE.match(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != part.size:
            raise _Again(f"{remote.shown} sent another part than was asked for", afresh=True, wait=0)
        total = int(match[3]) if match[3] != "*" else None
        if known.get("total") not in (None, total):
            raise _Again(f"{remote.shown} has changed since it was begun", afresh=True, wait=0)
    elif part.size:
        part.clear()  # the server knows no ranges, or the file is another one now
    if remote.size is not None and total is not None and total != remote.size:
        raise WrongContentError(
            f"{remote.shown} has {counted(total, 'byte')}, expected {remote.size:,}",
            hint="the file changed at its source; give the source's new size in a catalogue of your own",
        )
    etag = response.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    part.note.write_text(json.dumps({"validator": validator, "total": total}), encoding="utf-8")
    return total if total is not None else remote.size


def _number(text: str) -> int | None:
    """Return the whole number in a header; None where it holds none."""
    return int(text) if len(text) <= _MAX_DIGITS and text.isascii() and text.isdigit() else None


def _read(
    feed: Feed,
    response: "httpx.Response",
    remote: Remote,
    part: _Part,
    name: str,
    total: int | None,
    task: Task,
    limits: Limits,
) -> None:
    """Append the body to the part, with an eye on its beginning and its pace."""
    window_start, received = time.monotonic(), 0
    is_encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    total = remote.size if is_encoded else total  # the length told is that of the packed bytes
    task.update(part.size, total)
    with part.path.open("ab") as file:
        held: bytes | None = b"" if part.size == 0 else None  # the beginning is looked at before any of it is written
        for block in feed.blocks():
            received += len(block)
            _check_end(part, block, remote, total)
            now = time.monotonic()
            if now - window_start >= limits.window:
                if received < limits.window_bytes:
                    raise _Again(f"{remote.shown} sent only {counted(received, 'byte')} in {limits.window:g} s")
                window_start, received = now, 0
            if held is not None:
                held += block
                if len(held) < HEAD_BYTES:
                    continue
                block, held = held, None
                check_head(block[:HEAD_BYTES], name, origin=remote.shown)
            _append(file, block, part)
            task.update(part.size, total)
        if held is not None:
            check_head(held, name, origin=remote.shown)
            _append(file, held, part)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and part.size < total:
        raise _Again(f"{remote.shown} broke off after {part.size:,} of {total:,} bytes")
    if total is not None and part.size > total:
        raise _Again(f"{remote.shown} sent more than the {counted(total, 'byte')} it announced", afresh=True)
    task.update(part.size, total)


def _check_end(part: _Part, block: bytes, remote: Remote, total: int | None) -> None:
    """Stop an answer that goes on beyond its length, or one without a length that fills the disk."""
    size = part.size + len(block)
    if total is not None and size > total:
        raise _Again(f"{remote.shown} sent more than the {counted(total, 'byte')} it announced", afresh=True)
    if total is None and size // _CHECK_EVERY > part.size // _CHECK_EVERY:
        free = free_disk(part.path.parent)
        if free < _RESERVE:
            raise FetchError(
                f"{remote.shown} does not say how long it is, and after {size:,} bytes the disk is nearly full",
                hint="look at it in a browser; some servers send without end",
            )


def _append(file: Any, block: bytes, part: _Part) -> None:
    file.write(block)
    part.digest.update(block)
    part.size += len(block)


def refusal(shown: str, status: int, phrase: str = "") -> FetchError:
    """Return the error of an answer that no further try will change."""
    hints = {
        401: "it requires a login: consent on its page, then set HF_TOKEN",
        403: "it is forbidden to you: consent on its page, or a link that has expired",
        404: "it is no longer there; look at the source's page, or name a mirror in a catalogue of your own",
        410: "it was taken down; look at the source's page, or name a mirror in a catalogue of your own",
    }
    return FetchError(f"{shown} answered {status} {phrase}".rstrip(), hint=hints.get(status, "look at it in a browser"))


def _reason(error: Exception, limits: Limits) -> str:
    kind = type(error).__name__
    if kind in ("ReadTimeout", "WriteTimeout", "PoolTimeout"):
        return f"silent for {limits.silence:g} s"
    if kind == "ConnectTimeout":
        return "cannot be reached (no answer)"
    if kind == "ConnectError":
        return f"cannot be reached ({error})"
    return f"the connection broke ({error or kind})"
