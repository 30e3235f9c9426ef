"""From answer files to results.json: scores with intervals, submission files, and all that went in."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from croc_cli import __version__
from croc_cli.benchmarks.base import Benchmark, Record, match_answers
from croc_cli.benchmarks.judged import JudgedBenchmark
from croc_cli.benchmarks.predictions import answers_file, questions_sha256, read_rows
from croc_cli.benchmarks.score import Score
from croc_cli.errors import UsageError
from croc_cli.run_dir import StageDir, read_json, write_json, write_whole

Answered = tuple[Record, str]
"""A question and what the model said."""
Judge = Callable[[JudgedBenchmark, Sequence[Record], Sequence[str]], tuple[list[list[str]], dict[str, Any]]]
"""Returns the replies about each answer, none where judging failed, and what the result says of the judge."""


def score_benchmark(
    benchmark: Benchmark, stage_dir: StageDir, data_root: Path, *, partial: bool = False, judge: Judge | None = None
) -> dict[str, Any]:
    """Score the saved answers of one benchmark; needs no model.

    Args:
        benchmark: The benchmark.
        stage_dir: With `predictions/`; submission files are written beside it.
        data_root: Where the benchmark's files are.
        partial: Score incomplete answers.
        judge: Asked where the benchmark needs one.

    Raises:
        BenchmarkDataError: Files or answers do not fit.
        UsageError: There are no answers.
    """
    file = answers_file(stage_dir.predictions, benchmark.name)
    rows = read_rows(file)
    if not rows:
        raise UsageError(
            f"{benchmark.name}: no answers in {file}", hint=f"croc eval --benchmark {benchmark.name} makes them"
        )
    records = benchmark.read(data_root)
    answered, texts = match_answers(benchmark, records, rows, partial=partial)
    if not answered:
        raise UsageError(f"{benchmark.name}: none of the answers in {file} belongs to a question of this data")
    entry: dict[str, Any] = {
        "metric": benchmark.metric,
        "variant": benchmark.variant or "primary",
        "num_questions": len(records),
        "num_answered": len(answered),
        "share_scored": len(answered) / len(records),
    }
    submission = benchmark.submission(answered, texts)
    if submission is not None:
        entry["submission"] = str(write_submission(benchmark, submission, stage_dir))
    score, scored = _score(benchmark, answered, texts, entry, judge)
    if score is None:
        entry |= {"value": None, "note": "the labels are at the benchmark's server; upload the submission file"}
    else:
        score = benchmark.headline_of(score)
        interval = score.interval()
        entry["items"] = str(write_items(benchmark, scored, score.per_item, stage_dir))
        entry |= {
            "metric": score.metric,
            "value": score.value,
            "interval_95": list(interval) if interval else None,
            "parts": dict(score.parts),
            "variants": {name: headline.value for name, headline in score.variants.items()},
            "num_unparsable": score.num_unparsable,
        }
    entry["made_by"] = read_json(stage_dir.predictions / f"{benchmark.name}.made_by.json") | {
        "questions_sha256_now": questions_sha256(records),
        "answers_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    return entry


def _score(
    benchmark: Benchmark, records: Sequence[Record], texts: Sequence[str], entry: dict[str, Any], judge: Judge | None
) -> tuple[Score | None, Sequence[Answered]]:
    """Return the score, None where labels are hidden, and the answers that are in it."""
    answered = list(zip(records, texts, strict=True))
    if isinstance(benchmark, JudgedBenchmark) and judge is not None:
        replies, about = judge(benchmark, records, texts)
        entry["judge"] = about
        judged = [one for one, said in zip(answered, replies, strict=True) if said]
        return benchmark.score_replies(records, replies), judged
    if any(record.answer is None for record in records):
        return None, ()
    return benchmark.score(records, texts), answered


def write_items(
    benchmark: Benchmark, scored: Sequence[Answered], per_item: Sequence[float], stage_dir: StageDir
) -> Path:
    """Write each answer with its own score, in the order of the questions."""
    file = stage_dir.root / "items" / f"{benchmark.name}.jsonl"
    rows = (
        {"question_id": record.question_id, "prompt": record.prompt, "text": text, "score": score}
        for (record, text), score in zip(scored, per_item, strict=True)
    )
    write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file


def write_submission(benchmark: Benchmark, rows: list[dict[str, Any]], stage_dir: StageDir) -> Path:
    """Write the file that a benchmark's server takes: a table for MMBench, JSON otherwise."""
    folder = stage_dir.root / "submissions"
    folder.mkdir(parents=True, exist_ok=True)
    if benchmark.name.startswith("mmbench"):
        from openpyxl import Workbook
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

        book = Workbook()
        sheet = book.active
        assert sheet is not None
        sheet.append(list(rows[0]))
        for row in rows:  # a table takes no control characters, which a model may well answer
            sheet.append(
                [ILLEGAL_CHARACTERS_RE.sub("", cell) if isinstance(cell, str) else cell for cell in row.values()]
            )
        file = folder / f"{benchmark.name}.xlsx"
        book.save(file)
        return file
    file = folder / f"{benchmark.name}.json"
    content: Any = rows[0] if benchmark.name == "mmvet" else rows
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return file


def write_results(stage_dir: StageDir, entries: dict[str, dict[str, Any]], *, model: dict[str, Any]) -> Path:
    """Write results.json; benchmarks scored before keep their entries where the model is the same."""
    before = read_json(stage_dir.results_file)
    kept = before.get("benchmarks", {}) if before.get("model") == model else {}
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "numpy", "pillow")}
    versions = {"croc": __version__, "python": platform.python_version(), **packages}
    write_json(stage_dir.results_file, {"model": model, "versions": versions, "benchmarks": {**kept, **entries}})
    return stage_dir.results_file
