"""From answer files to results.json: scores with intervals, submission files, and all that went in."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from croc_cli import __version__
from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError
from croc_cli.benchmarks.earlier import OTHER_MODELS
from croc_cli.benchmarks.judged import JudgedBenchmark
from croc_cli.benchmarks.matching import match_answers
from croc_cli.benchmarks.predictions import Row, answers_file, answers_sha256, questions_sha256, saved_rows
from croc_cli.benchmarks.score import Score
from croc_cli.benchmarks.written import check_file, hashes_of, known_hashes, put_file
from croc_cli.errors import UsageError
from croc_cli.run_dir import StageDir, read_json, write_json

Answered = tuple[Record, str]
"""A question and what the model said."""
Judge = Callable[[JudgedBenchmark, Sequence[Record], Sequence[str]], tuple[list[list[str]], dict[str, Any]]]
"""Returns the replies about each answer, none where judging failed, and what the result says of the judge."""


def score_benchmark(
    benchmark: Benchmark,
    stage_dir: StageDir,
    data_root: Path,
    *,
    partial: bool = False,
    limit: int | None = None,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Score the saved answers of one benchmark; needs no model, and leaves the answers as they are.

    Args:
        benchmark: The benchmark.
        stage_dir: With `predictions/`; submission files are written beside it.
        data_root: Where the benchmark's files are.
        partial: Score incomplete answers.
        limit: Score these questions alone; see `limit_records`.
        judge: Asked where the benchmark needs one.

    Raises:
        BenchmarkDataError: Files or answers do not fit.
        UsageError: There are no answers.
    """
    records = benchmark.read(data_root)
    rows = saved_rows(stage_dir.predictions, benchmark, records)
    if not rows:
        raise UsageError(
            f"{benchmark.name}: no answers in {answers_file(stage_dir.predictions, benchmark.name)}",
            hint=f"`croc eval --benchmark {benchmark.name}` makes them",
        )
    made_by = read_json(stage_dir.predictions / f"{benchmark.name}.made_by.json")
    if made_by and made_by.get("prompts") != benchmark.prompts.get("prompts"):
        asked = made_by.get("prompts")
        again = f"--variant {benchmark.name}={asked} scores them" if asked else "croc eval --variant asks again"
        raise BenchmarkDataError(
            f"{benchmark.name}: the answers were made with the prompts of the variant {asked or 'primary'}", hint=again
        )
    entry = score_rows(benchmark, records, rows, stage_dir, made_by=made_by, partial=partial, limit=limit, judge=judge)
    entry["made_by"]["answers_sha256"] = answers_sha256(stage_dir.predictions, benchmark.name)
    return entry


