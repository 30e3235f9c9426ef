"""OCRBench: reading texts, scenes, documents, receipts and handwritten formulas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError, take, take_text
from croc_cli.benchmarks.files import read_parquet
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.ocr import ocr_is_right
from croc_cli.benchmarks.tables import read_tsv, texts_of, tsv_pictures
from croc_cli.benchmarks.vlmevalkit import VARIANT

_FORMULA_SET = "HME100k"
_FORMULA_TYPE = "Handwritten Mathematical Expression Recognition"
_GROUPS = {
    "Regular Text Recognition": "recognition",
    "Irregular Text Recognition": "recognition",
    "Artistic Text Recognition": "recognition",
    "Handwriting Recognition": "recognition",
    "Digit String Recognition": "recognition",
    "Non-Semantic Text Recognition": "recognition",
    "Scene Text-centric VQA": "scene text VQA",
    "Doc-oriented VQA": "document VQA",
    "Key Information Extraction": "key information",
    _FORMULA_TYPE: "formulas",
}
"""Type → group: 300, 200, 200, 200 and 100 questions."""


class OcrBench(Benchmark):
    """OCRBench, test (arXiv:2305.07895): right answers, of 1,000, by the authors' rule."""

    name = "ocrbench"
    title = "OCRBench"
    folder = "ocrbench"
    hub_splits = ("test",)
    split = "test"
    size = 1_000
    metric = "score (of 1,000)"
    table = "OCRBench.tsv"
    variants: ClassVar[Mapping[str, str]] = {
        VARIANT: "the same rule, formulas told by the question's type and not by its source; the question unstripped",
    }

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`; a question's id is its row, or its index in VLMEvalKit's table."""
        folder = root / self.folder
        if (rows := read_parquet(folder, *self.hub_splits)) is not None:
            return [
                self._record(str(number), row, (take(row, "image", where),), where)
                for number, row in enumerate(rows)
                for where in [f"{folder}, row {number}"]
            ]
        table = read_tsv(self.find(root, self.table))
        return [
            self._record(str(row["index"]), row | {"question_type": take(row, "category", where)}, pictures, where)
            for (where, row), pictures in zip(table, tsv_pictures(table), strict=True)
        ]

    def _record(self, key: str, row: Mapping[str, Any], pictures: tuple[Any, ...], where: str) -> Record:
        kind = take_text(row, "question_type", where).strip()
        if kind not in _GROUPS:
            raise BenchmarkDataError(f"{where}: question_type {kind[:60]!r}", hint=f"known are {', '.join(_GROUPS)}")
        question = take_text(row, "question", where)
        source = row.get("dataset")
        extra = {"type": kind, "is_formula": kind == _FORMULA_TYPE if source is None else source == _FORMULA_SET}
        prompt = question if self.variant == VARIANT else question.strip()
        answers = texts_of(take(row, "answer", where), f"{where}: answer")
        question_id = int(key) if key.isdecimal() else key
        return Record(key, question_id, prompt, pictures[0], answers, extra)

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """See `Benchmark.score`."""
        pairs = list(zip(records, answers, strict=True))
        official = [_is_right(record, text, is_formula=record.extra["is_formula"]) for record, text in pairs]
        kit = [_is_right(record, text, is_formula=record.extra["type"] == _FORMULA_TYPE) for record, text in pairs]
        hits = kit if self.variant == VARIANT else official
        return Score(
            self.metric,
            Headline.mean(official, scale=len(official)),
            hits,
            {
                "per_group": _counts(hits, [_GROUPS[record.extra["type"]] for record in records]),
                "per_type": _counts(hits, [record.extra["type"] for record in records]),
            },
            num_unparsable=sum(not text.strip() for text in answers),
            variants={VARIANT: Headline.mean(kit, scale=len(kit))},
        )


def _is_right(record: Record, text: str, *, is_formula: bool) -> float:
    return float(ocr_is_right(text, record.answer, is_formula=is_formula))


def _counts(hits: Sequence[float], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return right answers and questions by name."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: {"right": 0, "questions": 0})
    for hit, name in zip(hits, names, strict=True):
        found[name]["right"] += int(hit)
        found[name]["questions"] += 1
    return dict(found)
