"""Runs side by side, and the published numbers beside them, never mixed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from croc_cli.benchmarks.registry import NAMES, benchmarks
from croc_cli.errors import UsageError
from croc_cli.run_dir import read_json

TableFormat = Literal["text", "md", "csv", "json"]


@cache
def published() -> dict[str, Any]:
    """Return the published numbers: `tables` and, by model, the table and one number for each benchmark."""
    content: dict[str, Any] = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    return content


def read_scores(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the benchmarks' entries of a run's results.json.

    Args:
        run_dir: A run folder, its `benchmarks` folder, or a folder with a results.json of its own.

    Raises:
        UsageError: There are no results.
    """
    for folder in (run_dir / "benchmarks", run_dir):
        entries = read_json(folder / "results.json").get("benchmarks")
        if isinstance(entries, Mapping) and any(name in entries for name in NAMES):
            return {name: dict(entry) for name, entry in entries.items() if name in NAMES}
    raise UsageError(f"{run_dir} holds no benchmark scores", hint=f"croc eval score {run_dir} makes them")


def comparison_rows(runs: Mapping[str, Mapping[str, Mapping[str, Any]]], *, paper: bool) -> list[list[str]]:
    """Return a table: one row for each benchmark, one column for each run, then the published numbers.

    A score has its 95 % interval behind it; one of fewer questions than the benchmark has says how many.
    """
    models = list(published()["models"]) if paper else []
    rows = [["benchmark", "metric", *runs, *(f"{model} (published)" for model in models)]]
    for name in NAMES:
        if not paper and not any(name in entries for entries in runs.values()):
            continue
        benchmark = benchmarks()[name]
        cells = [format_score(entries.get(name)) for entries in runs.values()]
        numbers = [_number(published()["models"][model].get(name)) for model in models]
        rows.append([benchmark.title, benchmark.metric, *cells, *numbers])
    return rows


def format_score(entry: Mapping[str, Any] | None) -> str:
    """Return a score with its interval, such as `86.9 [86.1, 87.6]`."""
    if entry is None:
        return "–"
    value, interval = entry.get("value"), entry.get("interval_95")
    if value is None:
        return "at the server"
    text = _number(value)
    if interval:
        text += f" [{_number(interval[0])}, {_number(interval[1])}]"
    if entry.get("num_answered") != entry.get("num_questions"):
        text += f" ({entry['num_answered']} of {entry['num_questions']})"
    return text


def warnings(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return what makes columns hard to compare: other questions or another judge behind the same name."""
    found = []
    for name in NAMES:
        entries = {run: scores[name] for run, scores in runs.items() if name in scores}
        asked = {str(entry.get("made_by", {}).get("questions_sha256")) for entry in entries.values()}
        judges = {str(entry.get("judge", {}).get("model")) for entry in entries.values()}
        if len(asked) > 1:
            found.append(f"{name}: the runs answered different questions")
        if len(judges) > 1:
            found.append(f"{name}: the runs were scored by different judges: {', '.join(sorted(judges))}")
    return found


def format_rows(rows: Sequence[Sequence[str]], form: TableFormat) -> str:
    """Return a table as Markdown, CSV, JSON, or plain aligned text."""
    if form == "md":
        head, *body = rows
        lines = [head, ["---"] * len(head), *body]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if form == "csv":
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows(rows)
        return stream.getvalue().rstrip("\n")
    if form == "json":
        head, *body = rows
        return json.dumps([dict(zip(head, row, strict=True)) for row in body], ensure_ascii=False, indent=2)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines_of_text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines_of_text)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