def score_rows(
    benchmark: Benchmark,
    records: Sequence[Record],
    rows: Sequence[Row],
    stage_dir: StageDir | None,
    *,
    made_by: Mapping[str, Any],
    partial: bool = False,
    limit: int | None = None,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Score answer rows and return the benchmark's entry in results.json.

    Args:
        benchmark: The benchmark.
        records: Its questions.
        rows: In LLaVA's format.
        stage_dir: Gets `items/` and `submissions/`; None writes nothing.
        made_by: What is kept beside the answers about their making.
        partial: Score incomplete answers.
        limit: Score these questions alone; see `limit_records`.
        judge: Asked where the benchmark needs one.

    Raises:
        BenchmarkDataError: Answers do not fit the questions.
        UsageError: A file would replace one that the user changed or put there.
    """
    now = questions_sha256(records)
    differ = made_by.get("questions_sha256") not in (None, now)
    if differ and not all(row.get("prompt") for row in rows):
        raise BenchmarkDataError(
            f"{benchmark.name}: the answers were made to other questions than these, by the hash kept beside them",
            hint="score answers with the data and the variant that they were made with",
        )
    if stage_dir is not None:  # before a judge is paid for its replies
        for file in (stage_dir.results_file, items_file(benchmark, stage_dir), submission_file(benchmark, stage_dir)):
            if file != stage_dir.results_file or file.is_symlink():
                check_file(file, stage_dir)
    answered, texts = match_answers(benchmark, records, rows, partial=partial, limit=limit)
    if not answered:
        raise UsageError(f"{benchmark.name}: none of the answers belongs to a question of this data")
    entry: dict[str, Any] = {
        "metric": benchmark.metric,
        "variant": benchmark.variant or "primary",
        "num_questions": len(records),
        "num_answered": len(answered),
        "share_scored": len(answered) / len(records),
    }
    if limit is not None:
        entry["limit"] = limit
    if differ:
        entry["note"] = "labels or number of questions differ from when the answers were made"
    submission = benchmark.submission(answered, texts) if stage_dir is not None else None
    if stage_dir is not None and submission is not None:
        entry["submission"] = str(write_submission(benchmark, submission, stage_dir))
    score, scored = _score(benchmark, answered, texts, entry, judge)
    if score is None:
        entry |= {"value": None, "note": "the labels are at the benchmark's server"}
    else:
        score = benchmark.headline_of(score)
        interval = score.interval()
        if stage_dir is not None:
            entry["items"] = str(write_items(benchmark, scored, score.per_item, stage_dir))
            if (example := benchmark.example(answered, texts)) is not None:
                picture, said = example
                file = put_file(stage_dir.root / "example.png", picture.read(), stage_dir)
                entry["example"] = {"image": str(file), **said}
        entry |= {
            "metric": score.metric,
            "value": score.value,
            "interval_95": list(interval) if interval else None,
            "parts": dict(score.parts),
            "variants": {name: headline.value for name, headline in score.variants.items()},
            "num_unparsable": score.num_unparsable,
        }
    entry["made_by"] = {**made_by, "questions_sha256_now": now}
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


def items_file(benchmark: Benchmark, stage_dir: StageDir) -> Path:
    """Return where each answer stands with its own score."""
    return stage_dir.root / "items" / f"{benchmark.name}.jsonl"


def submission_file(benchmark: Benchmark, stage_dir: StageDir) -> Path:
    """Return the place of the file that a benchmark's server takes."""
    ending = "xlsx" if benchmark.name.startswith("mmbench") else "json"
    return stage_dir.root / "submissions" / f"{benchmark.name}.{ending}"


def write_items(
    benchmark: Benchmark, scored: Sequence[Answered], per_item: Sequence[float | None], stage_dir: StageDir
) -> Path:
    """Write each answer that counts with the expected one and its own score, in the order of the questions.

    Questions that belong together name their `unit`; see `Benchmark.unit`.
    """
    file = items_file(benchmark, stage_dir)
    rows = (
        {
            "question_id": record.question_id,
            "picture": record.picture.name if record.picture is not None else None,
            **({"pictures": [picture.name for picture in record.pictures]} if record.more_pictures else {}),
            "prompt": record.prompt,
            "expected": record.answer,
            "text": text,
            "score": score,
            **({"unit": unit} if (unit := benchmark.unit(record)) != record.key else {}),
        }
        for (record, text), score in zip(scored, per_item, strict=True)
        if score is not None
    )
    return put_file(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), stage_dir)


def write_submission(benchmark: Benchmark, rows: list[dict[str, Any]], stage_dir: StageDir) -> Path:
    """Write the file that a benchmark's server takes: a table for MMBench, JSON otherwise."""
    file = submission_file(benchmark, stage_dir)
    if file.suffix == ".xlsx":
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
            for cell in sheet[sheet.max_row]:
                if cell.data_type == "f":  # an answer that begins with "=" is no formula
                    cell.data_type = "s"
        table = io.BytesIO()
        book.save(table)
        return put_file(file, table.getvalue(), stage_dir)
    content: Any = rows[0] if benchmark.name == "mmvet" else rows
    return put_file(file, json.dumps(content, ensure_ascii=False), stage_dir)


def write_results(stage_dir: StageDir, entries: dict[str, dict[str, Any]], *, model: dict[str, Any]) -> Path:
    """Write results.json: the scores of one model, those of others that were scored in this folder, hashes of files.

    Args:
        stage_dir: Where it lies.
        entries: By benchmark; the model's others stay.
        model: What was scored.
    """
    before = read_json(stage_dir.results_file)
    others = [one for one in _scored_models(before) if one["model"] != model]
    kept: dict[str, Any] = next((one["benchmarks"] for one in _scored_models(before) if one["model"] == model), {})
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "numpy", "pillow")}
    versions = {"croc": __version__, "python": platform.python_version(), **packages}
    content: dict[str, Any] = {"model": model, "versions": versions, "benchmarks": {**kept, **entries}}
    if others:
        content[OTHER_MODELS] = others
    files = {**known_hashes(before), **hashes_of(entries.values(), stage_dir)}
    write_json(stage_dir.results_file, {**content, "files": files})
    return stage_dir.results_file


def _scored_models(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return model and entries of each model in a results.json, the one that was scored last first."""
    others = results.get(OTHER_MODELS)
    found = [results, *(others if isinstance(others, list) else [])]
    return [
        {"model": one.get("model"), "benchmarks": one["benchmarks"]}
        for one in found
        if isinstance(one, dict) and isinstance(one.get("benchmarks"), dict) and one["benchmarks"]
    ]
