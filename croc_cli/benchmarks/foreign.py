"""Answers from elsewhere: LLaVA's files, lmms-eval's samples and plain files of ids and answers, as rows to score."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError, parse_json, read_json_lines, read_text, take_object
from croc_cli.benchmarks.prompts import same_question
from croc_cli.words import counted

ID_KEYS = ("question_id", "questionId", "id", "index", "qid", "doc_id", "image")
TEXT_KEYS = ("text", "prediction", "response", "output", "pred", "generated_text", "answer")
"""An `answer` beside a prediction is the truth, so that it comes last."""
PROMPT_KEYS = ("prompt", "question", "input")
_LISTS = ("answers", "predictions", "results", "data", "samples")
_QUOTE = "put a text with quotes, commas or line ends into quotes, and double the quotes inside"
_RESPONSES = ("resps", "filtered_resps")

_Placed = tuple[str, Mapping[str, Any]]
"""A row and its place, for messages."""


@dataclass(frozen=True)
class ForeignAnswers:
    """What an answer file from elsewhere holds.

    Attributes:
        rows: With `question_id`, `text` and, where the file tells it, `prompt`.
        form: Whose form the file has.
        keys: Which of its keys were taken, by what they were taken for.
    """

    rows: list[dict[str, Any]]
    form: str
    keys: Mapping[str, str]

    def describe(self) -> str:
        """Return in words what was taken."""
        taken = ", ".join(f"{key} as {meaning}" for meaning, key in self.keys.items())
        return f"{counted(len(self.rows), 'row')} in {self.form} form, {taken}"


def read_foreign(file: Path, benchmark: Benchmark, records: Sequence[Record]) -> ForeignAnswers:
    """Read an answer file of any known form; the file is left as it is.

    Args:
        file: JSON lines, a JSON list, a JSON object of answers by id, CSV or TSV.
        benchmark: What the answers are to.
        records: Its questions.

    Raises:
        BenchmarkDataError: The file holds no answers in a form that is known; says which row and what it has.
    """
    rows = _placed_rows(file)
    if not rows:
        raise BenchmarkDataError(f"{file} holds no answers")
    first = rows[0][1]
    if any(name in first for name in _RESPONSES):
        return _samples(rows, benchmark, records)
    keys = {
        "id": _key_of(rows[0], ID_KEYS, "id"),
        "answer": _key_of(rows[0], TEXT_KEYS, "answer"),
    }
    if prompt := next((name for name in PROMPT_KEYS if isinstance(first.get(name), str)), None):
        keys["question"] = prompt
    form = "LLaVA's" if (keys["id"], keys["answer"]) == ("question_id", "text") else "a plain"
    taken = []
    for where, row in rows:
        for name in (keys["id"], keys["answer"]):
            if name not in row:
                raise BenchmarkDataError(f"{where}: no {name!r}, which the first row has", hint=_has(row))
        one = {"question_id": row[keys["id"]], "text": row[keys["answer"]]}
        taken.append(one | ({"prompt": row.get(prompt)} if prompt else {}))
    return ForeignAnswers(taken, form, keys)


def _placed_rows(file: Path) -> list[_Placed]:
    if file.suffix.lower() in (".csv", ".tsv"):
        return _table_rows(file)
    text = read_text(file)
    start = text.lstrip()[:1]
    if start == "[" or (start == "{" and file.suffix.lower() == ".json"):
        content = parse_json(text, file)
        if isinstance(content, dict):
            content = next((content[name] for name in _LISTS if isinstance(content.get(name), list)), content)
        if isinstance(content, dict):
            content = [{"id": name, "answer": said} for name, said in content.items()]
        places = ((f"{file}, row {number}", row) for number, row in enumerate(content, start=1))
        return [(where, take_object(row, where)) for where, row in places]
    return list(read_json_lines(file))


def _table_rows(file: Path) -> list[_Placed]:
    """Return the rows of a CSV or TSV.

    Raises:
        BenchmarkDataError: A stray quote takes lines together, or a line has more or fewer cells than columns.
    """
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    text = read_text(file)
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[_Placed] = []
    names: list[str] = []
    line = 1
    try:
        for cells in reader:
            where, line = f"{file}, line {line}", reader.line_num + 1
            if not names:
                names = cells
            elif cells and len(cells) != len(names):
                raise BenchmarkDataError(
                    f"{where}: {counted(len(cells), 'cell')}, {counted(len(names), 'column')}", hint=_QUOTE
                )
            elif any(_swallows(cell, delimiter, len(names)) for cell in cells):
                raise BenchmarkDataError(f"{where}: a quote opens a cell that ends at line {line - 1}", hint=_QUOTE)
            elif cells:
                rows.append((where, dict(zip(names, cells, strict=True))))
    except csv.Error as error:
        raise BenchmarkDataError(f"{file}, line {line}: {error}", hint=_QUOTE) from error
    return rows


def _swallows(cell: str, delimiter: str, width: int) -> bool:
    """Tell whether a cell holds lines of which each looks like a row of the table."""
    inside = cell.splitlines()[1:-1]
    return bool(inside) and all(line.count(delimiter) == width - 1 > 0 for line in inside)


def _key_of(row: _Placed, names: Sequence[str], meaning: str) -> str:
    found = next((name for name in names if name in row[1]), None)
    if found is None:
        raise BenchmarkDataError(f"{row[0]}: no {meaning}: none of {', '.join(names)}", hint=_has(row[1]))
    return found


def _has(row: Mapping[str, Any]) -> str:
    return f"it has {', '.join(map(str, list(row)[:10])) or 'no keys'}"


def _samples(rows: Sequence[_Placed], benchmark: Benchmark, records: Sequence[Record]) -> ForeignAnswers:
    """Return lmms-eval's samples as rows; ids are those of its documents, or the documents' order where they fit."""
    said = next(name for name in _RESPONSES if name in rows[0][1])
    by_id = {str(name): record for record in records for name in (record.question_id, *record.extra.get("aliases", ()))}
    taken: list[dict[str, Any]] = []
    is_by_order = False
    for where, row in rows:
        name = _document_id(row, benchmark)
        record = by_id.get(str(name)) if name is not None else None
        if name is None:
            record, is_by_order = _in_order(row, records, where), True
            name = record.question_id
        prompts = _prompts(row)
        asked = [prompt for prompt in prompts if record is not None and benchmark.as_asked(record, prompt) is not None]
        if is_by_order and record is not None and not (asked and _same_target(row, record)):
            raise BenchmarkDataError(
                f"{where}: document {row.get('doc_id')} is another question than number {row.get('doc_id')} here",
                hint="the samples name no question ids, and the documents' order is not that of these files",
            )
        prompt = next(iter([*asked, *prompts]), "")
        taken.append({"question_id": name, "prompt": prompt, "text": _first_text(row.get(said))})
    keys = {"id": "doc_id" if is_by_order else "doc's id", "answer": said, "question": "input and doc"}
    return ForeignAnswers(taken, "lmms-eval's", keys)


def _document_id(row: Mapping[str, Any], benchmark: Benchmark) -> Any:
    document = row.get("doc")
    if isinstance(document, Mapping) and (name := benchmark.document_id(document)) is not None:
        return name
    figures = (value for value in row.values() if isinstance(value, Mapping))
    return next((value["question_id"] for value in figures if value.get("question_id") is not None), None)


def _in_order(row: Mapping[str, Any], records: Sequence[Record], where: str) -> Record:
    number = row.get("doc_id")
    if not isinstance(number, int) or not 0 <= number < len(records):
        raise BenchmarkDataError(f"{where}: no question id, and doc_id {number!r} is no place among {len(records):,}")
    return records[number]


def _prompts(row: Mapping[str, Any]) -> list[str]:
    document = row.get("doc")
    found = [row.get("input"), _first_text(row.get("arguments"))]
    if isinstance(document, Mapping):
        found.append(document.get("question"))
    return [prompt for prompt in found if isinstance(prompt, str) and prompt.strip()]


def _same_target(row: Mapping[str, Any], record: Record) -> bool:
    """Tell whether a sample's truth is the record's, as far as both are single words."""
    target, answer = row.get("target"), record.answer
    if not isinstance(target, str) or not isinstance(answer, str):
        return True
    return same_question(target, answer)


def _first_text(value: Any) -> Any:
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else None
