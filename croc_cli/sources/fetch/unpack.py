"""Unpacks zip and tar archives: nothing outside the folder, no links, no devices, bounded, resumable."""

import errno
import fnmatch
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from croc_cli.errors import first_line
from croc_cli.place import is_there, mark_folder, remove_made
from croc_cli.progress import Task
from croc_cli.sources.known.source import Unpack
from croc_cli.sources.read.content import FetchError, check_file
from croc_cli.sources.read.tar_ends import StrictInfo, check_tar_end
from croc_cli.words import counted

_BLOCK = 1 << 20
_UPDATE_EVERY = 200
_DRIVE = re.compile(r"^[A-Za-z]:")
_LEFT_OVER = ("__MACOSX",)
_HEADER_BYTES = 1 << 20
_ZIP_ENCRYPTED = 0x1


class UnpackError(FetchError):
    """An archive that is broken, or that holds what no archive of data should."""


class BrokenArchiveError(UnpackError):
    """An archive that cannot be read to its end."""


@dataclass(frozen=True)
class Unpacked:
    """What came of an archive.

    Args:
        num_files: Files that lie in the folder now because of it.
        num_bytes: Their sizes together.
        num_skipped: Members that were not asked for.
    """

    num_files: int
    num_bytes: int
    num_skipped: int


@dataclass(frozen=True)
class _Member:
    """One file of an archive, before it is written."""

    name: str
    size: int
    raw: Any


def unpack(archive: Path, folder: Path, wanted: Unpack, *, task: Task | None = None) -> Unpacked:
    """Unpack an archive; files that are there with their right size already are not written again.

    Args:
        archive: zip, tar or tar.gz.
        folder: Where to; files grow in a hidden folder of it, so that none is ever half there. Nothing is replaced.
        wanted: Which files, under which names, and how many at most.
        task: Told the files.

    Raises:
        UnpackError: It is broken, incomplete, has too much in it, or a member is a link, a device or leads outside, or
            cannot be written: the disk is full, its name is too long, or another file lies there.
        FetchError: It is a web page or a git-lfs pointer in the place of an archive.
    """
    check_file(archive)
    task = task or Task()
    with _staging(folder) as staging:
        return _unpack(archive, folder, wanted, task, staging)


def _unpack(archive: Path, folder: Path, wanted: Unpack, task: Task, staging: Path) -> Unpacked:
    seen: dict[str, str] = {}
    num_bytes = num_skipped = num_entries = 0
    written: list[Path] = []
    with _open(archive) as (members, read, check_end):
        for member in members:
            num_entries += 1
            if num_entries > 4 * wanted.max_files:
                raise UnpackError(f"{archive.name} has more than {4 * wanted.max_files:,} members")
            target = _target(member.name, wanted, archive)
            if target is None:
                num_skipped += 1
                continue
            if target in seen:
                raise UnpackError(
                    f"{archive.name}: {seen[target]} and {member.name} would both become {target}",
                    hint="leave out `flat`, or name the files with `only`",
                )
            seen[target] = member.name
            num_bytes += member.size
            _check_bounds(archive, wanted, num_files=len(seen), num_bytes=num_bytes)
            if _write(member, folder / target, read, archive, staging):
                written.append(folder / target)
            if len(seen) % _UPDATE_EVERY == 0:
                task.update(len(seen), wanted.num_files)
        try:
            check_end()
        except UnpackError:
            for path in written:
                path.unlink(missing_ok=True)
            raise
    task.update(len(seen), wanted.num_files or len(seen))
    if wanted.num_files is not None and len(seen) != wanted.num_files:
        raise UnpackError(
            f"{archive.name} gave {counted(len(seen), 'file')}, expected {wanted.num_files:,}",
            hint="it changed at its source; set num_files in a catalogue of your own if it is right as it is",
        )
    return Unpacked(len(seen), num_bytes, num_skipped)


def _target(name: str, wanted: Unpack, archive: Path) -> str | None:
    """Return where below the folder a member goes, or None where it is not asked for."""
    path = PurePosixPath(name)
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in path.parts or _DRIVE.match(name):
        raise UnpackError(f"{archive.name}: member {name!r} leads outside its folder; nothing of it is trusted")
    parts = [part for part in path.parts if part != "."]
    if not parts or parts[0] in _LEFT_OVER or parts[-1].startswith("._"):
        return None
    if wanted.only and not any(fnmatch.fnmatchcase(parts[-1].lower(), pattern.lower()) for pattern in wanted.only):
        return None
    for folder in wanted.strip:
        if len(parts) > 1 and parts[0] == folder:
            parts = parts[1:]
    return parts[-1] if wanted.flat else "/".join(parts)


