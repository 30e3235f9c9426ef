"""What a data set is made of: sources, folders, turns, lengths, writing, picture sizes."""

import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from croc_cli.files import open_file
from croc_cli.pictures import open_picture, upright_size
from croc_cli.sources.read.rows import row_error
from croc_cli.sources.read.scan import Progress, estimate_tokens
from croc_cli.sources.verify.checked_rows import CheckedData, CheckedRow
from croc_cli.sources.verify.layout import image_prefix
from croc_cli.sources.verify.verify import RowTokens

SIZED_IMAGES = 2000
"""Pictures whose size is looked up; evenly spread over the rows."""
_REPORT_EVERY = 2000
_SCRIPTS = (
    ("Han", 0x4E00, 0x9FFF),
    ("Kana", 0x3040, 0x30FF),
    ("Hangul", 0xAC00, 0xD7AF),
    ("Cyrillic", 0x0400, 0x04FF),
    ("Arabic", 0x0600, 0x06FF),
    ("Devanagari", 0x0900, 0x097F),
    ("Greek", 0x0370, 0x03FF),
    ("Hebrew", 0x0590, 0x05FF),
    ("Thai", 0x0E00, 0x0E7F),
)


@dataclass
class DataStats:
    """Counts over a data set's good rows.

    Args:
        path: What was looked at.
        rows: Rows, good and bad.
        bad: Rows with errors, which are in none of the counts below.
        sources: Rows of each source.
        folders: Rows of each folder that images are named in; "" = text alone.
        turns: Rows by the number of their questions.
        writing: Rows by the writing of their answers; Japanese is Kana.
        question_tokens, answer_tokens, tokens: Lengths of each row: first question, all answers, the whole row.
        sizes: (width, height) in pixels of some pictures.
        exact: Whether `tokens` come from the real tokenizer, images included, or are estimated from characters.
    """

    path: Path
    rows: int = 0
    bad: int = 0
    sources: "Counter[str]" = field(default_factory=Counter)
    folders: "Counter[str]" = field(default_factory=Counter)
    turns: "Counter[int]" = field(default_factory=Counter)
    writing: "Counter[str]" = field(default_factory=Counter)
    question_tokens: list[int] = field(default_factory=list)
    answer_tokens: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    exact: bool = False


def collect_stats(
    path: Path,
    *,
    image_folder: Path | None = None,
    tokens: RowTokens | None = None,
    progress: Progress | None = None,
) -> DataStats:
    """Look through a data set.

    Args:
        path: A mix's folder, or a file or folder of any form that a source may have.
        image_folder: Where image paths start from, for what is not a mix.
        tokens: Counts a row's tokens; default: they are estimated.
        progress: Told how far it is.

    Raises:
        UsageError: There is nothing that can be read.
    """
    data = CheckedData(path, image_folder)
    stats = DataStats(path, exact=tokens is not None)
    every = max(1, (data.num_rows or 0) // SIZED_IMAGES)
    for row in data.rows():
        stats.rows += 1
        if progress is not None and row.number % _REPORT_EVERY == 0:
            progress("reading", row.number, data.num_rows)
        if (row.defect or row_error(row.row)) is not None:
            stats.bad += 1
            continue
        _count(stats, row, tokens)
        if row.number % every == 0 and len(stats.sizes) < SIZED_IMAGES:
            _measure(stats, row)
    return stats


def _count(stats: DataStats, row: CheckedRow, tokens: RowTokens | None) -> None:
    turns = row.row["conversations"]
    texts = [turn["value"] for turn in turns[turns[0]["from"] == "gpt" :]]
    answers = texts[1::2]
    source, _, _ = row.key.partition("#")
    stats.sources[source if "#" in row.key else stats.path.name] += 1
    image = row.row.get("image")
    first = image[0] if isinstance(image, list) else image
    stats.folders["" if first is None else image_prefix(first) or "."] += 1
    stats.turns[len(answers)] += 1
    stats.writing[writing_of(" ".join(answers))] += 1
    stats.question_tokens.append(estimate_tokens(texts[:1]))
    stats.answer_tokens.append(estimate_tokens(answers))
    stats.tokens.append(tokens(row.row)[0] if tokens is not None else estimate_tokens(texts))


def writing_of(text: str) -> str:
    """Return the writing that a text is in: Latin, or another as soon as a tenth of its letters are."""
    if text.isascii():
        return "Latin" if any(letter.isalpha() for letter in text[:1000]) else "no letters"
    counts: Counter[str] = Counter()
    for letter in text[:1000]:
        if letter.isalpha():
            code = ord(letter)
            counts[next((name for name, low, high in _SCRIPTS if low <= code <= high), "Latin")] += 1
    others = [(number, name) for name, number in counts.items() if name != "Latin"]
    if not others:
        return "Latin" if counts else "no letters"
    if counts["Kana"] * 10 >= counts.total():
        return "Kana"
    number, name = max(others)
    return name if number * 10 >= counts.total() else "Latin"


def _measure(stats: DataStats, row: CheckedRow) -> None:
    """Look up the size of a row's first picture, from its header alone."""
    for _, place in row.images()[:1]:
        try:
            is_file = place.content is None and place.offset < 0
            with open_file(place.name) if is_file else io.BytesIO(place.read()) as source:
                stats.sizes.append(upright_size(open_picture(source)))
        except Exception:  # what is wrong with it is `croc data verify`'s to say
            continue


def quantiles(values: list[int]) -> tuple[int, int, int, int]:
    """Return the median, the 90th and the 99th of a hundred, and the largest; zeros for none."""
    if not values:
        return 0, 0, 0, 0
    ordered = sorted(values)
    half, ninety, almost = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.9, 0.99))
    return half, ninety, almost, ordered[-1]
