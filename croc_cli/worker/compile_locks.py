"""Removes the lock that a process leaves when it is killed while it compiles; every later run would wait for it.

PyTorch guards the build of an operator with an empty file, which its owner keeps open and removes at the end
(torch.utils.file_baton, 2.13). A lock that no process has open is nobody's.
"""

import os
from collections.abc import Iterator
from pathlib import Path

LOOKS = 3
"""Times that a lock must be found without owner: its owner closes it a moment before it removes it."""
SHARED_AGE_SECONDS = 900.0
"""Age of a lock on a network file system, where its owner may be on another machine."""
_NETWORK = ("nfs", "lustre", "gpfs", "beegfs", "cifs", "smb", "ceph", "fuse", "9p", "wekafs", "afs")


class CompileLocks:
    """Looks for locks without an owner, a look a second.

    Args:
        root: Folder of the operators' build folders; None for PyTorch's own.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = build_root() if root is None else root
        self._seen: dict[tuple[Path, int], int] = {}

    def look(self) -> list[Path]:
        """Remove what has been without owner for long enough, and return it."""
        removed = []
        found = {}
        for lock in (*self.root.glob("*/lock"), *self.root.glob("*/*/lock")):
            try:
                key = (lock, lock.stat().st_ino)
            except OSError:
                continue
            if is_open_somewhere(lock) or (is_on_network(lock) and age(lock) < SHARED_AGE_SECONDS):
                continue
            found[key] = self._seen.get(key, 0) + 1
            if found[key] >= LOOKS:
                lock.unlink(missing_ok=True)
                removed.append(lock)
        self._seen = found
        return removed


def build_root() -> Path:
    """Return the folder in which PyTorch builds operators, each in a folder of its own, one or two levels down."""
    from torch.utils.cpp_extension import get_default_build_root

    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def is_open_somewhere(file: Path) -> bool:
    """Tell whether a process of this machine that we may look at has a file open."""
    target = str(file.resolve())
    return any(opened == target for opened in _open_files())


def _open_files() -> Iterator[str]:
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            for descriptor in folder.iterdir():
                try:
                    yield os.readlink(descriptor)
                except OSError:
                    continue
        except OSError:
            continue


def is_on_network(file: Path) -> bool:
    """Tell whether a file lies on a file system that other machines may write to."""
    path = str(file.resolve())
    best, kind = "", ""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    for line in mounts:
        _, point, name, *_ = line.split(" ")
        if len(point) > len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best, kind = point, name
    return kind.startswith(_NETWORK)


def age(file: Path) -> float:
    """Return the seconds since a file was made, by the clock of its own file system."""
    now = file.with_name(".croc-now")
    try:
        now.touch()
        return now.stat().st_mtime - file.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        now.unlink(missing_ok=True)
