"""VLMEvalKit's protocol: its reading of choices and of yes and no, its prompts, its tables, as variants."""

import base64
from pathlib import Path
from typing import Any

import pytest

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.decode import BenchmarkDataError
from croc_cli.benchmarks.prompts import LETTER_ANSWER
from croc_cli.benchmarks.registry import choose
from croc_cli.benchmarks.results import score_benchmark
from croc_cli.benchmarks.scorers.choices import REFUSED, mmbench_letter, vlmevalkit_letter
from croc_cli.benchmarks.scorers.yes_no import vlmevalkit_answer
from croc_cli.benchmarks.vlmevalkit import split_options
from croc_cli.run_dir import StageDir, write_json
from tests.benchmarks.golden_files import load, png, write_files

OPTIONS = {"A": "wing", "B": "beak", "C": "claw"}
OTHERS = ("mmstar", "ai2d", "realworldqa", "seedbench", "pope", "mme")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(B).", "B"),
        ("Answer:B", "B"),
        ("B is it now", "B"),  # the first of four words
        ("B is what it is", None),  # of five
        ("B as I say, it is B", None),  # its first occurrence counts
        ("I am very sure that it is B", "B"),
        ("A wing, I think so", "A"),  # a lone A far from the end does not count, the option's text does
        ("A or B", None),
        ("the beak", "B"),
        ("wing or beak", None),
        ("the Beak it is, I am sure", None),  # 25 characters, twice the options has 24
        ("the Beak it is, I am sur", "B"),
        ("b", None),
        ("Z", REFUSED),
        ("Z as nothing else fits here", REFUSED),  # wherever it stands
        ("A or Z", "A"),
        ("Cannot determine the answer: B", REFUSED),
        ("Failed to obtain answer via API. B", None),
        ("", None),
    ],
)
def test_a_sole_letter_counts_among_the_last_four_words(text: str, letter: str | None) -> None:
    assert vlmevalkit_letter(text, OPTIONS) == letter


def test_the_rule_of_2024_is_another_one() -> None:
    assert mmbench_letter("B is what it is", OPTIONS) == "B"
    assert mmbench_letter("the beak, as far as I can see from here", OPTIONS) == "B"
    assert vlmevalkit_letter("the beak, as far as I can see from here", OPTIONS) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("yes.", "yes"),
        ("I say (yes)!", "yes"),
        ("No, it is not", "no"),
        ("no/yes", "other"),
        ("Yes and no", "other"),
        ("Yes-man", "yes"),  # a mark without a space beside it becomes one
        ("Yesterday", "other"),
        ("not", "other"),
        ("Unsure", "other"),
        ("", "other"),
    ],
)
def test_yes_or_no_is_one_of_the_words_without_the_other(text: str, answer: str) -> None:
    assert vlmevalkit_answer(text) == answer


@pytest.mark.parametrize(
    ("asked", "question", "options"),
    [
        ("What?\nOptions: A: one, two, B: three", "What?", {"A": "one, two", "B": "three"}),
        ("What?\nOptions: A: 1\nB: 2\nC: 3", "What?", {"A": "1", "B": "2", "C": "3"}),
        (
            "Which?\n\nA. Left\nB. Right\nPlease answer directly with only the letter.",
            "Which?",
            {"A": "Left", "B": "Right"},
        ),
        ("How many?\nPlease answer directly with a single word or number.", "How many?", {}),
        ("What?\nOptions: none", "What?\nOptions: none", {}),
        ("Which?\nB. Left\nC. Right", "Which?\nB. Left\nC. Right", {}),
    ],
)
def test_options_are_told_from_a_question_of_the_hub(asked: str, question: str, options: dict[str, str]) -> None:
    assert split_options(asked) == (question, options)


def both(name: str, root: Path) -> tuple[Benchmark, list[Record], Benchmark, list[Record]]:
    write_files(name, root)
    [primary], [kit] = choose(name), choose(name, {name: "vlmevalkit"})
    return primary, primary.read(root), kit, kit.read(root)


