"""MMMU: college questions of thirty subjects, up to seven pictures each, with options or open."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError, take, take_text
from croc_cli.benchmarks.files import Picture, read_parquet
from croc_cli.benchmarks.prompts import LETTER_ANSWER, SHORT_ANSWER
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.choices import LETTERS
from croc_cli.benchmarks.scorers.mmmu import mmmu_letter, mmmu_open_is_right
from croc_cli.benchmarks.tables import is_missing, read_tsv, texts_of, tsv_pictures
from croc_cli.benchmarks.vlmevalkit import ABOUT, VARIANT, choice_prompt, options_of_row, read_by_kit
from croc_cli.hub_clone import clone_files
from croc_cli.names import IMAGE_TOKEN

GUESS_SEED = 42
"""Of the letter that stands for a choice that cannot be read; MMMU's script seeds its generator with the same."""
_SPLIT = "validation"
_IMAGE_COLUMNS = tuple(f"image_{number}" for number in range(1, 8))
_IMAGE = re.compile(r"<image (\d+)>")
_ID = re.compile(r"[a-z]+_(.+)_\d+")
_HIDDEN = "?"
"""What stands for the answer of a question whose label is hidden."""
DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
_DOMAIN_OF = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}

_Row = tuple[str, str, Mapping[str, Any], dict[int, Picture]]
"""Place for messages, id, fields and the pictures by number."""


