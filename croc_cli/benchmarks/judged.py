"""What a judge model is asked, and how its replies become scores: LLaVA-Bench (in the wild) and MM-Vet."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import (
    BenchmarkDataError,
    read_json,
    read_json_lines,
    take,
    take_id,
    take_object,
    take_text,
    take_texts,
)
from croc_cli.benchmarks.files import Picture, read_parquet
from croc_cli.benchmarks.score import Headline, Score

UNREADABLE = (-1.0, -1.0)
"""What LLaVA-Bench's script reads in a reply without two numbers; it is averaged in, as the published figures were."""


@cache
def judge_prompts() -> dict[str, dict[str, str]]:
    """Return the benchmarks' own judge prompts, which their scores are defined by."""
    prompts: dict[str, dict[str, str]] = json.loads(
        (Path(__file__).parent / "judge_prompts.json").read_text(encoding="utf-8")
    )
    return prompts


@dataclass(frozen=True)
class JudgeRequest:
    """One request to a judge.

    Attributes:
        messages: As chat endpoints take them.
        temperature: Of the sampling.
        max_tokens: Of the reply.
    """

    messages: tuple[Mapping[str, str], ...]
    temperature: float
    max_tokens: int


class JudgedBenchmark(Benchmark):
    """A benchmark whose answers a judge model scores."""

    needs_judge = True
    max_new_tokens = 1024
    judge_model: ClassVar[str]
    """The judge behind the published figures."""

    @abstractmethod
    def next_request(self, record: Record, answer: str, replies: Sequence[str]) -> JudgeRequest | None:
        """Return what the judge is asked after these replies about one answer, or None when it has said enough."""

    @abstractmethod
    def score_replies(self, records: Sequence[Record], replies: Sequence[Sequence[str]]) -> Score:
        """Score the judge's replies, those of one record after the other; records without replies are left out."""

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """Refuse: answers alone have no score here.

        Raises:
            BenchmarkDataError: Always; replies come from the judge.
        """
        del records, answers
        raise BenchmarkDataError(
            f"{self.name}: answers are scored by a judge model",
            hint="name an OpenAI-compatible endpoint with --judge-url and --judge-model, its key in CROC_JUDGE_API_KEY",
        )


class LlavaBench(JudgedBenchmark):
    """LLaVA-Bench in the wild (paper, Table 1): the judge's score relative to a text-only GPT-4's answers."""

    name = "llava_bench_wild"
    title = "LLaVA-W"
    folder = "llava-bench-in-the-wild"
    split = "all"
    size = 60
    metric = "relative score"
    layout = ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl", "images/")
    judge_model = "gpt-4-0314"

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        folder = root / self.folder
        if not self.holds(root, "questions.jsonl") and (rows := read_parquet(folder, "train", "test")) is not None:
            return [self._hub_record(row, f"{folder}, row {number}") for number, row in enumerate(rows)]
        questions, contexts = self.find(root, "questions.jsonl"), self.find(root, "context.jsonl")
        references_file = self.find(root, "answers_gpt4.jsonl")
        captions = {take(row, "image", where): _caption(row, where) for where, row in read_json_lines(contexts)}
        references = {
            take_id(row, "question_id", where): take_text(row, "text", where)
            for where, row in read_json_lines(references_file)
        }
        records = []
        for where, row in read_json_lines(questions):
            question_id, image = take_id(row, "question_id", where), take_text(row, "image", where)
            text = take_text(row, "text", where)
            extra = _context(row, captions.get(image, ""), where)
            reference = take(references, question_id, f"{references_file}, answers")
            picture = Picture(image, path=questions.parent / "images" / image)
            records.append(Record(str(question_id), question_id, text, picture, reference, extra))
        return records

    def _hub_record(self, row: Mapping[str, Any], where: str) -> Record:
        question_id, text = take_id(row, "question_id", where), take_text(row, "question", where)
        extra = _context(row, _caption(row, where), where)
        reference = take(row, "gpt_answer", where)
        return Record(str(question_id), question_id, text, take(row, "image", where), reference, extra)

    def next_request(self, record: Record, answer: str, replies: Sequence[str]) -> JudgeRequest | None:
        """See `JudgedBenchmark.next_request`; one reply is enough."""
        if replies:
            return None
        prompts = judge_prompts()[self.name]
        content = (
            f"[Context]\n{record.extra['caption']}\n\n[Question]\n{record.prompt}\n\n"
            f"[Assistant 1]\n{record.answer}\n\n[End of Assistant 1]\n\n"
            f"[Assistant 2]\n{answer}\n\n[End of Assistant 2]\n\n[System]\n{prompts['rule']}"
        )
        messages = ({"role": "system", "content": prompts["system"]}, {"role": "user", "content": content})
        return JudgeRequest(messages, temperature=0.2, max_tokens=1024)

    def score_replies(self, records: Sequence[Record], replies: Sequence[Sequence[str]]) -> Score:
        """See `JudgedBenchmark.score_replies`."""
        judged = [(record, parse_pair(said[0])) for record, said in zip(records, replies, strict=True) if said]
        groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for record, pair in judged:
            groups["all"].append(pair)
            groups[record.extra["category"]].append(pair)
        summary = {name: _relative(pairs) for name, pairs in sorted(groups.items())}
        pairs = groups["all"]
        return Score(
            self.metric,
            Headline(summary["all"]["relative"] if pairs else 0.0, len(pairs), _relative_statistic(pairs)),
            [pair[1] for pair in pairs],
            {"summary": summary},
            num_unparsable=pairs.count(UNREADABLE),
        )


