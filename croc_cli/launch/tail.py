"""Reads what a running stage appends to its files."""

from pathlib import Path
from typing import Any

from croc_cli.run_dir import parse_object


class JsonLinesTail:
    """Yields the objects that are appended to a JSONL file from now on.

    Args:
        file: The file, which need not exist yet. What it holds already is passed over.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._offset = file.stat().st_size if file.exists() else 0
        self._inode = file.stat().st_ino if file.exists() else None
        self._rest = b""

    def read(self) -> list[dict[str, Any]]:
        """Return the objects that were completed since the last call.

        A file that was replaced is read from its start, as a resumed run first takes lines out of it; so the reader of
        metrics must not mind a step that it has seen.
        """
        try:
            status = self.file.stat()
            if status.st_size < self._offset or (self._inode is not None and status.st_ino != self._inode):
                self._offset, self._rest = 0, b""
            self._inode = status.st_ino
            if status.st_size == self._offset:
                return []
            with self.file.open("rb") as stream:
                stream.seek(self._offset)
                block = stream.read()
        except OSError:
            return []
        self._offset += len(block)
        *lines, self._rest = (self._rest + block).split(b"\n")
        found = []
        for line in lines:
            try:
                found.append(parse_object(line))
            except ValueError:
                continue
        return found
