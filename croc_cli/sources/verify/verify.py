"""Checks data before it is trained on: files, rows, pictures, duplicates, tokens."""

import os
import re
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from croc_cli.place import check_place
from croc_cli.sources.known.catalog import all_sources
from croc_cli.sources.read.index import MixFolder, order_hash
from croc_cli.sources.read.rows import names_images, row_defects
from croc_cli.sources.read.scan import Progress
from croc_cli.sources.verify.checked_rows import CheckedData, CheckedRow
from croc_cli.sources.verify.findings import DEFECTS, Finding, Findings
from croc_cli.sources.verify.image_cache import ImageCache
from croc_cli.sources.verify.image_pass import ImagePass, bad_images
from croc_cli.sources.verify.overlap import EVAL_FOLDER, describe_overlap, eval_images
from croc_cli.sources.verify.verify_fix import clean_places, write_clean
from croc_cli.words import counted

__all__ = ["Finding", "StageCheck", "VerifyReport", "verify_mix"]

RowTokens = Callable[[Any], tuple[int, int]]
"""Takes a row without errors; returns (tokens before it is cut, labels that are left once it is)."""

_BOXES = re.compile(r"\[\s*[01]?\.\d+,\s*[01]?\.\d+,\s*[01]?\.\d+,\s*[01]?\.\d+\s*\]")
_REPORT_EVERY = 2000


@dataclass(frozen=True)
class StageCheck:
    """What a recipe's stage asks of its data.

    Args:
        template: How conversations become text.
        image_aspect: `square` crops images, which boxes do not survive.
        max_length: Longest sequence in tokens.
        tokens: Counts a row's tokens and labels; None where the tokenizer is not at hand.
        name: The stage, for the recipe lines that use a clean copy.
    """

    template: str
    image_aspect: str
    max_length: int
    tokens: RowTokens | None = None
    name: str | None = None


