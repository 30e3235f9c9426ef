"""A mix on disk: rows.jsonl in the order of its sources, and memory-mapped arrays in the order of the mix."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from croc_cli.sources.read.json_rows import DataError, parse_row, unreadable
from croc_cli.sources.read.manifest import Manifest, read_manifest
from croc_cli.sources.read.rows import IMAGE_RANGE as IMAGE_RANGE
from croc_cli.sources.read.rows import ROW_DEFECTS, row_error
from croc_cli.words import counted

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MIX_KIND = "mix"
"""What croc's list in a mix's folder says that it is (`croc_cli.place`)."""
ROWS_NAME = "rows.jsonl"
INDEX_FOLDER = "index"
IMAGES_FOLDER = "images"
LENGTHS_FOLDER = "lengths"
_MAKE_AGAIN = "make the mix again: croc data mix with its recipe and --force"

INDEX_TYPES = {
    "offset": "<u8",
    "length": "<u4",
    "source": "<u2",
    "row": "<u4",
    "images": "<u1",
    "tokens": "<u4",
}
"""Arrays of the index, each in a file of its own, and their types in numpy's writing."""


@dataclass(frozen=True)
class MixIndex:
    """Where each row of a mix is, by its place in the mix; N rows.

    Args:
        offset: [N] uint64, first byte of the row in rows.jsonl.
        length: [N] uint32, its bytes, without the line's end.
        source: [N] uint16, which of the manifest's sources it is from.
        row: [N] uint32, which row of that source it is.
        images: [N] uint8, how many images it shows; 0 = text alone.
        tokens: [N] uint32, its text's length in tokens, estimated from its characters.
    """

    offset: "npt.NDArray[np.uint64]"
    length: "npt.NDArray[np.uint32]"
    source: "npt.NDArray[np.uint16]"
    row: "npt.NDArray[np.uint32]"
    images: "npt.NDArray[np.uint8]"
    tokens: "npt.NDArray[np.uint32]"

    def __len__(self) -> int:
        return len(self.offset)


class MixFolder:
    """An open mix.

    Opening maps a few arrays and reads the manifest; rows are read one at a time, whatever the mix's size.

    Args:
        folder: As `build_mix` made it.

    Raises:
        UsageError: It is not a mix, or its parts do not belong together.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        self.data_root = Path(os.path.normpath(self.folder / self.manifest.data_root))
        self.index = read_index(self.folder)
        self._file = -1
        self._lengths, self._offsets = self.index.length, self.index.offset
        self._check()
        self.image_roots = [self._image_root(number) for number in range(len(self.manifest.sources))]

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]  # a worker process opens the files anew

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)

    def read(self, position: int) -> bytes:
        """Return a row as it stands in rows.jsonl."""
        if self._file < 0:
            self._file = os.open(self.folder / ROWS_NAME, os.O_RDONLY)
        return os.pread(self._file, self._lengths.item(position), self._offsets.item(position))

    def row(self, position: int) -> dict[str, Any]:
        """Return a row.

        Raises:
            DataError: It was changed since the mix was made, and cannot be trained on; says which and why.
        """
        try:
            row: dict[str, Any] = parse_row(self.read(position))
            error = row_error(row)
            reason = None if error is None else f"{ROW_DEFECTS[error[0]].text} ({error[1]})"
        except (ValueError, OSError) as error:
            reason = str(error)
        if reason is not None:
            raise DataError(f"mix {self.folder}, row {self.key(position)}: {reason}", hint=_MAKE_AGAIN)
        return row

    def key(self, position: int) -> str:
        """Return a row's key: its source and its number there."""
        return f"{self.manifest.sources[int(self.index.source[position])].name}#{int(self.index.row[position])}"

    def _image_root(self, number: int) -> Path:
        root = self.manifest.sources[number].image_root
        return self.data_root if root is None else self.data_root / root

    def _check(self) -> None:
        size = (self.folder / ROWS_NAME).stat().st_size if (self.folder / ROWS_NAME).exists() else -1
        expected = self.manifest.rows
        wrong = None
        if size < 0:
            wrong = f"{ROWS_NAME} is missing"
        elif len(self.index) != expected:
            wrong = f"the index has {counted(len(self.index), 'row')}, the manifest {expected:,}"
        elif size != self.manifest.bytes:
            wrong = f"{ROWS_NAME} has {counted(size, 'byte')}, the manifest says {self.manifest.bytes:,}"
        elif expected and int(self.index.source.max()) >= len(self.manifest.sources):
            wrong = "the index names sources that the manifest does not have"
        elif expected and int((self.index.offset + self.index.length).max()) > size:
            wrong = f"the index names rows behind the end of {ROWS_NAME}"
        if wrong is not None:
            raise DataError(f"mix {self.folder}: {wrong}", hint=_MAKE_AGAIN)


def read_index(folder: Path) -> MixIndex:
    """Map the index arrays of a mix's folder.

    Raises:
        DataError: One is missing or damaged.
    """
    import numpy as np

    arrays: dict[str, Any] = {}
    for entry in fields(MixIndex):
        file = folder / INDEX_FOLDER / f"{entry.name}.npy"
        try:
            mapped = np.load(file, mmap_mode="r") if file.stat().st_size > 128 else np.load(file)
            if mapped.dtype != np.dtype(INDEX_TYPES[entry.name]) or mapped.ndim != 1:
                raise ValueError(f"it holds {mapped.dtype} of {mapped.ndim} dimensions")
        except Exception as error:  # numpy raises nearly anything on a damaged header
            raise unreadable(file, error, hint=_MAKE_AGAIN) from error
        # A plain view of the map: np.memmap itself takes many times longer to give one value.
        arrays[entry.name] = mapped.view(np.ndarray)
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise DataError(f"mix {folder}: its index arrays differ in length: {told}", hint=_MAKE_AGAIN)
    return MixIndex(**arrays)


def order_hash(sources: Sequence[str], arrays: Mapping[str, Any]) -> str:
    """Return a hash of (source, row) over a mix's order: two mixes with the same one hold the same rows.

    Args:
        sources: Their names, as the array `source` numbers them.
        arrays: The index arrays by name.
    """
    digest = hashlib.sha256(repr(list(sources)).encode())
    for name in ("source", "row"):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def write_index(folder: Path, arrays: dict[str, Any]) -> None:
    """Write index arrays, each in its type of INDEX_TYPES."""
    import numpy as np

    (folder / INDEX_FOLDER).mkdir(parents=True, exist_ok=True)
    for name, kind in INDEX_TYPES.items():
        np.save(folder / INDEX_FOLDER / f"{name}.npy", np.asarray(arrays[name]).astype(kind, copy=False))
