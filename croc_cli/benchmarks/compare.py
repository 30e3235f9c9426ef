"""Runs side by side, and the published numbers beside them, never mixed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from croc_cli.benchmarks import paired
from croc_cli.benchmarks.decode import BenchmarkDataError, read_json, take_object
from croc_cli.benchmarks.earlier import earlier_entry, scenes_entry
from croc_cli.benchmarks.registry import EVERY, SCENES, benchmarks
from croc_cli.errors import UsageError
from croc_cli.run_dir import RunDir
from croc_cli.words import counted, table_cell

TableFormat = Literal["text", "md", "csv", "json"]


@cache
def published() -> dict[str, Any]:
    """Return the published numbers: `tables`, and by model the table and one number for each benchmark.

    `variants` names by table the benchmarks' variants that its numbers are comparable with, where that is not primary.
    """
    content: dict[str, Any] = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    return content


def published_notes() -> list[str]:
    """Return what is to be known of tables whose numbers stand beside another variant than the primary one."""
    return [f"{table}: {published()['tables'][table]}" for table in published()["variants"]]


def read_scores(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the benchmarks' entries of a run's results.json.

    Args:
        run_dir: A run folder, its `benchmarks` folder, or a folder with a results.json of its own.

    Raises:
        UsageError: There are no results, or they are damaged; the file is named.
    """
    for file in (run_dir / "benchmarks" / "results.json", run_dir / "results.json"):
        if file.is_file() and (entries := read_entries(file)):
            return entries
    if earlier := scenes_entry(RunDir(run_dir)):
        return {SCENES: _checked(earlier, str(run_dir))}
    raise UsageError(
        f"{run_dir} holds no benchmark scores", hint=f"`croc eval score {run_dir}` makes them, from saved answers"
    )


