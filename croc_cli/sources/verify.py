"""Checks data before it is trained on: files, rows, pictures, duplicates, tokens."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from croc_cli.errors import RunError

Level = Literal["error", "warning", "note"]


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


@dataclass(frozen=True)
class VerifyReport:
    """What a check of a data set found.

    Args:
        path: What was checked.
        rows: Rows that were looked at.
        findings: Errors first.
        clean_path: The clean copy, where `fix` wrote one.
        list_file: File with all places, one a line.
    """

    path: Path
    rows: int
    findings: tuple[Finding, ...] = field(default_factory=tuple)
    clean_path: Path | None = None
    list_file: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return all(finding.level != "error" for finding in self.findings)


def verify_mix(
    path: Path,
    *,
    deep: bool = False,
    fix: bool = False,
    image_folder: Path | None = None,
    workers: int | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> VerifyReport:
    """Check a mix, or a LLaVA JSON with its image folder.

    Args:
        path: A mix's folder, a LLaVA JSON list or JSONL, or anything else that a source may be.
        deep: Decode every image; takes up again where it stopped.
        fix: Write a clean copy beside it, without the rows that have errors; `path` itself is never changed.
        image_folder: Where image paths start from, for what is no mix.
        workers: Processes that decode; None for all cores.
        progress: Told how far it is.

    Raises:
        UsageError: There is nothing to check at `path`.
    """
    del path, deep, fix, image_folder, workers, progress
    raise RunError("data cannot be checked yet")
