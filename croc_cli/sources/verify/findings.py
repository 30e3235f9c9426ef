"""What a check found: kinds of defects with counts, first examples, and a file that lists all."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from croc_cli.place import put_file
from croc_cli.reading import printable
from croc_cli.sources.read.rows import ROW_DEFECTS, DefectKind, Level
from croc_cli.sources.verify.image_check import IMAGE_DEFECTS

NUM_SHOWN: Final = 20
DATA_DEFECTS: Final[dict[str, DefectKind]] = {
    "row-repeated": DefectKind("warning", "a row that repeats another's image, question and answers"),
    "image-repeated": DefectKind("warning", "an image whose very bytes another name has too"),
    "image-alike": DefectKind("note", "an image that looks like another"),
    "id-mixed": DefectKind("note", "ids of which some are text and some are numbers; never used as keys"),
    "id-repeated": DefectKind("note", "an id that another row has too; never used as a key"),
    "eval-overlap": DefectKind("warning", "an image that an evaluation set has too"),
    "eval-unreadable": DefectKind("note", "an evaluation file that does not open, so its images were not compared"),
    "no-trained-token": DefectKind("error", "a row that nothing is left to train of once it is cut to max_length"),
    "truncated": DefectKind("warning", "a row that is cut to max_length"),
    "not-a-caption": DefectKind("error", "a row that is not an image and its caption, which the template plain takes"),
    "boxes-cropped": DefectKind("error", "a row with boxes, while image_aspect square crops what they are relative to"),
    "row-count": DefectKind("warning", "another number of rows than is known of this file"),
    "mix-broken": DefectKind("error", "a mix whose parts do not agree", "make it again: croc data mix with its recipe"),
    "source-changed": DefectKind("warning", "a source that changed since the mix was made"),
    "licence": DefectKind("note", "what the sources allow"),
}
DEFECTS: Final[dict[str, DefectKind]] = {**ROW_DEFECTS, **IMAGE_DEFECTS, **DATA_DEFECTS}
_ORDER: Final[dict[Level, int]] = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Args:
        code: Stable name, such as `image-missing`.
        level: An error is a row that cannot be trained on as it is, or a file that is not what it should be.
        message: What is wrong, in a line.
        count: How often.
        examples: The first places: source, row, image.
        hint: What to do about it.
    """

    code: str
    level: Level
    message: str
    count: int
    examples: tuple[str, ...] = ()
    hint: str | None = None


@dataclass
class Findings:
    """Collects what is found.

    Args:
        list_file: Gets every error and warning, one a line: code, place, detail. Where it cannot be written, a file of
            the system's folder for temporary files takes its place, and where that cannot be written either, none.
    """

    list_file: Path
    counts: "Counter[str]" = field(default_factory=Counter)
    hints: dict[str, str] = field(default_factory=dict)
    _examples: dict[str, list[str]] = field(default_factory=dict)
    _list: TextIO | None = None
    _is_open: bool = False

    def add(self, code: str, place: str, detail: str = "", *, count: int = 1) -> None:
        """Take one thing that is wrong, or a count of alike ones."""
        place, detail = printable(place), printable(detail)
        self.counts[code] += count
        shown = self._examples.setdefault(code, [])
        if len(shown) < NUM_SHOWN:
            shown.append(f"{place}: {detail}" if detail else place)
        if DEFECTS[code].level != "note":
            if not self._is_open:
                self._list, self._is_open = _open_list(self.list_file), True
            if self._list is not None:
                self._list.write(f"{code}\t{place}\t{detail}".rstrip() + "\n")

    def close(self) -> Path | None:
        """Close the list and return its file, or None where there was nothing to write."""
        if self._list is None:
            return None
        self._list.close()
        written = Path(self._list.name)
        if written.parent != Path(os.path.abspath(self.list_file.parent)):
            return written
        put_file(written, self.list_file)
        return self.list_file

    def discard(self) -> None:
        """Forget the list: the check was not finished."""
        if self._list is not None:
            self._list.close()
            Path(self._list.name).unlink(missing_ok=True)

    def sorted(self) -> tuple[Finding, ...]:
        """Return all findings, errors first."""
        found = [
            Finding(
                code,
                DEFECTS[code].level,
                DEFECTS[code].text,
                count,
                tuple(self._examples[code]),
                self.hints.get(code, DEFECTS[code].hint),
            )
            for code, count in self.counts.items()
        ]
        return tuple(sorted(found, key=lambda finding: (_ORDER[finding.level], -finding.count)))


def _open_list(file: Path) -> TextIO | None:
    """Open a hidden file beside the list; among the system's temporary files where data may not be written to.

    Returns None where neither can be written.
    """
    import tempfile

    for folder, prefix in ((file.parent, f".{file.stem[:100]}-"), (None, f"{file.stem[:100]}-")):
        try:
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=".txt", dir=folder)
        except OSError:
            continue
        os.close(handle)
        return open(name, "w", encoding="utf-8")
    return None