def _check_bounds(archive: Path, wanted: Unpack, *, num_files: int, num_bytes: int) -> None:
    if num_files > wanted.max_files:
        raise UnpackError(f"{archive.name} has more than {wanted.max_files:,} files", hint="raise max_files if it is")
    if num_bytes > wanted.max_bytes:
        raise UnpackError(
            f"{archive.name} unpacks to more than {wanted.max_bytes:,} bytes", hint="raise max_bytes if it is"
        )


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Yield the hidden folder that files grow in; it goes at the end, as one that a killed call left does."""
    staging = folder / ".croc-unpacking"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_made(staging, "unpacking")
        staging.mkdir()
        mark_folder(staging, "unpacking")
    except OSError as error:
        raise UnpackError(f"{folder} cannot be written: {error.strerror or error}") from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write(member: _Member, target: Path, read: Any, archive: Path, staging: Path) -> bool:
    """Write one member, unless it is there, and tell whether it was written.

    Raises:
        UnpackError: It is broken or cannot be written; or another file lies there, which is left as it is.
    """
    try:
        if is_there(target):
            if target.is_file() and not target.is_symlink() and target.stat().st_size == member.size:
                return False
            raise UnpackError(
                f"{archive.name}: {target} already exists, and is not {member.name} of {member.size:,} bytes",
                hint="move it away, then fetch again",
            )
        grown = staging / "member"
        _copy(member, grown, read, archive)
        target.parent.mkdir(parents=True, exist_ok=True)
        grown.rename(target)
        return True
    except OSError as error:
        for made in target.parents:  # folders that were made for it alone
            if made == staging.parent:
                break
            with suppress(OSError):
                made.rmdir()
        reason = "no space is left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise UnpackError(
            f"{archive.name}: {_shown(member.name)} cannot be written: {reason}",
            hint="what is unpacked is kept; fix it, and the same command resumes",
        ) from error


def _copy(member: _Member, grown: Path, read: Any, archive: Path) -> None:
    """Copy a member into a file; no more bytes than it said it has."""
    written = 0
    with _read_errors(archive, member.name):
        source = read(member)
    with closing(source), grown.open("wb") as file:
        while True:
            with _read_errors(archive, member.name):
                block = source.read(_BLOCK)
            if not block:
                break
            written += len(block)
            if written > member.size:
                raise UnpackError(f"{archive.name}: {member.name} holds more than the {member.size:,} bytes it says")
            file.write(block)
    if written != member.size:
        raise UnpackError(f"{archive.name}: {member.name} ends after {written:,} of {member.size:,} bytes")


@contextmanager
def _read_errors(archive: Path, part: str = "") -> Iterator[None]:
    """Turn whatever reading a damaged archive raises into an `UnpackError`.

    zipfile, tarfile and what is below them raise a dozen kinds of errors on damaged bytes: of zlib and lzma, of struct,
    ValueError, RuntimeError where a password is needed, NotImplementedError for a compression that they do not know.
    """
    try:
        yield
    except UnpackError:
        raise
    except Exception as error:
        raise _broken(archive, f"{_shown(part)}: {first_line(error)}" if part else first_line(error)) from error


class _BoundedInfo(StrictInfo):
    """A tar member whose extended header is of a size that headers have: tarfile reads them into memory whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_BoundedInfo":
        """Read a header block."""
        info = super().frombuf(buf, encoding, errors)
        if not (info.isreg() or info.isdir() or info.issym() or info.islnk()) and info.size > _HEADER_BYTES:
            raise UnpackError(f"a tar header of {info.size:,} bytes is none that an archive of data has")
        return info


@contextmanager
def _open(archive: Path) -> Iterator[tuple[Iterator[_Member], Any, Callable[[], None]]]:
    """Open an archive; give its files, links and devices refused, and how to read one and to check its end."""
    if archive.name.lower().endswith(".zip"):
        with _read_errors(archive):
            packed = zipfile.ZipFile(archive)
            _check_zip_start(packed, archive)
        with packed:
            yield _zip_members(packed, archive), lambda member: packed.open(member.raw), lambda: None
        return
    with _read_errors(archive):
        tar = tarfile.open(archive, "r:*", tarinfo=_BoundedInfo)  # noqa: SIM115  (closed below; errors are told apart)
    with tar:
        yield _tar_members(tar, archive), lambda member: _tar_file(tar, member), lambda: _check_tar_end(tar, archive)


def _check_tar_end(tar: tarfile.TarFile, archive: Path) -> None:
    with _read_errors(archive):
        check_tar_end(tar)


def _check_zip_start(packed: zipfile.ZipFile, archive: Path) -> None:
    """Raise UnpackError where another zip stands in front: zipfile reads the last one alone."""
    with archive.open("rb") as file:
        begins_with_member = file.read(4) == b"PK\x03\x04"
    if begins_with_member and min((info.header_offset for info in packed.infolist()), default=1) > 0:
        raise UnpackError(f"{archive.name}: several zip files, one after the other", hint="unpack and pack them again")


def _zip_members(packed: zipfile.ZipFile, archive: Path) -> Iterator[_Member]:
    for info in packed.infolist():
        kind = (info.external_attr >> 16) & 0o170000
        if kind not in (0, 0o100000, 0o040000):
            raise _not_a_file(archive, info.filename)
        if info.flag_bits & _ZIP_ENCRYPTED:
            raise UnpackError(f"{archive.name}: {info.filename} is encrypted")
        if not info.is_dir():
            yield _Member(info.orig_filename, info.file_size, info)


def _tar_members(tar: tarfile.TarFile, archive: Path) -> Iterator[_Member]:
    while True:
        with _read_errors(archive):
            info = tar.next()
        if info is None:
            return
        tar.members = []  # type: ignore[attr-defined]  # a tar of half a million files need not be remembered
        if info.isdir():
            continue
        if not info.isreg():
            raise _not_a_file(archive, info.name)
        yield _Member(info.name, info.size, info)


def _tar_file(tar: tarfile.TarFile, member: _Member) -> IO[bytes]:
    file = tar.extractfile(member.raw)
    assert file is not None  # only regular files become members
    return file


def _not_a_file(archive: Path, name: str) -> UnpackError:
    return UnpackError(f"{archive.name}: member {name!r} is a link or a device; nothing of it is trusted")


def _shown(name: str) -> str:
    """Return a member's name for a message: no control characters, and not pages of it."""
    return repr(name if len(name) <= 100 else f"{name[:100]}…")


def _broken(archive: Path, reason: str) -> BrokenArchiveError:
    return BrokenArchiveError(f"{archive.name} is broken: {reason}", hint="it is fetched again by the next call")
