"""Writes the rows that were drawn to rows.jsonl, and images that lie in the data itself to tars beside it."""

import io
import json
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from croc_cli.files import open_file, read_bytes, tar_of
from croc_cli.reading import is_unicode
from croc_cli.sources.read.index import IMAGES_FOLDER, ROWS_NAME
from croc_cli.sources.read.json_rows import DataError, unreadable
from croc_cli.sources.read.reader import Reader, SourceRow
from croc_cli.sources.read.rows import IMAGE_RANGE
from croc_cli.sources.read.scan import REPORT_EVERY, Progress, Scan
from croc_cli.sources.read.spec import SourceSpec

SHARD_BYTES = 1 << 30
"""Size at which a new tar of images begins."""
_BUFFER_BYTES = 1 << 20
_KINDS = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"RIFF", "webp"), (b"BM", "bmp"))


class RowsWriter:
    """Writes a mix's rows, source by source.

    Args:
        folder: Of the mix.
        total: Rows that will be written, for the progress.
        progress: Told how far it is.
    """

    def __init__(self, folder: Path, *, total: int, progress: Progress | None = None) -> None:
        self.folder = folder
        self.total = total
        self.progress = progress
        self._lengths: list[Any] = []
        self._stored: set[int] = set()
        self._written = 0
        self._file: BinaryIO = (folder / ROWS_NAME).open("wb", buffering=_BUFFER_BYTES)

    def __enter__(self) -> "RowsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, number: int, source: SourceSpec, reader: Reader, scan: Scan, positions: Any) -> None:
        """Write a source's drawn rows.

        Args:
            number: Of the source in the manifest.
            source: What the recipe says of it.
            reader: Reads it again.
            scan: What the first pass found.
            positions: Which of the scan's rows were drawn, ascending.
        """
        import numpy as np

        lengths = np.empty(len(positions), dtype=np.uint32)
        if scan.as_is:
            self._copy(reader, scan, positions, lengths, source.name)
        else:
            self._convert(number, reader, scan, positions, lengths, source.name)
        self._lengths.append(lengths)

    def stored_images(self, number: int) -> bool:
        """Tell whether a source's images were put into tars of the mix."""
        return number in self._stored

    def arrays(self, scans: list[Scan], chosen: list[Any]) -> dict[str, Any]:
        """Return the index arrays in the order of the file."""
        import numpy as np

        length = np.concatenate(self._lengths)
        ends = np.cumsum(length.astype(np.uint64) + np.uint64(1))
        taken = list(zip(scans, chosen, strict=True))
        return {
            "offset": ends - length - np.uint64(1),
            "length": length,
            "source": np.repeat(np.arange(len(chosen), dtype=np.uint16), [len(positions) for positions in chosen]),
            **{
                name: np.concatenate([np.asarray(getattr(scan, field))[positions] for scan, positions in taken])
                for name, field in (("row", "rows"), ("images", "images"), ("tokens", "tokens"))
            },
        }

    def _copy(self, reader: Reader, scan: Scan, positions: Any, lengths: Any, name: str) -> None:
        """Copy rows as they stand in their file; those that span lines are written on one."""
        write, starts, sizes = self._file.write, scan.starts, scan.lengths
        with reader.files[0].open("rb", buffering=_BUFFER_BYTES) as file:
            for done, position in enumerate(positions.tolist()):
                file.seek(starts[position])
                raw = file.read(sizes[position])
                if b"\n" in raw or b"\r" in raw:
                    raw = dump_row(json.loads(raw))
                write(raw)
                write(b"\n")
                lengths[done] = len(raw)
                self._report(name)

    def _convert(self, number: int, reader: Reader, scan: Scan, positions: Any, lengths: Any, name: str) -> None:
        """Convert rows again and write them; where some hold images themselves, all images go into tars."""
        import numpy as np

        wanted = np.asarray(scan.rows)[positions].tolist()
        shards = _Shards(self.folder / IMAGES_FOLDER, name) if scan.embedded else None
        following = 0
        for item in reader.rows():
            if following == len(wanted):
                break
            if item.number != wanted[following]:
                continue
            raw = dump_row(_finished(item, reader, shards))
            self._file.write(raw)
            self._file.write(b"\n")
            lengths[following] = len(raw)
            following += 1
            self._report(name)
        if following < len(wanted):
            raise DataError(f"source {name}: {reader.files[0]} changed while it was read", hint="run it again")
        if shards is not None:
            shards.close()
            self._stored.add(number)

    def _report(self, name: str) -> None:
        if self.progress is not None and self._written % REPORT_EVERY == 0:
            self.progress(f"writing {name}", self._written, self.total)
        self._written += 1


def _finished(item: SourceRow, reader: Reader, shards: "_Shards | None") -> dict[str, Any]:
    """Return a row whose images lie where it says."""
    row: dict[str, Any] = dict(item.row)
    if shards is not None and "image" in row:
        image = row["image"]
        names = image if isinstance(image, list) else [image]
        contents = item.contents or (None,) * len(names)
        stored = [
            shards.add(f"{item.number:09d}" + (f"-{place}" if place else ""), content or _content(item, reader, name))
            for place, (name, content) in enumerate(zip(names, contents, strict=True))
        ]
        row["image"], row[IMAGE_RANGE] = [name for name, _ in stored], [place for _, place in stored]
        if not isinstance(image, list):
            row["image"], row[IMAGE_RANGE] = stored[0]
    elif item.image_range is not None:
        row[IMAGE_RANGE] = list(item.image_range)
    return row


def _content(item: SourceRow, reader: Reader, name: str) -> bytes:
    """Return the bytes of an image that is not in the data, beside others that are."""
    root = reader.image_root or reader.files[0].parent
    try:
        if item.image_range is None:
            return read_bytes(root / name)
        with open_file(tar_of(f"{root}/{name}")) as tar:
            tar.seek(item.image_range[0])
            return tar.read(item.image_range[1])
    except OSError as error:
        raise unreadable(root / name, error, place=f"row {item.number}") from error


def dump_row(row: Any) -> bytes:
    """Return a row as a line of rows.jsonl, without its end."""
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    return (text if is_unicode(text) else json.dumps(row, separators=(",", ":"))).encode()


class _Shards:
    """Tars of images, one after the other."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._number = -1
        self._tar: tarfile.TarFile | None = None

    def add(self, stem: str, content: bytes) -> tuple[str, list[int]]:
        """Add an image and return its name, from the mix's folder, with offset and length in the tar."""
        if self._tar is None or self._tar.offset > SHARD_BYTES:
            self.close()
            self._number += 1
            self.folder.mkdir(parents=True, exist_ok=True)
            self._tar = tarfile.open(  # noqa: SIM115 (closed when it is full)
                self.folder / f"{self.name}-{self._number:05d}.tar", "w", format=tarfile.USTAR_FORMAT
            )
        suffix = next((suffix for magic, suffix in _KINDS if content.startswith(magic)), "img")
        member = tarfile.TarInfo(f"{stem}.{suffix}")
        member.size = len(content)
        offset = self._tar.offset + tarfile.BLOCKSIZE  # one block of header, then the content
        self._tar.addfile(member, io.BytesIO(content))
        self._tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it wrote
        name = f"{IMAGES_FOLDER}/{self.name}-{self._number:05d}.tar/{member.name}"
        return name, [offset, len(content)]

    def close(self) -> None:
        """Finish the current tar."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None