class MmVet(JudgedBenchmark):
    """MM-Vet (paper, Table 1): the judge compares an answer with the ground truth."""

    name = "mmvet"
    title = "MM-Vet"
    folder = "mm-vet"
    split = "v1"
    size = 218
    metric = "GPT-4 score"
    layout = ("mm-vet.json", "images/")
    judge_model = "gpt-4-0613"

    _TEMPERATURES = (0.0, 0.0, 0.5, 1.0, 1.5, 2.0)
    _RETRY = "\nPredict the correctness of the answer (digit): "

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`."""
        folder = root / self.folder
        if not self.holds(root, "mm-vet.json") and (rows := read_parquet(folder, "test")) is not None:
            where = f"{folder}, row "
            return [
                _mmvet_record(str(take(row, "question_id", f"{where}{n}")), row, f"{where}{n}", row.get("image"))
                for n, row in enumerate(rows)
            ]
        file = self.find(root, "mm-vet.json")
        records = []
        for name, row in take_object(read_json(file), str(file)).items():
            where = f"{file}, {name}"
            image = take_text(row, "imagename", where)
            records.append(_mmvet_record(name, row, where, Picture(image, path=file.parent / "images" / image)))
        return records

    def next_request(self, record: Record, answer: str, replies: Sequence[str]) -> JudgeRequest | None:
        """See `JudgedBenchmark.next_request`; a reply that is not a number in [0, 1] is asked for again, five times."""
        asked = len(replies)
        if asked == len(self._TEMPERATURES) or (replies and parse_share(replies[-1]) is not None):
            return None
        truth = record.answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        header = judge_prompts()[self.name]["header"]
        content = f"{header}{record.prompt} | {truth} | {answer} | "
        messages = ({"role": "user", "content": content + (self._RETRY if asked else "")},)
        return JudgeRequest(messages, temperature=self._TEMPERATURES[asked], max_tokens=3)

    def score_replies(self, records: Sequence[Record], replies: Sequence[Sequence[str]]) -> Score:
        """See `JudgedBenchmark.score_replies`; after five unreadable replies an answer has 0."""
        judged = [(record, said) for record, said in zip(records, replies, strict=True) if said]
        shares = [self._share(said) for _, said in judged]
        scores = [share or 0.0 for share in shares]
        capabilities: dict[str, list[float]] = defaultdict(list)
        integrations: dict[str, list[float]] = defaultdict(list)
        for (record, _), score in zip(judged, scores, strict=True):
            for capability in record.extra["capability"]:
                capabilities[capability].append(score)
            integrations["_".join(sorted(record.extra["capability"]))].append(score)
        return Score(
            self.metric,
            Headline.mean(scores),
            scores,
            {"per_capability": _percents(capabilities), "per_integration": _percents(integrations)},
            num_unparsable=shares.count(None),
        )

    def submission(self, records: Sequence[Record], answers: Sequence[str]) -> list[dict[str, Any]]:
        """Return the object that the online evaluator takes, in a list of one."""
        return [{f"v1_{record.key}": answer for record, answer in zip(records, answers, strict=True)}]

    def _share(self, replies: Sequence[str]) -> float | None:
        readable = replies[: len(self._TEMPERATURES) - 1]  # a sixth reply is asked for and never read
        return parse_share(readable[-1])


def _caption(row: Mapping[str, Any], where: str) -> str:
    """Return what is known of a picture: a text, or a list of lines."""
    if isinstance(take(row, "caption", where), str):
        return take_text(row, "caption", where)
    return "\n".join(take_texts(row, "caption", where))


def _context(row: Mapping[str, Any], caption: str, where: str) -> dict[str, str]:
    """Return what the judge is told beside question and answers."""
    return {"category": f"llava_bench_{take_text(row, 'category', where)}", "caption": caption}


def parse_pair(reply: str) -> tuple[float, float]:
    """Return the two scores in the first line of a LLaVA-Bench reply, or UNREADABLE."""
    parts = reply.split("\n")[0].replace(",", " ").split(" ")
    if len(parts) != 2:
        return UNREADABLE
    try:
        return float(parts[0]), float(parts[1])
    except ValueError:
        return UNREADABLE


def _mmvet_record(name: str, row: Mapping[str, Any], where: str, picture: Picture | None) -> Record:
    number = name.removeprefix("v1_")
    question_id: int | str = int(number) if number.isdigit() else name
    given = take(row, "capability", where)
    capability = given.split(",") if isinstance(given, str) else take_texts(row, "capability", where)
    extra = {"capability": capability, "aliases": [name]}
    prompt, answer = take_text(row, "question", where), take_text(row, "answer", where)
    return Record(str(question_id), question_id, prompt, picture, answer, extra)


def parse_share(reply: str) -> float | None:
    """Return the score in an MM-Vet reply, or None where there is none from 0 to 1."""
    try:
        value = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return value if 0.0 <= value <= 1.0 else None


def _relative(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    reference, model = (round(sum(column) / len(column), 3) for column in zip(*pairs, strict=True))
    relative = round(100 * model / reference, 1) if reference else 0.0
    return {
        "relative": relative,
        "reference_mean_x10": round(10 * reference, 1),
        "model_mean_x10": round(10 * model, 1),
    }


def _relative_statistic(pairs: Sequence[tuple[float, float]]) -> Any:
    import numpy as np

    columns = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)

    def statistic(weights: Any) -> float:
        reference, model = weights @ columns
        return 100 * float(model) / float(reference) if reference else 0.0

    return statistic


def _percents(groups: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: 100 * sum(values) / len(values) for name, values in groups.items()}
