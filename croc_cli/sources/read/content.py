"""Looks at a download's first bytes: is it what its name says, or a web page, or a git-lfs pointer in its place?"""

from pathlib import Path

from croc_cli.errors import RunError

HEAD_BYTES = 1024
"""Enough for every mark that is looked for; a tar's stands at byte 257."""

_PAGE_STARTS = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")
_LFS_START = b"version https://git-lfs"
WEB_PAGE, LFS_POINTER = "a web page", "a git-lfs pointer"
_MARKS: dict[str, tuple[tuple[int, bytes], ...]] = {
    ".zip": ((0, b"PK\x03\x04"), (0, b"PK\x05\x06")),
    ".tar": ((257, b"ustar"),),
    ".gz": ((0, b"\x1f\x8b"),),
    ".tgz": ((0, b"\x1f\x8b"),),
    ".parquet": ((0, b"PAR1"),),
}
_TEXT = (".html", ".htm", ".xml", ".svg")


class FetchError(RunError):
    """Something that could not be fetched, and why; exit code 1."""


class WrongContentError(FetchError):
    """A file that is not what its name says."""


def in_place_of_data(head: bytes) -> str | None:
    """Return what lies in the place of data by its first bytes, a web page or a git-lfs pointer; None for neither."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith(_PAGE_STARTS):
        return WEB_PAGE
    return LFS_POINTER if start.startswith(_LFS_START) else None


def check_head(head: bytes, name: str, *, origin: str) -> None:
    """Look at the first bytes of a download.

    Args:
        head: Up to HEAD_BYTES bytes.
        name: Of the file; its ending says what is expected.
        origin: Where it comes from, for the message.

    Raises:
        WrongContentError: It is a web page, a git-lfs pointer, or not of its name's kind.
    """
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    suffix = Path(name.lower()).suffix
    found = in_place_of_data(head)
    if found == LFS_POINTER:
        raise WrongContentError(
            f"{origin} gave a git-lfs pointer in place of {name}",
            hint="the address shows the repository's text, not its data; a hub address must have /resolve/ in it",
        )
    if suffix not in _TEXT and found == WEB_PAGE:
        raise WrongContentError(
            f"{origin} gave a web page in place of {name}",
            hint="the file has moved, requires a login, or the address is a page about it (/blob/ for /resolve/)",
        )
    marks = _MARKS.get(suffix)
    if marks and not any(head[place : place + len(mark)] == mark for place, mark in marks):
        raise WrongContentError(
            f"{origin} gave something else in place of {name}: it does not begin as a {suffix} file does",
            hint="look at what the address shows in a browser",
        )
    if suffix in (".json", ".jsonl") and start and start[:1] not in (b"{", b"["):
        raise WrongContentError(
            f"{origin} gave something else in place of {name}: it begins with {start[:20].decode(errors='replace')!r}",
            hint="look at what the address shows in a browser",
        )


def check_file(path: Path, *, name: str | None = None) -> None:
    """Look at the first bytes of a file on disk, as `check_head` does.

    Raises:
        WrongContentError: It is empty, or not what its name says.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise WrongContentError(f"{path} is empty", hint="remove it and fetch it again")
    check_head(head, name or path.name, origin=str(path))
