"""Where croc keeps what it can make again: indices of users' files, results of checks."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder, which need not exist yet: `croc` in XDG_CACHE_HOME, or in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "croc"


def file_key(path: Path, purpose: str) -> str:
    """Return a name for what is made of a file; it changes with the file's place, size and change time."""
    state = path.stat()
    named = (purpose, os.path.abspath(path), state.st_size, state.st_mtime_ns)
    return hashlib.sha256(repr(named).encode()).hexdigest()[:32]


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock that other processes wait for; without one where the disk has no locks or cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