@pytest.mark.parametrize("name", ["mmstar", "ai2d", "realworldqa", "seedbench"])
def test_choices_are_asked_in_lines_and_read_by_the_rule(name: str, tmp_path: Path) -> None:
    primary, records, kit, asked = both(name, tmp_path)
    assert [record.key for record in asked] == [record.key for record in records]
    chosen = next(record for record in asked if record.extra["options"])
    lines = "".join(f"\n{letter}. {text}" for letter, text in chosen.extra["options"].items())
    assert chosen.prompt.endswith(lines + LETTER_ANSWER)
    assert "Options:" not in chosen.prompt
    texts = [f"It is {record.answer}" for record in asked]
    result = kit.headline_of(kit.score(asked, texts))
    assert result.value == 100
    assert result.metric == "accuracy (vlmevalkit)"
    wrong = kit.headline_of(kit.score(asked, [f"{text} for I saw it with my own eyes" for text in texts]))
    assert (wrong.value, wrong.num_unparsable) == (0, sum(one is not None for one in wrong.per_item))
    # The primary score has the rule's figure on its own answers, and its own items.
    theirs = primary.score(records, texts)
    assert theirs.variants["vlmevalkit"].value == 100
    assert sum(hit or 0 for hit in theirs.per_item) < len(records)


def test_seed_s_videos_are_no_part_of_the_protocol(tmp_path: Path) -> None:
    _, _, kit, records = both("seedbench", tmp_path)
    texts = [record.answer if record.extra["data_type"] == "image" else "" for record in records]
    result = kit.headline_of(kit.score(records, texts))
    assert result.value == 100
    assert [hit is None for hit in result.per_item] == [record.extra["data_type"] != "image" for record in records]
    assert any(hit is None for hit in result.per_item)


def test_a_question_without_options_is_asked_directly(tmp_path: Path) -> None:
    _, _, kit, records = both("realworldqa", tmp_path)
    direct = [record for record in records if not record.extra["options"]]
    assert direct
    assert all(record.prompt.endswith("\nAnswer the question directly.") for record in direct)
    assert not any("Please answer directly" in record.prompt for record in records)
    assert kit.score(direct, [f"{record.answer}!" for record in direct]).variants["vlmevalkit"].value == 100
    assert kit.score(direct, ["Other Answers" for _ in direct]).variants["vlmevalkit"].value == 0


def test_pope_counts_all_rows_together_and_unknown_as_not_yes(tmp_path: Path) -> None:
    primary, records, kit, asked = both("pope", tmp_path)
    assert [record.prompt + "\nAnswer the question using a single word or phrase." for record in asked] == [
        record.prompt for record in records
    ]
    labels = [record.answer for record in asked]
    texts = ["Yes, it is" if label == "yes" else "No" for label in labels]
    assert kit.headline_of(kit.score(asked, texts)).value == 100
    first = labels.index("yes")
    unsure = [*texts[:first], "maybe", *texts[first + 1 :]]
    result = kit.headline_of(kit.score(asked, unsure))
    hits = labels.count("yes") - 1
    assert result.value == pytest.approx(100 * 2 * hits / (2 * hits + 1))
    assert (result.metric, result.num_unparsable, result.per_item[first]) == ("F1 (vlmevalkit)", 1, 0)
    low, high = result.interval() or (0, 0)
    assert low <= result.value <= high
    assert primary.score(records, unsure).variants["vlmevalkit"].value == result.value


def test_mme_sums_perception_and_cognition(tmp_path: Path) -> None:
    primary, records, kit, asked = both("mme", tmp_path)
    assert all(record.prompt.endswith("Please answer yes or no.") for record in asked)
    assert [record.key for record in asked] == [record.key for record in records]
    texts = [f"I say {record.answer}" for record in asked]
    theirs, ours = primary.score(records, texts), kit.headline_of(kit.score(asked, texts))
    num_subtasks = len({record.extra["subtask"] for record in asked})
    assert (ours.value, ours.metric) == (200 * num_subtasks, "perception + cognition (vlmevalkit)")
    assert theirs.value == 0  # MME reads the first four characters
    right = primary.score(records, [record.answer for record in records])
    assert right.parts["sum"] == right.value + right.parts["cognition"] == 200 * num_subtasks
    [summed] = choose("mme", {"mme": "sum"})
    assert summed.headline_of(summed.score(records, [record.answer for record in records])).value == 200 * num_subtasks


