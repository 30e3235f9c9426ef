"""What a mix holds and where it came from: the content of its manifest.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from croc_cli.errors import UsageError
from croc_cli.reading import read_json_file

MANIFEST_NAME = "manifest.json"
_MAKE_AGAIN = "make the mix again: croc data mix with its recipe and --force"
FORM_VERSION = 1
"""Of the files in a mix's folder; a reader refuses any other."""


@dataclass(frozen=True)
class SourceRecord:
    """What became of one source.

    Args:
        name: As in the recipe.
        catalog: The catalogue's name, where it is a known source.
        path: Annotation file or folder, from the data root where it lies below it.
        image_root: Folder that image paths start from, from the data root where it lies below it; None without images.
        revision: Of the files, where known.
        sha256: Of the annotation file; of names and hashes where there are several.
        licence: Where known.
        rows_in: Rows that the source has.
        rows_out: Rows that the mix took.
        dropped: Rows that were left out for each reason: defects, filters, draw.
        seed: Of the draw.
        files: Name, bytes and change time in nanoseconds of each annotation file, to see whether it changed.
    """

    name: str
    path: str
    rows_in: int
    rows_out: int
    dropped: dict[str, int] = field(default_factory=dict)
    image_root: str | None = None
    catalog: str | None = None
    revision: str | None = None
    sha256: str | None = None
    licence: str | None = None
    seed: int = 0
    files: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A mix's manifest.

    Args:
        name: Of the mix.
        sources: What became of each.
        rows: Rows of the mix.
        image_rows: Rows that show an image.
        text_rows: Rows of text alone.
        bytes: Of rows.jsonl.
        duplicates: Rows that repeat another's image, question and answers, and stayed.
        seed: Of the order.
        order_sha256: Hash of (source, row) over the mix's order: two mixes with the same one hold the same rows.
        fingerprint: Of the spec that it was made from.
        data_root: Folder that relative paths start from, as a path from the mix's folder.
        made_with: Version of croc.
        notes: What is worth knowing, such as a source with other rows than expected.
    """

    name: str
    sources: tuple[SourceRecord, ...]
    rows: int
    image_rows: int
    text_rows: int
    bytes: int
    duplicates: int
    seed: int
    order_sha256: str
    fingerprint: str
    data_root: str
    made_with: str
    notes: tuple[str, ...] = ()
    form: int = FORM_VERSION

    def as_dict(self) -> dict[str, Any]:
        """Return the content of manifest.json."""
        return asdict(self)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a mix's folder.

    Raises:
        UsageError: The folder holds no mix, or one that this version cannot read.
    """
    file = folder / MANIFEST_NAME
    if not file.exists():
        raise UsageError(
            f"{folder} is not a mix: it has no {MANIFEST_NAME}", hint="croc data mix with a recipe makes mixes"
        )
    return _manifest(read_json_file(file, hint=_MAKE_AGAIN), file)


def mix_rows(folder: Path) -> int | None:
    """Return the rows of a mix, or None where it is not here."""
    try:
        return read_manifest(folder).rows
    except UsageError:
        return None


def _manifest(values: Any, file: Path) -> Manifest:
    if not isinstance(values, Mapping) or values.get("form") != FORM_VERSION:
        form = values.get("form") if isinstance(values, Mapping) else None
        raise UsageError(
            f"{file}: form {form} of the mix is not one that this version of croc reads ({FORM_VERSION})",
            hint=_MAKE_AGAIN,
        )
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Manifest).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{file} is incomplete or damaged: {place}: {first['msg']}", hint=_MAKE_AGAIN) from error
