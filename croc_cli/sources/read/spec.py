"""What a mix is made of: the sources of a recipe's stage, with paths, counts and filters settled."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

SourceFormat = Literal["auto", "llava", "table", "webdataset"]

MIX_FOLDER = "mixes"
"""Where mixes lie below the data root."""


@dataclass(frozen=True)
class RowFilter:
    """Which rows of a source may be drawn; what is left out of it drops nothing.

    Args:
        modality: Rows with images, or rows of text alone.
        image_prefixes: Image paths start with one of these.
        not_image_prefixes: Image paths start with none of these.
        human_matches: Regular expression found in the first question.
        not_human_matches: Regular expression not found in the first question.
        min_answer_chars: Least characters of all answers together.
        max_answer_chars: Most characters of all answers together.
        max_turns: Most turns, human and gpt counted.
    """

    modality: Literal["image", "text"] | None = None
    image_prefixes: tuple[str, ...] = ()
    not_image_prefixes: tuple[str, ...] = ()
    human_matches: str | None = None
    not_human_matches: str | None = None
    min_answer_chars: int | None = None
    max_answer_chars: int | None = None
    max_turns: int | None = None


@dataclass(frozen=True)
class SourceSpec:
    """One source of a mix.

    Args:
        name: Names it in the manifest; its rows' place in the order depends on it.
        path: Annotation file, table, tar or folder.
        format: `llava` JSON list or JSONL; `table` of named columns; `webdataset` tars; `auto` looks.
        image_root: Folder that image paths start from.
        columns: For tables: which columns hold what.
        count: Rows to draw, exactly; None with `fraction` None takes all.
        fraction: Share of the rows to draw.
        seed: Seed of the draw.
        filter: Which rows may be drawn.
        max_dropped: Share of rows with defects that may be left out before the mix is refused.
        catalog: The catalogue's name, where it is a known source.
        revision: Revision of the files, where it is known.
        licence: As its card names it, where it is known.
        expected_rows: Rows that the source is known to have, where that is known.
    """

    name: str
    path: Path
    format: SourceFormat = "auto"
    image_root: Path | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    count: int | None = None
    fraction: float | None = None
    seed: int = 0
    filter: RowFilter = field(default_factory=RowFilter)
    max_dropped: float = 0.01
    catalog: str | None = None
    revision: str | None = None
    licence: str | None = None
    expected_rows: int | None = None


@dataclass(frozen=True)
class MixSpec:
    """One mix.

    Args:
        name: Names its folder.
        sources: In the order in which their rows are written; at least one.
        data_root: Folder that relative paths start from.
        seed: Seed of the order.
        drop_duplicates: Leave out rows that repeat another's image, question and answers.
    """

    name: str
    sources: tuple[SourceSpec, ...]
    data_root: Path
    seed: int = 0
    drop_duplicates: bool = False

    def fingerprint(self) -> str:
        """Return a hash of all that decides the mix's rows and their order."""
        values = asdict(self)
        values.pop("data_root")
        for source in values["sources"]:
            for known in ("revision", "licence", "expected_rows", "max_dropped"):
                source.pop(known)
            for key in ("path", "image_root"):
                path = source[key]
                inside = path is not None and path.is_relative_to(self.data_root)
                source[key] = None if path is None else str(path.relative_to(self.data_root) if inside else path)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