class Mmmu(Benchmark):
    """MMMU, validation (arXiv:2311.16502): accuracy by the authors' rule, asked as lmms-eval asks.

    The rule guesses a letter where a choice cannot be read. Here the guess depends on GUESS_SEED and the question's id
    alone, so that it is the same in any order of questions.
    """

    name = "mmmu"
    title = "MMMU"
    folder = "mmmu"
    hub_splits = (_SPLIT,)
    split = _SPLIT
    size = 900
    metric = "accuracy"
    table = "MMMU_DEV_VAL.tsv"
    asks_otherwise = frozenset({VARIANT})
    variants: ClassVar[Mapping[str, str]] = {
        VARIANT: f"{ABOUT}; pictures stand within the text; open questions have two options, the answer and another",
    }

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`; from the one file of lmms-lab, a folder for each subject, or VLMEvalKit's table."""
        return [self._record(*row) for row in self._rows(root)]

    def lacks(self, root: Path) -> list[str]:
        """See `Benchmark.lacks`; of a clone by subject, the subjects that are not there."""
        files = clone_files(root / self.folder, ".parquet")
        here = {file.config for file in files if file.is_of(_SPLIT)}
        if not here & set(_DOMAIN_OF):
            return super().lacks(root)
        return [f"{subject}/{_SPLIT}-*.parquet" for subject in _DOMAIN_OF if subject not in here]

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """See `Benchmark.score`."""
        official, num_guessed = [], 0
        for record, answer in zip(records, answers, strict=True):
            if not record.extra["options"]:
                official.append(float(mmmu_open_is_right(answer, texts_of(record.answer, record.key))))
                continue
            letter = mmmu_letter(answer, record.extra["options"])
            num_guessed += letter is None
            official.append(float((letter or guessed_letter(record)) == record.answer))
        kit = read_by_kit(records, answers)
        hits = kit.hits if self.variant == VARIANT else official
        return Score(
            self.metric,
            Headline.mean(official),
            hits,
            {
                "per_domain": _means(hits, [record.extra["domain"] for record in records]),
                "per_subject": _means(hits, [record.extra["subject"] for record in records]),
                "per_type": _means(
                    hits, ["multiple-choice" if record.extra["options"] else "open" for record in records]
                ),
                "num_guessed": num_guessed,
            },
            num_unparsable=kit.num_unresolved if self.variant == VARIANT else num_guessed,
            variants={VARIANT: Headline.mean(kit.hits)},
        )

    def _rows(self, root: Path) -> Iterator[_Row]:
        folder = root / self.folder
        files = clone_files(folder, ".parquet")
        if not files:
            yield from _table_rows(self.find(root, self.table))
            return
        here = {file.config for file in files if file.is_of(_SPLIT)}
        by_subject: list[str | None] = [subject for subject in sorted(_DOMAIN_OF) if subject in here]
        for subject in by_subject or [None]:
            rows = read_parquet(folder, _SPLIT, pictures=_IMAGE_COLUMNS, config=subject) or ()
            place = folder / subject if subject else folder
            for number, row in enumerate(rows):
                where = f"{place}, row {number}"
                pictures = {int(column.rpartition("_")[2]): row[column] for column in _IMAGE_COLUMNS if row.get(column)}
                options = texts_of(take(row, "options", where), f"{where}: options")
                fields = row | {"options": dict(zip(LETTERS, options, strict=False))}
                yield where, take_text(row, "id", where), fields, pictures

    def _record(self, where: str, key: str, row: Mapping[str, Any], pictures: Mapping[int, Picture]) -> Record:
        question, options = take_text(row, "question", where), dict(row["options"])
        said = take_text(row, "answer", where).strip()
        if options and said != _HIDDEN and said not in options:
            raise BenchmarkDataError(f"{where}: answer {said[:60]!r}, expected one of {', '.join(options)}")
        if self.variant == VARIANT:
            prompt = choice_prompt(question, options)
        elif options:
            lines = "".join(f"\n{letter}. {option}" for letter, option in options.items())
            prompt = f"{question}{lines}\n{LETTER_ANSWER}"
        else:
            prompt = f"{question}\n{SHORT_ANSWER}"
        if IMAGE_TOKEN in prompt:
            raise BenchmarkDataError(f"{where}: {IMAGE_TOKEN} in the question, which stands for a picture")
        shown = [int(number) for number in _IMAGE.findall(prompt)]
        if self.variant == VARIANT:
            prompt = _IMAGE.sub(IMAGE_TOKEN, prompt)
        else:
            shown = sorted(set(shown))
        for number in shown:
            if number not in pictures:
                raise BenchmarkDataError(f"{where}: the question names <image {number}>, and there is no such picture")
        chosen = [pictures[number] for number in shown or sorted(pictures)]
        subject = _subject(key, row)
        extra = {
            "options": options,
            "gold": said,
            "subject": subject,
            "domain": _DOMAIN_OF.get(subject, "unknown"),
            "question": question,
        }
        answer: Any = said
        if said == _HIDDEN:
            answer = None
        elif not options and len(texts := texts_of(said, f"{where}: answer")) > 1:
            answer = texts
        return Record(key, key, prompt, chosen[0] if chosen else None, answer, extra, tuple(chosen[1:]))


def guessed_letter(record: Record) -> str:
    """Return the letter that stands for a choice that cannot be read: by hash(seed, id), whatever the order."""
    digest = hashlib.sha256(f"{GUESS_SEED} {record.key}".encode()).digest()
    letters: list[str] = list(record.extra["options"])
    return letters[int.from_bytes(digest[:8], "big") % len(letters)]


def _table_rows(file: Path) -> Iterator[_Row]:
    """Yield the rows of the validation split of VLMEvalKit's table."""
    rows = read_tsv(file)
    for (where, row), pictures in zip(rows, tsv_pictures(rows), strict=True):
        if row.get("split") in (None, _SPLIT):
            key = str(row["index"]) if is_missing(row.get("id")) else str(row["id"])
            yield where, key, row | {"options": options_of_row(row)}, dict(enumerate(pictures, start=1))


def _subject(key: str, row: Mapping[str, Any]) -> str:
    """Return the subject, which the id names, or the category of VLMEvalKit's table."""
    match = _ID.fullmatch(key)
    subject = match[1] if match else str(row.get("category") or "unknown").replace(" ", "_")
    return subject if subject in _DOMAIN_OF else "unknown"


def _means(hits: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    groups: dict[str, list[float]] = defaultdict(list)
    for hit, name in zip(hits, names, strict=True):
        groups[name].append(hit)
    return {name: 100 * sum(values) / len(values) for name, values in groups.items()}
