"""Which answer belongs to which question: by id and by what was asked, and refused where they do not fit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError
from croc_cli.benchmarks.prompts import shown
from croc_cli.words import counted

_SHOWN = 10


@dataclass
class _Matched:
    """Answers by record key, and what does not fit."""

    texts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    prompts: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    contradicted: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)


def match_answers(
    benchmark: Benchmark,
    records: Sequence[Record],
    rows: Sequence[Mapping[str, Any]],
    *,
    partial: bool = False,
    limit: int | None = None,
) -> tuple[list[Record], list[str]]:
    """Match answer rows with the questions that they answer.

    Args:
        benchmark: Whose records these are.
        records: All of them.
        rows: Of an answer file in LLaVA's format; a row whose text is null is not an answer.
        partial: Score what is there, instead of refusing an incomplete file.
        limit: Only the questions of `limit_records` are scored.

    Returns:
        The answered records in their order, as their answers' prompts asked them, and the answers.

    Raises:
        BenchmarkDataError: Answers are missing or unknown, one question has two different answers, or answers are to
            other questions; with counts and the first ten. Only missing and unknown ones can be left out of a score.
    """
    found = _match(benchmark, records, rows)
    where = f"{benchmark.name}: the answers do not fit the {counted(len(records), 'question')}"
    if found.ambiguous:
        raise BenchmarkDataError(
            f"{where}: {_counted(found.ambiguous)} without `prompt`, though several questions have that id",
            hint="keep the prompt beside each answer, as LLaVA does",
        )
    if found.contradicted:
        raise BenchmarkDataError(
            f"{where}: {_counted(found.contradicted, 'repeated with another text')}",
            hint="keep one answer to each question",
        )
    asked = {record.key: _as_asked(benchmark, record, found) for record in records if record.key in found.texts}
    _refuse_other_questions(benchmark, records, asked, found)
    wanted = records if limit is None else limit_records(benchmark, records, limit)
    missing = [record.key for record in wanted if record.key not in found.texts]
    problems = {"missing": missing, "repeated": found.repeated, "unknown": found.unknown}
    said = [_counted(keys, kind) for kind, keys in problems.items() if keys]
    if said and not partial:
        raise BenchmarkDataError(f"{where}: {'; '.join(said)}", hint=_hint(found))
    answered = [record for record in wanted if record.key in found.texts]
    waiting = {key: iter(texts) for key, texts in found.texts.items()}
    # The same question has the same greedy answer, so one answer serves where it was asked once.
    texts = [next(waiting[record.key], found.texts[record.key][-1]) for record in answered]
    return [_of_split(asked[record.key] or record, record, len(wanted)) for record in answered], texts


def limit_records(benchmark: Benchmark, records: Sequence[Record], limit: int) -> list[Record]:
    """Return about `limit` records spread evenly over all of them, those of one unit together; never none."""
    units = list(dict.fromkeys(benchmark.unit(record) for record in records))
    count = min(len(units), max(1, limit * len(units) // max(1, len(records))))
    chosen = {units[index * len(units) // count] for index in range(count)}
    return [record for record in records if benchmark.unit(record) in chosen]


def fits(benchmark: Benchmark, records: Sequence[Record], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether every answer is to one of these questions, so that more answers can be added to them."""
    try:
        match_answers(benchmark, records, rows, partial=True)
    except BenchmarkDataError:
        return False
    return not _match(benchmark, records, rows).unknown


def _match(benchmark: Benchmark, records: Sequence[Record], rows: Sequence[Mapping[str, Any]]) -> _Matched:
    known = Counter(record.key for record in records)
    by_id: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for name in (record.question_id, *record.extra.get("aliases", ())):
            by_id[str(name)].add(record.key)
    found = _Matched()
    for row in rows:
        if row["text"] is None:
            continue
        key, prompt, text = benchmark.row_key(row), row.get("prompt") or "", _text(benchmark, row)
        same_id = by_id.get(str(row["question_id"]), set())
        if key not in known and len(same_id) == 1:
            [key] = same_id
        if key not in known:
            (found.ambiguous if same_id and not prompt else found.unknown).append(key)
        elif len(found.texts[key]) < known[key]:
            found.texts[key].append(text)
            found.prompts.setdefault(key, str(prompt))
        else:
            (found.repeated if text in found.texts[key] else found.contradicted).append(key)
    return found


def _text(benchmark: Benchmark, row: Mapping[str, Any]) -> str:
    text = row["text"]
    if isinstance(text, str | int | float):
        return str(text)
    raise BenchmarkDataError(
        f"{benchmark.name}: the answer to question {row['question_id']} is {shown(repr(text))}, expected text"
    )


def _as_asked(benchmark: Benchmark, record: Record, found: _Matched) -> Record | None:
    prompt = found.prompts[record.key]
    return benchmark.as_asked(record, prompt) if prompt else record


def _refuse_other_questions(
    benchmark: Benchmark, records: Sequence[Record], asked: Mapping[str, Record | None], found: _Matched
) -> None:
    others = [record for record in records if record.key in asked and asked[record.key] is None]
    if not others or _is_placeholder(found.prompts.values()):
        return
    first = others[0]
    keys = list(dict.fromkeys(record.key for record in others))
    raise BenchmarkDataError(
        f"{benchmark.name}: {len(keys):,} answers are to other questions: question {first.question_id} was "
        f"{shown(found.prompts[first.key])}, and is {shown(first.prompt)} here ({', '.join(keys[:_SHOWN])})",
        hint="score them with the data and the variant that they were made with: --data ROOT, --variant NAME=VARIANT",
    )


def _is_placeholder(prompts: Collection[str]) -> bool:
    """Tell whether the prompts beside answers say nothing: one word that is the same in every row."""
    different = set(prompts)
    return len(prompts) > 1 and len(different) == 1 and len(next(iter(different)).split()) == 1


def _of_split(asked: Record, record: Record, num_wanted: int) -> Record:
    """Return a record with its own key and truth, telling how many there are in what is scored."""
    return replace(asked, key=record.key, answer=record.answer, extra={**asked.extra, "num_in_split": num_wanted})


def _hint(found: _Matched) -> str:
    if found.unknown:
        return "another split or variant? --data ROOT and --variant choose it; --partial scores the answers that fit"
    return "answer the rest with the same croc eval command, or score what is there with --partial"


def _counted(keys: Sequence[str], kind: str = "") -> str:
    listed = ", ".join(keys[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")
    return " ".join(part for part in (f"{len(keys):,}", kind, f"({listed})") if part)