@dataclass(frozen=True)
class VerifyReport:
    """What a check of a data set found.

    Args:
        path: What was checked.
        rows: Rows that were looked at.
        bad_rows: Rows that have an error.
        findings: Errors first.
        prefixes: (folder that image paths name, images present, missing).
        images: Images that were looked at, of which `cached` were known from before.
        clean_path: The clean copy, where `fix` wrote one.
        dropped_file: What it left out, and why.
        image_root: Folder that image paths start from; None for a mix, which knows its folders.
        list_file: File with all errors and warnings, one a line.
    """

    path: Path
    rows: int
    bad_rows: int = 0
    findings: tuple[Finding, ...] = field(default_factory=tuple)
    prefixes: tuple[tuple[str, int, int], ...] = ()
    images: int = 0
    cached: int = 0
    clean_path: Path | None = None
    dropped_file: Path | None = None
    image_root: Path | None = None
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
    perceptual: bool = False,
    eval_folder: Path | None = None,
    stage: StageCheck | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check a mix, a LLaVA JSON with its image folder, or anything else that a source may be.

    Args:
        path: A mix's folder, a LLaVA JSON list or JSONL, a table, tars.
        deep: Decode every image; takes up again where it stopped.
        fix: Write a clean copy beside it, without the rows that have errors; `path` itself is never changed.
        image_folder: Where image paths start from, for what is not a mix.
        workers: Decoding processes; None for all cores.
        perceptual: With `deep`, also find images that look alike.
        eval_folder: Where evaluation sets lie; None for `eval` below the data root.
        stage: What a recipe's stage asks of the data; None to leave that out.
        progress: Told how far it is.

    Raises:
        UsageError: There is nothing to check at `path`, or a file of it cannot be read at all.
    """
    data = CheckedData(path, image_folder)
    path = data.path
    findings = Findings(path.with_name(f"{path.name}.problems.txt"))
    check_place(findings.list_file)
    if fix:
        clean_places(data)
    with suppress(OSError):  # the list of an earlier check says nothing any more
        findings.list_file.unlink(missing_ok=True)
    folder = eval_folder if eval_folder is not None else data.data_root / EVAL_FOLDER
    overlaps = eval_images(folder, contents=deep, cache=ImageCache() if deep else None, progress=progress)
    for unreadable in overlaps.unreadable:
        findings.add("eval-unreadable", unreadable)
    images = ImagePass(
        findings, deep=deep, workers=workers, perceptual=perceptual, eval_images=overlaps, progress=progress
    )
    rows = RowPass(findings, stage)
    number = -1
    try:
        for row in data.rows():
            number = row.number
            if rows.take(row):
                images.take(row)
            if progress is not None and number % _REPORT_EVERY == 0:
                progress("checking rows", number, data.num_rows)
    except BaseException:
        images.stop()
        findings.discard()
        raise
    images.finish()
    rows.finish()
    if images.eval_sets:
        findings.hints["eval-overlap"] = describe_overlap(images.eval_sets)
    _check_origin(data, number + 1, findings)
    bad_rows, clean, dropped = _second_pass(data, rows, images, fix=fix)
    return VerifyReport(
        path=path,
        rows=number + 1,
        bad_rows=bad_rows,
        findings=findings.sorted(),
        prefixes=tuple(images.prefixes()),
        images=images.num_checked,
        cached=images.num_cached,
        clean_path=clean,
        dropped_file=dropped,
        image_root=data.reader.image_root if data.reader is not None else None,
        list_file=findings.close(),
    )


class RowPass:
    """Takes rows one by one and checks all but their images.

    Args:
        findings: Told what is wrong.
        stage: What a recipe's stage asks of the data.

    Attributes:
        bad: Why each row that has an error has one, by its number.
    """

    def __init__(self, findings: Findings, stage: StageCheck | None) -> None:
        self.findings = findings
        self.stage = stage
        self.bad: dict[int, str] = {}
        self._ids = array("q")
        self._contents = array("q")
        self._id_types: dict[str, int] = {}

    def take(self, row: CheckedRow) -> bool:
        """Check a row, and return whether its images are worth looking at."""
        if row.defect is not None:
            self._bad(row, *row.defect)
            return False
        for code, detail in row_defects(row.row):
            if DEFECTS[code].level == "error":
                self._bad(row, code, detail)
                return names_images(row.row)
            self.findings.add(code, row.key, detail)
        self._note_identity(row)
        if self.stage is not None:
            self._check_stage(row, self.stage)
        return True

    def finish(self) -> None:
        """Count what only all rows together tell."""
        for code, hashes in (("row-repeated", self._contents), ("id-repeated", self._ids)):
            repeated = _count_repeated(hashes)
            if repeated:
                self.findings.add(code, "all rows", f"{repeated:,} repeat an earlier one", count=repeated)
        if len(self._id_types) > 1:
            detail = ", ".join(f"{number:,} {kind}" for kind, number in sorted(self._id_types.items()))
            self.findings.add("id-mixed", "all rows", detail)

    def _note_identity(self, row: CheckedRow) -> None:
        given = row.row.get("id")
        if given is not None:
            kind = "text" if isinstance(given, str) else "numbers"
            self._id_types[kind] = self._id_types.get(kind, 0) + 1
            self._ids.append(hash(str(given)))
        texts = [turn["value"] for turn in row.row["conversations"]]
        self._contents.append(hash((row.root, str(row.row.get("image")), *texts)))

    def _check_stage(self, row: CheckedRow, stage: StageCheck) -> None:
        turns = row.row["conversations"]
        texts = [turn["value"] for turn in turns]
        has_image = "image" in row.row
        if stage.template == "plain" and (len(turns) - (turns[0]["from"] == "gpt") != 2 or not has_image):
            self._bad(row, "not-a-caption", f"{counted(len(turns), 'turn')}" if has_image else "text alone")
            return
        if stage.image_aspect == "square" and has_image and any("[" in text and _BOXES.search(text) for text in texts):
            self._bad(row, "boxes-cropped", "")
            return
        if stage.tokens is not None:
            length, trained = stage.tokens(row.row)
            if not trained:
                self._bad(row, "no-trained-token", f"{length} tokens, at most {stage.max_length}")
            elif length > stage.max_length:
                self.findings.add("truncated", row.key, f"{length} tokens, at most {stage.max_length}")

    def _bad(self, row: CheckedRow, code: str, detail: str) -> None:
        self.bad.setdefault(row.number, code)
        self.findings.add(code, row.key, detail)


def _count_repeated(hashes: "array[int]") -> int:
    import numpy as np

    ordered = np.sort(np.frombuffer(hashes, dtype=np.int64)) if hashes else np.empty(0, dtype=np.int64)
    return int((ordered[1:] == ordered[:-1]).sum())


def _second_pass(
    data: CheckedData, rows: RowPass, images: ImagePass, *, fix: bool
) -> tuple[int, Path | None, Path | None]:
    """Say which rows are bad once their images are known, and write the clean copy where one is wanted."""
    if images.bad:
        for row in data.rows():
            if row.number not in rows.bad and row.row is not None:
                for code in bad_images(row, images.bad):
                    rows.bad.setdefault(row.number, code)
    if not fix or not rows.bad:
        return len(rows.bad), None, None
    clean, dropped = write_clean(data, rows.bad)
    return len(rows.bad), clean, dropped


def _check_origin(data: CheckedData, num_rows: int, findings: Findings) -> None:
    """Check what the manifest or the catalogue says of the whole."""
    if data.mix is not None:
        _check_manifest(data.mix, num_rows, findings)
        return
    for source in all_sources().values():
        if source.annotation is None or source.rows is None or os.path.basename(source.annotation) != data.path.name:
            continue
        if source.rows != num_rows and not source.unverified:
            detail = f"{counted(num_rows, 'row')}; {source.title} has {source.rows:,}"
            findings.add("row-count", data.path.name, detail)
        findings.add("licence", source.name, source.licence)


def _check_manifest(mix: MixFolder, num_rows: int, findings: Findings) -> None:
    manifest = mix.manifest
    if num_rows != manifest.rows or sum(source.rows_out for source in manifest.sources) != manifest.rows:
        findings.add("mix-broken", "manifest.json", f"{counted(manifest.rows, 'row')}, rows.jsonl {num_rows:,}")
    arrays = {"source": mix.index.source, "row": mix.index.row}
    if order_hash([source.name for source in manifest.sources], arrays) != manifest.order_sha256:
        findings.add("mix-broken", "index", "its order is not the manifest's")
    for source in manifest.sources:
        lost = source.rows_in - source.rows_out - sum(source.dropped.values())
        if lost:
            findings.add("mix-broken", source.name, f"{lost:,} rows are neither in the mix nor said to be left out")
        path = mix.data_root / source.path
        for name, size, changed in source.files:
            file = path if path.name == name else next(iter([*path.glob(name), *path.glob(f"*/{name}")]), path / name)
            if file.exists() and (file.stat().st_size, file.stat().st_mtime_ns) != (size, changed):
                findings.add("source-changed", source.name, str(file))
        if source.licence:
            findings.add("licence", source.name, source.licence)
