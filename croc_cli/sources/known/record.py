"""What was fetched into a data root: a record for each source, and a lock that lets one fetch work at a time."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from croc_cli.errors import UsageError
from croc_cli.run_dir import read_json, write_json

FOLDER = ".fetch"
"""Below the data root: records, unfinished archives, URL lists at work."""


class FetchRecord:
    """The record of one source.

    Args:
        root: The data root.
        name: The source's.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / FOLDER / f"{name.replace(':', '_')}.json"
        content = read_json(self.path)
        self._content: dict[str, Any] = content if content.get("source") == name else {"source": name}
        self._files: dict[str, dict[str, Any]] = self._content.setdefault("files", {})

    def get(self, key: str) -> Mapping[str, Any]:
        """Return what is known of a file; empty where it was not fetched."""
        return self._files.get(key, {})

    def put(self, key: str, **facts: Any) -> None:
        """Note what is known of a file; it is on disk when this returns."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._files[key] = {**facts, "at": now}
        write_json(self.path, self._content)

    def drop(self, key: str) -> None:
        """Forget a file that is no longer there."""
        if self._files.pop(key, None) is not None:
            write_json(self.path, self._content)


def fetched_files(root: Path, name: str) -> dict[str, Any]:
    """Return what was fetched of a source: by origin, each file's place, size, sha256 and commit, as far as known."""
    files = read_json(root / FOLDER / f"{name.replace(':', '_')}.json").get("files", {})
    return files if isinstance(files, dict) else {}


def fetched_commit(root: Path, name: str) -> str | None:
    """Return the hub commit that a source's files were fetched at, in full; None where there is none, or several."""
    commits = {facts["commit"] for facts in fetched_files(root, name).values() if facts.get("commit")}
    return commits.pop() if len(commits) == 1 else None


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep a second fetch away from a data root as long as this one is at work.

    Raises:
        UsageError: Another one is at work, or the root cannot be written to.
    """
    folder = root / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+")
    except OSError as error:
        raise UsageError(
            f"the data root {root} cannot be written to: {error.strerror or error}", hint="--root names another"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise UsageError(
                f"another croc is fetching into {root} (process {file.read().strip() or 'unknown'})",
                hint="wait for it, or end it; the next call resumes where it stopped",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
