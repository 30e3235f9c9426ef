"""Finds training images that are test images: by COCO's image numbers, and by content where that is known.

Evaluation images lie in folders, in parquet files of the hub, and in MMBench's tables, as base64.
"""

import base64
import binascii
import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from croc_cli.errors import first_line
from croc_cli.sources.read.scan import Progress
from croc_cli.sources.verify.image_cache import ImageCache
from croc_cli.sources.verify.image_check import ImagePlace, check_image

if TYPE_CHECKING:
    import pyarrow as pa

EVAL_FOLDER = "eval"
"""Below the data root, as LLaVA's evaluation guide lays benchmarks out."""
_COCO_NUMBER = re.compile(r"(?:^|_)(\d{12})\.jpg$")
_COCO_STEM = re.compile(r"COCO_(?:train|val|test)\d{4}_\d{12}")
"""A COCO image as POPE's table names it."""
_NAMING_COLUMNS = frozenset(("image_source", "image_path", "image_file", "file_name", "image_name"))
_TABLE_ROWS = 64
_LARGEST_CELL = 2**31 - 1
_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"))


@dataclass
class EvalImages:
    """The images of the evaluation sets.

    Args:
        coco: COCO image number → sets that have it.
        sha256: Hash of the content → sets that have it; empty where contents were not read.
        num_images: Of all sets.
        unreadable: Files that could not be read, each with the reason.
    """

    coco: dict[int, set[str]] = field(default_factory=dict)
    sha256: dict[str, set[str]] = field(default_factory=dict)
    num_images: int = 0
    unreadable: list[str] = field(default_factory=list)

    def add(self, name: str, *, file_name: str = "", sha256: str = "") -> None:
        """Take in an image of the evaluation set `name`."""
        self.num_images += 1
        if (number := coco_number(file_name)) is not None:
            self.coco.setdefault(number, set()).add(name)
        if sha256:
            self.sha256.setdefault(sha256, set()).add(name)

    def sets_of(self, name: str, sha256: str = "") -> set[str]:
        """Return the evaluation sets that have an image, by its name and its content."""
        found = set(self.sha256.get(sha256, ())) if sha256 else set()
        number = coco_number(name)
        return found | self.coco.get(number, set()) if number is not None else found


def coco_number(name: str) -> int | None:
    """Return the number that COCO's file names end in, the same in its 2014 and 2017 editions; None for others."""
    match = _COCO_NUMBER.search(name.rpartition("/")[2])
    return int(match[1]) if match else None


def eval_images(
    folder: Path, *, contents: bool, cache: ImageCache | None = None, progress: Progress | None = None
) -> EvalImages:
    """List the images below the evaluation folder, in files and in tables; the set is the first folder in the path.

    Args:
        folder: Such as data/eval; may be missing.
        contents: Read every image for its hash.
        cache: Remembers hashes.
        progress: Told how far it is.
    """
    found = EvalImages()
    if not folder.is_dir():
        return found
    for path in folder.rglob("*"):
        name = path.relative_to(folder).parts[0]
        try:
            for file_name, sha256 in _images_in(path, contents=contents, cache=cache):
                found.add(name, file_name=file_name, sha256=sha256)
                if progress is not None and found.num_images % 200 == 0:
                    progress("reading evaluation images", found.num_images, None)
        except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are of these two kinds
            found.unreadable.append(f"{path}: {first_line(error)}")
    return found


def _images_in(path: Path, *, contents: bool, cache: ImageCache | None) -> Iterator[tuple[str, str]]:
    """Yield (file name, sha256) of each image in a file; the hash is empty where contents are not read."""
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES:
        yield path.name, _hash_of(path, cache) if contents else ""
    elif suffix == ".parquet":
        yield from _parquet_images(path, contents=contents)
    elif suffix == ".tsv" and contents:
        yield from _tsv_images(path)


def _hash_of(path: Path, cache: ImageCache | None) -> str:
    place = ImagePlace(str(path))
    facts = cache.find(place, perceptual=False) if cache is not None else None
    if facts is None:
        facts = check_image(place)
        if cache is not None:
            cache.store([(place, facts)])
    return facts.sha256


def _parquet_images(path: Path, *, contents: bool) -> Iterator[tuple[str, str]]:
    """Read the image columns, bytes or structs of bytes and path, and columns that name images; a few rows at a time.

    What a hub set encoded anew has other bytes than the file it was made from, and only its name tells.
    """
    from pyarrow import parquet

    with parquet.ParquetFile(path) as table:
        if contents:
            names = [field.name for field in table.schema_arrow if _holds_images(field.type)]
        else:
            names = [f"{field.name}.path" for field in table.schema_arrow if _names_images(field.type)]
        names += [name for name in table.schema_arrow.names if name in _NAMING_COLUMNS]
        if not names:
            return
        for batch in table.iter_batches(batch_size=_TABLE_ROWS, columns=names):
            for row in batch.to_pylist():
                for cell in row.values():
                    yield from _cell_images(cell)


def _holds_images(kind: "pa.DataType") -> bool:
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        return _holds_images(kind.value_type)
    if types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _names_images(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_struct(kind)) and {"bytes", "path"} <= {field.name for field in kind}


def _cell_images(cell: Any) -> Iterator[tuple[str, str]]:
    if isinstance(cell, list):
        for one in cell:
            yield from _cell_images(one)
    elif isinstance(cell, dict):
        content = cell.get("bytes")
        yield str(cell.get("path") or ""), hashlib.sha256(content).hexdigest() if content else ""
    elif isinstance(cell, bytes):
        yield "", hashlib.sha256(cell).hexdigest()
    elif isinstance(cell, str):
        yield f"{cell}.jpg" if _COCO_STEM.fullmatch(cell) else cell, ""


def _tsv_images(path: Path) -> Iterator[tuple[str, str]]:
    csv.field_size_limit(_LARGEST_CELL)
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            # Of several pictures, VLMEvalKit writes a list as Python text; base64 has neither commas nor quotes.
            for text in (row.get("image") or "").strip("[]").split(","):
                if not (cell := text.strip().strip("'\"")):
                    continue
                try:
                    yield "", hashlib.sha256(base64.b64decode(cell, validate=True)).hexdigest()
                except binascii.Error:
                    continue  # a cell may name another row's picture by its index


def describe_overlap(counts: "Counter[str]") -> str:
    """Return in words how many training rows show images of each evaluation set."""
    return ", ".join(f"{number:,} of {name}" for name, number in counts.most_common())
