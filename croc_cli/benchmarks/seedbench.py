"""SEED-Bench: multiple choice about pictures and about single frames of videos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import read_json, take, take_list, take_object, take_text
from croc_cli.benchmarks.files import Picture, read_parquet
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.vlmevalkit import ABOUT, VARIANT, choice_prompt, read_by_kit, read_choices

_CHOICES = (("A", "choice_a"), ("B", "choice_b"), ("C", "choice_c"), ("D", "choice_d"))
_RECORDS = "SEED-Bench.json"
_TABLE = "SEEDBench_IMG.tsv"


class SeedBench(Benchmark):
    """SEED-Bench (paper, Table 1): accuracy over pictures and videos, which LLaVA's published figure is."""

    name = "seedbench"
    title = "SEED"
    folder = "seed_bench"
    hub_splits = ("test",)
    split = "image and video"
    size = 19_242
    metric = "accuracy"
    layout = (_RECORDS, "SEED-Bench-image/", "SEED-Bench-video-image/")
    variants: ClassVar[Mapping[str, str]] = {
        "image-only": "the questions about pictures",
        "video-only": "the questions about videos",
        VARIANT: f"SEED-I: the questions about pictures; {ABOUT}",
    }

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`; of a video its middle frame is shown."""
        if self.variant == VARIANT and self.holds(root, _TABLE):
            return [
                replace(record, extra={"data_type": "image", "type": str(record.extra.get("category")), **record.extra})
                for record in read_choices(root / self.folder / _TABLE)
            ]
        if not self.holds(root, _RECORDS) and (rows := read_parquet(root / self.folder, *self.hub_splits)) is not None:
            where = f"{root / self.folder}, row "
            return [_record(row, f"{where}{n}", take(row, "image", f"{where}{n}"), {}) for n, row in enumerate(rows)]
        file = self.find(root, _RECORDS)
        content = read_json(file)
        kinds = take_object(take(content, "question_type", str(file)), f"{file}, question_type")
        types = {str(number): name for name, number in kinds.items()}
        records = []
        for index, row in enumerate(take_list(content, "questions", str(file))):
            where = f"{file}, question {index}"
            kind, data_id = take_text(row, "data_type", where), str(take(row, "data_id", where))
            question_id = str(take(row, "question_id", where))
            if kind == "image":
                path = file.parent / "SEED-Bench-image" / data_id
            else:
                path = file.parent / "SEED-Bench-video-image" / f"{row.get('question_type_id')}_{question_id}.png"
            records.append(_record(row, where, Picture(path.name, path), types))
        return records

    def row_key(self, row: Mapping[str, Any]) -> str:
        """Match by id; LLaVA writes a video's with a "v" before it, unless the file does."""
        return str(row["question_id"])

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """Compare the text with the letter, exactly; see `Benchmark.score`."""
        official = [float(answer == record.answer) for record, answer in zip(records, answers, strict=True)]
        kinds = [record.extra["data_type"] for record in records]
        shares = {
            f"{kind}-only": Headline.mean([hit for hit, other in zip(official, kinds, strict=True) if other == kind])
            for kind in dict.fromkeys(kinds)
        }
        pictured = [index for index, kind in enumerate(kinds) if kind == "image"]
        kit = read_by_kit([records[index] for index in pictured], [answers[index] for index in pictured])
        if pictured:
            shares[VARIANT] = Headline.mean(kit.hits)
        hits: list[float | None] = [*official]
        unparsable = sum(answer not in tuple("ABCD") for answer in answers)
        if self.variant == VARIANT:
            of_picture = dict(zip(pictured, kit.hits, strict=True))
            hits, unparsable = [of_picture.get(index) for index in range(len(records))], kit.num_unresolved
        types: dict[str, list[float]] = defaultdict(list)
        for record, hit in zip(records, hits, strict=True):
            types[record.extra["type"]] += [] if hit is None else [hit]
        return Score(
            self.metric,
            Headline.mean(official),
            hits,
            {"per_type": {name: 100 * sum(values) / len(values) for name, values in types.items() if values}},
            num_unparsable=unparsable,
            variants=shares,
        )

    def submission(self, records: Sequence[Record], answers: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows of the leaderboard's upload."""
        return [
            {"question_id": record.key, "prediction": answer} for record, answer in zip(records, answers, strict=True)
        ]


def _record(row: Mapping[str, Any], where: str, picture: Picture, types: Mapping[Any, str]) -> Record:
    kind, question_id = take_text(row, "data_type", where), str(take(row, "question_id", where))
    options = {letter: take_text(row, name, where) for letter, name in _CHOICES}
    type_id = row.get("question_type_id")
    extra = {"options": options, "data_type": kind, "type": types.get(str(type_id), f"type {type_id}")}
    written_id: int | str = int(question_id) if kind == "image" and question_id.isdigit() else question_id
    prompt = choice_prompt(take_text(row, "question", where), options)
    return Record(question_id, written_id, prompt, picture, take_text(row, "answer", where), extra)
