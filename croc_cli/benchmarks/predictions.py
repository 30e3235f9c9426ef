"""Answer files in LLaVA's format: one growing file for each rank while it answers, one file in the end.

A line that a crash cut is dropped when a rank's file is read again, and its question is asked again. The one file is
written only to add answers to it; scoring reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError, read_json_lines, take
from croc_cli.run_dir import parse_object, read_json, write_json

Row = dict[str, Any]


def answers_file(folder: Path, name: str) -> Path:
    """Return the file of a benchmark's answers."""
    return folder / f"{name}.jsonl"


def shard_file(folder: Path, name: str, rank: int) -> Path:
    """Return the file that one rank appends to."""
    return folder / f"{name}.rank-{rank}.jsonl"


def shard_files(folder: Path, name: str) -> list[Path]:
    """Return the files that ranks appended to and that are not part of the one file yet."""
    return sorted(folder.glob(f"{name}.rank-*.jsonl"))


def read_rows(file: Path) -> list[Row]:
    """Return the whole lines of a rank's answer file; what a crash cut is left out."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_bytes().split(b"\n"):
        try:
            row = parse_object(line)
        except ValueError:
            continue
        if "question_id" in row and "text" in row:
            rows.append(row)
    return rows


def read_answers(file: Path) -> list[Row]:
    """Return the rows of a benchmark's one answer file; none where there is no file.

    Raises:
        BenchmarkDataError: A line is not an answer row; says which and why.
    """
    rows = []
    for where, row in read_json_lines(file) if file.exists() else ():
        take(row, "question_id", where), take(row, "text", where)
        rows.append(row)
    return rows


def answers_sha256(folder: Path, name: str) -> str:
    """Return the hash of a benchmark's saved answers, which is that of the one file where no rank has more."""
    digest = hashlib.sha256()
    for file in (answers_file(folder, name), *shard_files(folder, name)):
        if file.exists():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def answer_row(record: Record, text: str, *, model_sha256: str, model_id: str) -> Row:
    """Return an answer as LLaVA's answer files hold it.

    Args:
        record: The question.
        text: The answer.
        model_sha256: What tells the model from every other; the answer's id is made from it.
        model_id: Its name.
    """
    digest = hashlib.sha256(f"{model_sha256} {record.key}".encode()).hexdigest()
    more = dict(record.extra.get("answer_fields", {}))
    round_id = {"round_id": more.pop("round_id")} if "round_id" in more else {}
    return {
        "question_id": record.question_id,
        **round_id,
        "prompt": record.extra.get("saved_prompt", record.prompt),
        "text": text,
        **more,
        "answer_id": digest[:22],
        "model_id": model_id,
        "metadata": {},
    }


def open_shard(file: Path) -> IO[str]:
    """Open a rank's file to append to; a line that a crash cut is ended, so that the next one stands alone."""
    cut = file.exists() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
    stream = file.open("a", encoding="utf-8")
    if cut:
        stream.write("\n")
    return stream


def append_row(stream: Any, row: Row) -> None:
    """Append a row and hand it to the system, so that a crash of this process loses nothing."""
    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    stream.flush()


def saved_rows(folder: Path, benchmark: Benchmark, records: Sequence[Record]) -> list[Row]:
    """Return every saved answer of a benchmark: the one file's, then what ranks added; changes nothing.

    Raises:
        BenchmarkDataError: A line of the one file is not an answer, or two answers to one question differ.
    """
    rows = read_answers(answers_file(folder, benchmark.name))
    allowed = Counter(record.key for record in records)
    texts: dict[str, list[Any]] = {}
    for row in rows:
        if row["text"] is not None:
            texts.setdefault(benchmark.row_key(row), []).append(row["text"])
    for file in shard_files(folder, benchmark.name):
        for row in read_rows(file):
            key = benchmark.row_key(row)
            said = texts.setdefault(key, [])
            if row["text"] in said and len(said) >= max(1, allowed[key]):
                continue
            if said and row["text"] not in said:
                raise BenchmarkDataError(
                    f"{file}: question {row['question_id']} has another answer here than in the answers kept before",
                    hint=f"answers of two evaluations lie in {folder}; move one of the files away",
                )
            said.append(row["text"])
            rows.append(row)
    return rows


def merge_shards(folder: Path, benchmark: Benchmark, records: Sequence[Record]) -> list[Row]:
    """Add what ranks have answered to the one file, in the order of the records, and return its rows.

    Every row is kept: those that answer none of these records stand at the end.

    Raises:
        BenchmarkDataError: See `saved_rows`; nothing has changed then.
    """
    shards = shard_files(folder, benchmark.name)
    rows = saved_rows(folder, benchmark, records)
    if not shards:
        return rows
    places = {record.key: place for place, record in reversed(list(enumerate(records)))}
    rows.sort(key=lambda row: places.get(benchmark.row_key(row), len(places)))
    if rows:
        whole = answers_file(folder, benchmark.name)
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


def claim(folder: Path, name: str, made_by: dict[str, Any], *, fits: Callable[[], bool] = lambda: False) -> Path | None:
    """Make sure that the answers in a folder are of one model and one set of questions.

    Args:
        folder: Of the answer files.
        name: The benchmark's.
        made_by: What the answers depend on: hashes of weights and questions, template, lengths.
        fits: Whether the answers in the folder are all to these questions; asked where only their hash differs.

    Returns:
        Where answers that were made otherwise are kept now, or None where there were none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / f"{name}.made_by.json"
    files = [file for file in (answers_file(folder, name), *shard_files(folder, name)) if file.exists()]
    before = read_json(record)
    aside: Path | None = None
    is_same = before == made_by or (
        {**before, "questions_sha256": ""} == {**made_by, "questions_sha256": ""} and fits()
    )
    if files and not is_same:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for file in files:
            aside = file.with_name(f"{file.stem}-until-{stamp}.jsonl.old")
            file.rename(aside)
    write_json(record, made_by)
    return aside
