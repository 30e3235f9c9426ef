"""MMBench and MMBench-CN: multiple choice, every question asked once for each rotation of its options."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError, take, take_text
from croc_cli.benchmarks.files import Picture, read_parquet
from croc_cli.benchmarks.prompts import CHINESE_LETTER_ANSWER, LETTER_ANSWER
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.choices import circular_hits, mmbench_letter, vlmevalkit_letter
from croc_cli.benchmarks.tables import is_missing, read_tsv
from croc_cli.benchmarks.vlmevalkit import VARIANT

_PASS = 1_000_000
"""Index distance between a question and its next rotation."""
_OPTIONS = "ABCD"
_ABILITIES = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}
"""Short names of the leaderboard."""


class MmBench(Benchmark):
    """MMBench, dev (paper, Table 1): a question counts only when every rotation is answered rightly."""

    name = "mmbench"
    title = "MMBench"
    folder = "mmbench"
    split = "dev 20230712"
    size = 4_377
    metric = "circular accuracy"
    max_new_tokens = 1024
    files: ClassVar[tuple[str, ...]] = ("mmbench_dev_20230712.tsv",)
    layout = ("mmbench_dev_20230712.tsv",)
    kit_files: ClassVar[tuple[str, ...]] = ("MMBench_DEV_EN.tsv",)
    hub_folder: ClassVar[str] = "en"
    test_files: ClassVar[tuple[str, ...]] = ("mmbench_test_20230712.tsv",)
    suffix: ClassVar[str] = LETTER_ANSWER
    variants: ClassVar[Mapping[str, str]] = {
        "first-rotation": "each question counts once, in its first order of options",
        "test": "the test split, whose labels are at the server",
        VARIANT: "VLMEvalKit's dev split of 4,329 rows and its exact rule of August 2025; unresolved answers are wrong",
    }

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        files = {"test": self.test_files, VARIANT: self.kit_files}.get(self.variant or "", self.files)
        if not self.holds(root, *files):
            folder = root / self.folder / self.hub_folder
            rows = read_parquet(folder, "test" if self.variant == "test" else "dev")
            if rows is not None:
                named = [row | {"l2-category": row.get("L2-category", row.get("l2-category"))} for row in rows]
                where = f"{folder}, row "
                return [self._record(row, f"{where}{number}") for number, row in enumerate(named)]
        return [self._record(row, where) for where, row in read_tsv(self.find(root, *files))]

    def _record(self, row: dict[str, Any], where: str) -> Record:
        index = take(row, "index", where)
        if not re.fullmatch(r"[0-9]{1,12}", str(index)):
            raise BenchmarkDataError(f"{where}: index {str(index)[:60]!r} is not a number")
        options = {letter: row[letter] for letter in _OPTIONS if not is_missing(row.get(letter))}
        shown = dict(takewhile(lambda option: not _is_unsaid(option[1]), ((name, row.get(name)) for name in _OPTIONS)))
        hint, question = row.get("hint"), take_text(row, "question", where)
        stem = question if _is_unsaid(hint) else f"{hint}\n{question}"
        lines = "".join(f"\n{letter}. {text}" for letter, text in shown.items())
        cell = take(row, "image", where)
        picture = cell if isinstance(cell, Picture) else Picture.from_base64(f"picture of row {index}", cell)
        answer = None if is_missing(row.get("answer")) else row["answer"]
        kept = ("question", "hint", "category", "l2-category", "split", *_OPTIONS)
        extra = {name: row.get(name) or "" for name in kept} | {"options": options}
        extra["answer_fields"] = {
            "round_id": 0,  # LLaVA counts rounds only where it rotates the options itself
            "options": list(shown.values()),
            "option_char": list(shown),
        }
        extra["saved_prompt"] = stem + lines
        return Record(str(index), int(index), stem + lines + self.suffix, picture, answer, extra)

    def unit(self, record: Record) -> str:
        """Keep the rotations of a question together."""
        return str(int(record.question_id) % _PASS)

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """Read letters by VLMEvalKit's exact rule of 2024; an unresolved answer is wrong; see `Benchmark.score`."""
        read = {
            rule: [rule(answer, record.extra["options"]) for record, answer in zip(records, answers, strict=True)]
            for rule in (mmbench_letter, vlmevalkit_letter)
        }
        questions = [int(record.question_id) % _PASS for record in records]
        of_rule = {
            rule: circular_hits(questions, [one.answer == said for one, said in zip(records, letters, strict=True)])
            for rule, letters in read.items()
        }
        rule = vlmevalkit_letter if self.variant == VARIANT else mmbench_letter
        letters, circular = read[rule], of_rule[rule]
        hits = [letter == record.answer for record, letter in zip(records, letters, strict=True)]
        first = dict(zip(reversed(questions), reversed(records), strict=True))
        plain = [hit for record, hit in zip(records, hits, strict=True) if int(record.question_id) < _PASS]
        return Score(
            self.metric,
            Headline.mean([float(hit) for hit in of_rule[mmbench_letter].values()]),
            [float(hit) for hit in hits],
            {
                "per_category": _by(first, circular, "category"),
                "per_l2_category": _by(first, circular, "l2-category"),
                "num_questions": len(circular),
            },
            num_unparsable=letters.count(None),
            variants={
                "first-rotation": Headline.mean([float(hit) for hit in plain]),
                VARIANT: Headline.mean([float(hit) for hit in of_rule[vlmevalkit_letter].values()]),
            },
        )

    def submission(self, records: Sequence[Record], answers: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows of the table that the OpenCompass server takes."""
        rows = []
        for record, answer in zip(records, answers, strict=True):
            row: dict[str, Any] = {"index": record.question_id, "question": record.extra["question"]}
            row |= {letter: record.extra[letter] for letter in _OPTIONS}
            row["prediction"] = answer
            if record.answer is not None:
                row["answer"] = record.answer
            rows.append(row | {"split": record.extra["split"]})
        return rows


class MmBenchCn(MmBench):
    """MMBench-CN, dev (paper, Table 1): the same in Chinese."""

    name = "mmbench_cn"
    title = "MMBench-CN"
    split = "dev 20231003"
    size = 4_329
    kit_files = ("MMBench_DEV_CN.tsv",)
    hub_folder = "cn"
    files = ("mmbench_dev_cn_20231003.tsv",)
    layout = ("mmbench_dev_cn_20231003.tsv",)
    test_files = ("mmbench_test_cn_20231003.tsv",)
    suffix = CHINESE_LETTER_ANSWER


def _is_unsaid(cell: str | None) -> bool:
    """Tell whether LLaVA's prompt ends its options before this one, or goes without this hint."""
    return cell is None or is_missing(cell) or cell.lower() in ("nan", "none")


def _by(first: Mapping[int, Record], circular: Mapping[int, bool], field: str) -> dict[str, float]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for question, hit in circular.items():
        if group := first[question].extra[field]:
            groups[_ABILITIES.get(group, group)].append(hit)
    return {group: 100 * sum(hits) / len(hits) for group, hits in sorted(groups.items())}
