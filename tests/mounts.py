"""File systems of a test's own: small, read-only, gone for a while; skipped where mounting is not allowed."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(*arguments: str) -> None:
    """Mount, or skip the test where this user may not."""
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")


def unmount(folder: Path) -> None:
    """Unmount all that is mounted on a folder, at once even where files of it are open."""
    while is_mounted(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def is_mounted(folder: Path) -> bool:
    """Tell whether something is mounted on a folder; unlike `Path.is_mount`, also what is of the same device."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return any(line.split(" ")[1] == str(folder) for line in lines)


@contextmanager
def small_disk(folder: Path, *, mebibytes: int) -> Iterator[Path]:
    """Make `folder` a file system of its own of a given size."""
    folder.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        unmount(folder)


@contextmanager
def mounted(source: Path, folder: Path, *, read_only: bool = False) -> Iterator[Path]:
    """Show `source` at `folder`, too."""
    folder.mkdir(parents=True, exist_ok=True)
    mount("--bind", str(source), str(folder))
    try:
        if read_only:
            mount("-o", "remount,bind,ro", str(folder))
        yield folder
    finally:
        unmount(folder)
