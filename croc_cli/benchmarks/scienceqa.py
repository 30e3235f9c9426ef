"""ScienceQA: school questions with options, about half of them with a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import read_json, take, take_list, take_number, take_text, take_texts
from croc_cli.benchmarks.files import Picture, read_parquet, text_of
from croc_cli.benchmarks.prompts import LETTER_ANSWER
from croc_cli.benchmarks.score import Headline, Score
from croc_cli.benchmarks.scorers.choices import LETTERS, scienceqa_letter
from croc_cli.names import IMAGE_TOKEN


class ScienceQa(Benchmark):
    """ScienceQA, test (paper, Table 1); the headline counts the questions with a picture."""

    name = "scienceqa"
    title = "SciQA-I"
    folder = "scienceqa"
    hub_splits = ("test",)
    split = "test, with image"
    size = 4_241
    metric = "accuracy with image"
    layout = ("problems.json", "pid_splits.json", "images/test/")
    max_new_tokens = 1024

    def read(self, root: Path) -> list[Record]:
        """See `Benchmark.read`; the whole test split, as LLaVA answers it."""
        names = ("problems.json", "pid_splits.json")
        if (
            not self.holds(root, *names)
            and (rows := read_parquet(root / self.folder, *self.hub_splits, config="ScienceQA-FULL")) is not None
        ):
            where = f"{root / self.folder}, row "
            return [
                _record(str(number), number, row, f"{where}{number}", take(row, "image", f"{where}{number}"))
                for number, row in enumerate(rows)
            ]
        problems_file = self.find(root, "problems.json")
        splits = self.find(root, "pid_splits.json")
        problems = read_json(problems_file)
        records = []
        for problem_id in take_list(read_json(splits), "test", str(splits)):
            where = f"{problems_file}, problem {problem_id}"
            row = take(problems, str(problem_id), str(problems_file))
            image = take(row, "image", where)
            picture = None
            if image:
                file = root / self.folder / "images" / "test" / str(problem_id) / image
                picture = Picture(f"{problem_id}/{image}", path=file)
            records.append(_record(str(problem_id), problem_id, row, where, picture))
        return records

    def score(self, records: Sequence[Record], answers: Sequence[str]) -> Score:
        """Read letters by LLaVA's rule; see `Benchmark.score`."""
        letters = [scienceqa_letter(answer) for answer in answers]
        hits = [
            float(letter is not None and LETTERS.index(letter) == record.answer)
            for record, letter in zip(records, letters, strict=True)
        ]
        with_image = [hit for record, hit in zip(records, hits, strict=True) if record.picture is not None]
        return Score(
            self.metric,
            Headline.mean(with_image),
            hits,
            {
                "accuracy_all": 100 * sum(hits) / records[0].extra.get("num_in_split", len(hits)),
                "num_with_image": len(with_image),
                "correct": int(sum(hits)),
            },
            num_unparsable=letters.count(None),
        )


def _record(key: str, question_id: str | int, row: Mapping[str, Any], where: str, picture: Picture | None) -> Record:
    choices, question = take_texts(row, "choices", where), take_text(row, "question", where)
    prompt = scienceqa_prompt(question, text_of(row.get("hint")), choices)
    extra = {"num_choices": len(choices), "subject": row.get("subject", "")}
    if picture is not None:
        extra["saved_prompt"] = f"{IMAGE_TOKEN}\n{prompt}"
    return Record(key, question_id, prompt, picture, take_number(row, "answer", where), extra)


def scienceqa_prompt(question: str, hint: str, choices: Sequence[str]) -> str:
    """Return LLaVA's prompt: the hint as context, the question, one line for each option, and the request."""
    context = f"Context: {hint}\n" if hint else ""
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{context}{question}\n{options}{LETTER_ANSWER}"
