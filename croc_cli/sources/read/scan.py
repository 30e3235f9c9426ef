"""Looks through a source: which of its rows can be drawn, and why the others cannot."""

import re
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from croc_cli.names import IMAGE_TOKEN
from croc_cli.reading import printable
from croc_cli.sources.read.reader import Reader
from croc_cli.sources.read.rows import row_error
from croc_cli.sources.read.spec import RowFilter

Progress = Callable[[str, int, int | None], None]
"""Told (what is being done, how much is done, of how much if that is known), now and then."""

FILTERED = "filtered"
REPORT_EVERY = 5000
_SHOWN = 5


@dataclass
class Scan:
    """The rows of a source that can be drawn; all arrays are alike long.

    Args:
        rows: Their indices.
        starts: First byte in the file; 0 where rows are converted.
        lengths: Bytes there.
        tokens: Estimated length of the text in tokens.
        images: How many images they show.
        contents: Hash of image and turns, equal for equal rows within one process.
        num_rows: Rows of the source.
        dropped: Rows that cannot be drawn, by reason.
        examples: The first rows of each reason, with what exactly is wrong.
        as_is: Whether every row's bytes in the file are the row, so that they can be copied.
        embedded: Whether a row holds an image itself.
    """

    rows: "array[int]" = field(default_factory=lambda: array("I"))
    starts: "array[int]" = field(default_factory=lambda: array("Q"))
    lengths: "array[int]" = field(default_factory=lambda: array("I"))
    tokens: "array[int]" = field(default_factory=lambda: array("I"))
    images: "array[int]" = field(default_factory=lambda: array("B"))
    contents: "array[int]" = field(default_factory=lambda: array("q"))
    num_rows: int = 0
    dropped: "Counter[str]" = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    as_is: bool = True
    embedded: bool = False

    def drop(self, code: str, index: int, detail: str) -> None:
        """Count a row that cannot be drawn."""
        self.dropped[code] += 1
        shown = self.examples.setdefault(code, [])
        if len(shown) < _SHOWN:
            shown.append(f"row {index}: {printable(detail)}")

    @property
    def num_defective(self) -> int:
        """Rows that were dropped for what is wrong with them."""
        return self.dropped.total() - self.dropped[FILTERED]


def scan_source(reader: Reader, rows_filter: RowFilter, *, name: str, progress: Progress | None = None) -> Scan:
    """Look through a source once."""
    found = Scan()
    passes = row_filter(rows_filter)
    for index, row, start, end, defect, contents, _ in reader.rows():
        found.num_rows = index + 1
        if progress is not None and index % REPORT_EVERY == 0:
            progress(f"reading {name}", index, None)
        if (defect := defect or row_error(row)) is not None:
            found.drop(defect[0], index, defect[1])
            continue
        texts = [turn["value"] for turn in row["conversations"]]
        if passes is not None and not passes(row, texts):
            found.dropped[FILTERED] += 1
            continue
        image = row.get("image")
        found.rows.append(index)
        found.starts.append(max(start, 0))
        found.lengths.append(max(end - start, 0))
        found.tokens.append(estimate_tokens(texts))
        found.images.append(0 if image is None else min(len(image), 255) if type(image) is list else 1)
        seen = contents or (str(image) if type(image) is list else image)
        found.contents.append(hash((seen, *texts)))
        found.as_is = found.as_is and start >= 0
        found.embedded = found.embedded or bool(contents)
    return found


def estimate_tokens(texts: list[str]) -> int:
    """Return roughly how many tokens texts have: four ASCII characters a token, or one character of other writing."""
    total = 0
    for text in texts:
        if text.isascii():
            total += len(text) // 4 + 1
        else:
            # In UTF-8 a letter beyond ASCII takes two to four bytes, nearly always two or three.
            others = (len(text.encode(errors="replace")) - len(text)) / 2
            total += int((len(text) - others) / 4 + others) + 1
    return total


def row_filter(settings: RowFilter) -> Callable[[dict[str, Any], list[str]], bool] | None:
    """Return the test that a row must pass, or None where all do.

    The test takes a row without errors and its turns' texts.
    """
    if settings == RowFilter():
        return None
    human = re.compile(settings.human_matches) if settings.human_matches is not None else None
    not_human = re.compile(settings.not_human_matches) if settings.not_human_matches is not None else None

    def passes(row: dict[str, Any], texts: list[str]) -> bool:
        image = row.get("image")
        if settings.modality is not None and (image is None) != (settings.modality == "text"):
            return False
        first_image = image[0] if type(image) is list else image or ""
        if settings.image_prefixes and not first_image.startswith(settings.image_prefixes):
            return False
        if image is not None and settings.not_image_prefixes and first_image.startswith(settings.not_image_prefixes):
            return False
        if settings.max_turns is not None and len(texts) > settings.max_turns:
            return False
        starts_with_gpt = row["conversations"][0]["from"] == "gpt"
        question = texts[starts_with_gpt].replace(IMAGE_TOKEN, "").strip()
        if human is not None and not human.search(question):
            return False
        if not_human is not None and not_human.search(question):
            return False
        size = sum(map(len, texts[1 + starts_with_gpt :: 2]))
        if settings.min_answer_chars is not None and size < settings.min_answer_chars:
            return False
        return settings.max_answer_chars is None or size <= settings.max_answer_chars

    return passes