def test_the_golden_answers_have_a_figure_of_each_variant(tmp_path: Path) -> None:
    for name in OTHERS:
        primary, records, _, _ = both(name, tmp_path)
        texts = [str(row["text"]) for row in load(name)["predictions"]][: len(records)]
        score = primary.score(records[: len(texts)], texts)
        low, high = score.variants["vlmevalkit"].interval() or (0, 0)
        assert low <= score.variants["vlmevalkit"].value <= high, name


def table(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    lines = ["\t".join(rows[0]), *("\t".join(str(cell) for cell in row.values()) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mmstar", "mmstar/MMStar.tsv"),
        ("ai2d", "ai2d/AI2D_TEST.tsv"),
        ("realworldqa", "realworldqa/RealWorldQA.tsv"),
        ("seedbench", "seed_bench/SEEDBench_IMG.tsv"),
    ],
)
def test_its_tables_are_read_where_they_are(name: str, file: str, tmp_path: Path) -> None:
    cell = base64.b64encode(png()).decode()
    row = {
        "index": 7,
        "question": "Which?",
        "A": "one",
        "B": "two",
        "C": "",
        "answer": "B",
        "category": "c",
        "image": cell,
    }
    table(tmp_path / Path(file).parent, Path(file).name, [row, row | {"index": 8, "image": 7}])
    [kit] = choose(name, {name: "vlmevalkit"})
    first, second = kit.read(tmp_path)
    assert first.prompt == f"Which?\nA. one\nB. two{LETTER_ANSWER}"
    assert [part.open().size for part in (*first.pictures, *second.pictures)] == [(8, 8), (8, 8)]
    assert kit.headline_of(kit.score([first, second], ["B", "A"])).value == 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "D"}, "answer 'D', expected one of A, B"),
        ({"image": "9"}, "not base64|no picture"),
        ({"image": ""}, "no picture"),
    ],
)
def test_a_damaged_table_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    row = {
        "index": 7,
        "question": "Which?",
        "A": "one",
        "B": "two",
        "answer": "B",
        "image": base64.b64encode(png()).decode(),
    }
    table(tmp_path / "ai2d", "AI2D_TEST.tsv", [row | changes])
    [kit] = choose("ai2d", {"ai2d": "vlmevalkit"})
    with pytest.raises(BenchmarkDataError, match=message):
        kit.read(tmp_path)


def test_mmbench_s_own_split_is_scored_by_the_rule_of_2025(tmp_path: Path) -> None:
    write_files("mmbench", tmp_path)
    folder = tmp_path / "mmbench"
    (folder / "mmbench_dev_20230712.tsv").rename(folder / "MMBench_DEV_EN.tsv")
    [kit] = choose("mmbench", {"mmbench": "vlmevalkit"})
    records = kit.read(tmp_path)
    texts = [f"{record.answer} is what I believe it to be" for record in records]
    result = kit.headline_of(kit.score(records, texts))
    assert (result.value, result.num_unparsable) == (0, len(records))
    assert result.variants["primary"].value == 100
    assert kit.headline_of(kit.score(records, [record.answer for record in records])).value == 100


def test_answers_of_other_prompts_are_no_answers_of_the_protocol(tmp_path: Path) -> None:
    data = write_files("pope", tmp_path / "data")
    stage_dir = StageDir(tmp_path / "benchmarks")
    stage_dir.predictions.mkdir(parents=True)
    [primary], [kit] = choose("pope"), choose("pope", {"pope": "vlmevalkit"})
    lines = [f'{{"question_id": {one.key}, "prompt": "", "text": "yes"}}\n' for one in primary.read(data)]
    (stage_dir.predictions / "pope.jsonl").write_text("".join(lines))
    made_by = stage_dir.predictions / "pope.made_by.json"
    write_json(made_by, {"model": "m"})
    assert score_benchmark(primary, stage_dir, data)["variant"] == "primary"
    with pytest.raises(BenchmarkDataError, match="made with the prompts of the variant primary") as caught:
        score_benchmark(kit, stage_dir, data)
    assert "croc eval --variant asks again" in str(caught.value.hint)
    write_json(made_by, {"model": "m", **kit.prompts})
    assert score_benchmark(kit, stage_dir, data)["metric"] == "F1 (vlmevalkit)"
    with pytest.raises(BenchmarkDataError, match="of the variant vlmevalkit") as caught:
        score_benchmark(primary, stage_dir, data)
    assert "--variant pope=vlmevalkit" in str(caught.value.hint)
