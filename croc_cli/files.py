"""Opens the files that users name: regular files alone, so that a pipe or a device is refused and never waited for."""

import errno
import os
import re
import shutil
import stat
from pathlib import Path
from typing import BinaryIO, Final

_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotAFileError(OSError):
    """A folder, pipe, socket or device where a file belongs; `strerror` says which."""


def open_file(path: Path | str) -> BinaryIO:
    """Open a regular file to read its bytes, without ever waiting for another process.

    Raises:
        NotAFileError: It is a folder, pipe, socket or device.
        OSError: It is missing, or may not be read.
        ValueError: The path holds a null character.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, or a device without a driver
            check_regular(path)
        raise
    try:
        _check_mode(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path | str) -> bytes:
    """Return a regular file's content; raises as `open_file` does."""
    with open_file(path) as file:
        return file.read()


def check_regular(path: Path | str) -> None:
    """Raise where a path is not a regular file, for libraries that open it by name.

    Raises:
        NotAFileError: It is a folder, pipe, socket or device.
        OSError: It is missing.
    """
    _check_mode(os.stat(path).st_mode, path)


def free_disk(folder: Path) -> int:
    """Return the free bytes of the disk that holds a folder, which need not exist yet."""
    return shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.is_dir())).free


def tar_of(name: str) -> str:
    """Return the tar in the name of something that lies in one, `FOLDER/NAME.tar/MEMBER`, its ending in any case.

    A folder or a member may be called `.tar` too: the first that is a file is the tar.

    Raises:
        FileNotFoundError: There is none.
    """
    for found in re.finditer(r"\.tar(?=/)", name, re.IGNORECASE):
        if os.path.isfile(name[: found.end()]):
            return name[: found.end()]
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def _check_mode(mode: int, path: Path | str) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "no regular file")
        raise NotAFileError(errno.EINVAL, f"{kind}, expected a file", str(path))


def own_path(path: Path | str) -> Path:
    """Return a path with `~` replaced by the home folder; as it stands where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
