"""Answer files in LLaVA's format: one growing file for each rank while it answers, one file in the end.

A line that a crash cut is dropped when the file is read again, and its question is asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.run_dir import read_json, write_json


def answers_file(folder: Path, name: str) -> Path:
    """Return the file of a benchmark's answers."""
    return folder / f"{name}.jsonl"


def shard_file(folder: Path, name: str, rank: int) -> Path:
    """Return the file that one rank appends to."""
    return folder / f"{name}.rank-{rank}.jsonl"


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the whole lines of an answer file; what a crash cut is left out."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "question_id" in row and "text" in row:
            rows.append(row)
    return rows


def append_row(stream: Any, row: dict[str, Any]) -> None:
    """Append a row and hand it to the system, so that a crash of this process loses nothing."""
    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    stream.flush()


def merge_shards(folder: Path, benchmark: Benchmark, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Gather what ranks have answered into the one file, in the order of the records, and return its rows."""
    shards = sorted(folder.glob(f"{benchmark.name}.rank-*.jsonl"))
    whole = answers_file(folder, benchmark.name)
    by_key: dict[str, dict[str, Any]] = {}
    for row in (row for file in (whole, *shards) for row in read_rows(file)):
        by_key.setdefault(benchmark.row_key(row), row)
    rows = [by_key[record.key] for record in records if record.key in by_key]
    if rows:
        unfinished = whole.with_name(f".{whole.name}")
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, whole)
    for shard in shards:
        shard.unlink()
    return rows


def questions_sha256(records: Iterable[Record]) -> str:
    """Return the hash of what is asked and of the truth that answers are compared with."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.key, record.prompt, record.answer], ensure_ascii=False).encode())
    return digest.hexdigest()


def claim(folder: Path, name: str, made_by: dict[str, Any]) -> Path | None:
    """Make sure that the answers in a folder are of one model and one set of questions.

    Args:
        folder: Of the answer files.
        name: The benchmark's.
        made_by: What the answers depend on: hashes of weights and questions, template, lengths.

    Returns:
        Where answers that were made otherwise are kept now, or None where there were none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / f"{name}.made_by.json"
    files = [file for file in (answers_file(folder, name), *folder.glob(f"{name}.rank-*.jsonl")) if file.exists()]
    aside: Path | None = None
    if files and read_json(record) != made_by:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for file in files:
            aside = file.with_name(f"{file.stem}-until-{stamp}.jsonl.old")
            file.rename(aside)
    write_json(record, made_by)
    return aside