def read_entries(file: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a results.json, those of known benchmarks; none where it holds none.

    Raises:
        BenchmarkDataError: The file is damaged; says which benchmark and value.
    """
    content = take_object(read_json(file), str(file))
    entries = take_object(content.get("benchmarks", {}), f"{file}, benchmarks")
    found = {}
    for name in EVERY:
        if name in entries:
            entry = take_object(entries[name], f"{file}, {name}")
            whole = earlier_entry(content) if name == SCENES and "parts" not in entry else entry
            found[name] = _checked(whole, f"{file}, {name}")
    return found


_FIGURES = ("value", "num_questions", "num_answered", "num_unparsable", "limit")

_MOST = 1e15  # beyond every figure here; what is not finite is not below it either


def _checked(entry: dict[str, Any], where: str) -> dict[str, Any]:
    """Return an entry whose figures are figures.

    Raises:
        BenchmarkDataError: One is not.
    """
    interval = entry.get("interval_95")
    pair = interval if isinstance(interval, list) and len(interval) == 2 else [interval]
    wrong = [
        key
        for key in ("value", "num_questions", "num_answered", "num_unparsable", "limit")
        if not _is_figure(entry.get(key))
    ]
    wrong += [] if all(_is_figure(one) for one in pair) and (interval is None or len(pair) == 2) else ["interval_95"]
    wrong += [key for key in ("made_by", "judge") if not isinstance(entry.get(key, {}), dict)]
    wrong += [key for key in ("metric", "variant") if not isinstance(entry.get(key, ""), str)]
    if wrong:
        shown = json.dumps(entry.get(wrong[0]))[:60]
        raise BenchmarkDataError(
            f"{where}: {wrong[0]} is {shown}", hint="croc eval score writes the scores again, from saved answers"
        )
    return entry


def is_whole(entry: dict[str, Any]) -> bool:
    """Tell whether an entry's figures are figures."""
    try:
        _checked(entry, "")
    except BenchmarkDataError:
        return False
    return True


def _is_figure(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST)


def comparison_rows(
    runs: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    paper: bool,
    models: Sequence[str] | None = None,
    pairs: Mapping[str, paired.Paired] | None = None,
) -> list[list[str]]:
    """Return a table: one row for each benchmark and variant, one column for each run, then the published numbers.

    A score has its 95 % interval behind it, and what it is of where that is not every question. Scores of different
    variants stand in different rows; published numbers stand beside scores of the variant that they are comparable
    with, which say how many questions they are of.

    Args:
        runs: The entries of each run, by its label.
        paper: Add the published numbers, and the benchmarks that no run has a score of.
        models: Which published models; None for all.
        pairs: Of two runs, their common questions by benchmark; the paired tests get columns of their own.
    """
    columns = [model for model in published()["models"] if models is None or model in models] if paper else []
    tests = paired.HEAD if pairs else ()
    rows = [["benchmark", "metric", *runs, *tests, *(f"{model} (published)" for model in columns)]]
    for name in EVERY:
        benchmark = benchmarks()[name]
        own = list(dict.fromkeys(_variant(entries[name]) for entries in runs.values() if name in entries))
        known = {_published_variant(model, name) for model in columns if name in published()["models"][model]}
        for variant in sorted({*own, *known}, key=lambda one: (one != "primary", one)):
            chosen = [entries.get(name) for entries in runs.values()]
            chosen = [entry if entry is not None and _variant(entry) == variant else None for entry in chosen]
            metric = benchmark.metric_of(variant)
            cells = [format_score(entry, of=benchmark.size if variant in known else None) for entry in chosen]
            numbers = [
                published()["models"][model].get(name) if _published_variant(model, name) == variant else None
                for model in columns
            ]
            both = pairs.get(name) if pairs and own and variant == own[0] else None
            tested = both.cells() if both is not None else ["–"] * len(tests)
            rows.append([benchmark.title, metric, *cells, *tested, *map(_number, numbers)])
    return rows


def _published_variant(model: str, name: str) -> str:
    """Return the variant of a benchmark that a published number is comparable with."""
    of_table: dict[str, str] = published()["variants"].get(published()["models"][model]["table"], {})
    return of_table.get(name, "primary")


def _variant(entry: Mapping[str, Any]) -> str:
    return entry.get("variant") or "primary"


def format_score(entry: Mapping[str, Any] | None, *, of: int | None = None) -> str:
    """Return a score with its interval, such as `86.9 [86.1, 87.6]`, and what stands in its way of being compared.

    Args:
        entry: Of results.json; None where there is none.
        of: Questions of the benchmark behind a published number that stands beside it.
    """
    if entry is None:
        return "–"
    value, interval = entry.get("value"), entry.get("interval_95")
    if value is None:
        return "at the server"
    text = _number(value)
    if interval:
        text += f" [{_number(interval[0])}, {_number(interval[1])}]"
    answered, asked = entry.get("num_answered"), entry.get("num_questions")
    notes = [f"--limit {entry['limit']}"] if entry.get("limit") else []
    if of is not None and answered is not None:
        notes.append(f"{answered:,} of {of:,} questions" if answered != of else f"{counted(answered, 'question')}")
    elif answered is not None and asked is not None and answered != asked:
        notes.append(f"{answered:,} of {asked:,}")
    if unread := entry.get("num_unparsable"):
        notes.append(f"{unread:,} of {answered:,} answers unreadable" if answered else f"{unread:,} answers unreadable")
    return f"{text} ({'; '.join(notes)})" if notes else text


def warnings(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return what makes columns hard to compare: other questions, variants or judges behind the same name."""
    found = []
    for name in EVERY:
        entries = {run: scores[name] for run, scores in runs.items() if name in scores}
        variants = {_variant(entry) for entry in entries.values()}
        if len(variants) > 1:
            found.append(f"{name}: the runs were scored in different variants: {', '.join(sorted(variants))}")
        # Folders of earlier versions kept no hash of their questions, and counted those of scenes in another way.
        asked = {asked for entry in entries.values() if (asked := _questions(entry))[0]}
        judges = {str(entry.get("judge", {}).get("model")) for entry in entries.values()}
        if len(asked) > 1:
            found.append(f"{name}: the runs answered different questions")
        if len(judges) > 1:
            found.append(f"{name}: the runs were scored by different judges: {', '.join(sorted(judges))}")
    return found


def _questions(entry: Mapping[str, Any]) -> tuple[str, Any]:
    """Return what tells which questions a score is of: their hash, empty where it is unknown, and how many."""
    made_by = entry.get("made_by", {})
    return str(made_by.get("questions_sha256_now") or made_by.get("questions_sha256") or ""), entry.get("num_answered")


def format_rows(rows: Sequence[Sequence[str]], form: TableFormat) -> str:
    """Return a table as Markdown, CSV, JSON, or plain aligned text."""
    if form == "md":
        head, *body = rows
        lines = [head, ["---"] * len(head), *body]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if form == "csv":
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([table_cell(cell) for cell in row] for row in rows)
        return stream.getvalue().rstrip("\n")
    if form == "json":
        head, *body = rows
        return json.dumps([dict(zip(head, row, strict=True)) for row in body], ensure_ascii=False, indent=2)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines_of_text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines_of_text)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
