"""Unpacks zip and tar archives: nothing outside the folder, no links, no devices, bounded, resumable."""

import fnmatch
import re
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from croc_cli.sources.known.source import Unpack
from croc_cli.sources.read.content import FetchError, check_file
from croc_cli.sources.read.progress import Task

_BLOCK = 1 << 20
_UPDATE_EVERY = 200
_DRIVE = re.compile(r"^[A-Za-z]:")
_LEFT_OVER = ("__MACOSX",)
_TAR_ERRORS = (tarfile.TarError, EOFError, OSError)
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
        folder: Where to; files get there under a name of their own first, so that none is ever half there.
        wanted: Which files, under which names, and how many at most.
        task: Told the files.

    Raises:
        UnpackError: It is broken, incomplete, has too much in it, or a member is a link, a device or leads outside.
        FetchError: It is a web page or a git-lfs pointer in the place of an archive.
    """
    check_file(archive)
    task = task or Task()
    folder.mkdir(parents=True, exist_ok=True)
    seen: dict[str, str] = {}
    num_bytes = num_skipped = num_entries = 0
    with _open(archive) as (members, read):
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
            _write(member, folder / target, read, archive)
            if len(seen) % _UPDATE_EVERY == 0:
                task.update(len(seen), wanted.num_files)
    task.update(len(seen), wanted.num_files or len(seen))
    if wanted.num_files is not None and len(seen) != wanted.num_files:
        raise UnpackError(
            f"{archive.name} gave {len(seen):,} files, expected {wanted.num_files:,}",
            hint="it was changed where it lies; set num_files in a catalogue of your own if it is right as it is",
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


def _write(member: _Member, target: Path, read: Any, archive: Path) -> None:
    """Write one member, unless it is there; no more bytes than it said it has."""
    if target.is_file() and target.stat().st_size == member.size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unpacking")
    written = 0
    try:
        with closing(read(member)) as source, unfinished.open("wb") as file:
            while block := source.read(_BLOCK):
                written += len(block)
                if written > member.size:
                    raise UnpackError(
                        f"{archive.name}: {member.name} holds more than the {member.size:,} bytes it says"
                    )
                file.write(block)
        if written != member.size:
            raise UnpackError(f"{archive.name}: {member.name} ends after {written:,} of {member.size:,} bytes")
    # zipfile raises RuntimeError where a password is needed, NotImplementedError for a compression it does not know
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, tarfile.TarError) as error:
        unfinished.unlink(missing_ok=True)
        raise _broken(archive, f"{member.name}: {error}") from error
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    unfinished.replace(target)


@contextmanager
def _open(archive: Path) -> Iterator[tuple[Iterator[_Member], Any]]:
    """Open an archive; give its files, links and devices refused, and how to read one."""
    if archive.name.lower().endswith(".zip"):
        try:
            packed = zipfile.ZipFile(archive)
        except (zipfile.BadZipFile, OSError) as error:
            raise _broken(archive, str(error)) from error
        with packed:
            yield _zip_members(packed, archive), lambda member: packed.open(member.raw)
        return
    try:
        tar = tarfile.open(archive, "r:*")  # noqa: SIM115  (closed below; the error is told apart)
    except _TAR_ERRORS as error:
        raise _broken(archive, str(error)) from error
    with tar:
        yield _tar_members(tar, archive), lambda member: _tar_file(tar, member)


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
        try:
            info = tar.next()
        except _TAR_ERRORS as error:
            raise _broken(archive, str(error)) from error
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


def _broken(archive: Path, reason: str) -> BrokenArchiveError:
    return BrokenArchiveError(f"{archive.name} is broken: {reason}", hint="it is fetched again by the next call")
