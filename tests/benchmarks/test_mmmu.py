"""MMMU: its official rule for choices and open answers, its prompts, several pictures, every form of its files."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from croc_cli.benchmarks.base import Record
from croc_cli.benchmarks.decode import BenchmarkDataError
from croc_cli.benchmarks.mmmu import DOMAINS, guessed_letter
from croc_cli.benchmarks.registry import benchmarks, choose
from croc_cli.benchmarks.scorers.mmmu import mmmu_letter, mmmu_open_is_right
from tests.benchmarks.mmmu_files import ROWS, hub_rows, write_merged, write_subjects, write_table

OPTIONS = {"A": "left wing", "B": "beak", "C": "claw"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(A) or (C)", "C"),
        ("(C), though (A) was near", "A"),
        ("A is wrong, so B", "B"),
        ("It is A. Not C.", "C"),  # the last period is stripped
        ("C.x or A.y", "A"),  # both only before a period: the first of the options
        ("DNA or B", "B"),  # the A of DNA stands alone nowhere
        ("DNA matters", "A"),  # and is taken where nothing else is
        ("it is the beak, I am quite sure", "B"),
        ("the beak near the claw, said the left one", "C"),
        ("the beak it is", None),  # up to five words, letters alone count
        ("beak", None),
        ("b", None),
        ("", None),
        ("';:B'", "B"),
    ],
)
def test_a_choice_is_read_by_the_official_rule(text: str, letter: str | None) -> None:
    assert mmmu_letter(text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "answers", "right"),
    [
        ("1,200", ["1200"], True),
        ("The total is $1,200.00 a year.", ["1200"], True),
        ("1200.004", ["1200"], True),
        ("1200.01", ["1200"], False),
        ("x = 3\ny = 4", ["3"], False),  # an equation counts in the last line alone, and 3 is not a number of it
        ("y = 4\nx = 3", ["3"], True),
        ("So the answer is one half.", ["0.5", "one half"], True),
        ("a", ["a"], True),
        ("vitamin a", ["a"], True),  # a letter has a space before or after it
        ("banana", ["a"], False),
        ("It is 3e2", ["300"], True),
        ("The answer is Paris. It is in France", ["paris"], False),  # what follows the last `is`
        ("Paris", ["Par"], True),
        ("", ["5"], False),
        ("nan", ["nan"], False),
        ("5=", ["5"], True),
    ],
)
def test_an_open_answer_is_read_by_the_official_rule(text: str, answers: list[str], right: bool) -> None:
    assert mmmu_open_is_right(text, answers) is right


def test_a_guess_is_the_same_in_any_order_and_is_not_always_one_letter() -> None:
    records = [Record(f"validation_Art_{n}", "", "", None, "A", {"options": OPTIONS}) for n in range(60)]
    guesses = {record.key: guessed_letter(record) for record in records}
    random.Random(0).shuffle(records)
    assert {record.key: guessed_letter(record) for record in records} == guesses
    assert set(guesses.values()) == set(OPTIONS)
    assert guesses["validation_Art_1"] == "A"  # written out: another seed or hash would change scores


def shown(record: Record) -> list[str | int]:
    """Return the texts of a question, and the number of each picture where it stands."""
    return [part if isinstance(part, str) else part.open().getpixel((0, 0))[0] // 40 for part in record.parts()]  # type: ignore[index,operator]  # RGB


@pytest.mark.parametrize("write", [write_merged, write_subjects, write_table])
def test_every_form_asks_the_same_with_several_pictures(write: Callable[[Path], Path], tmp_path: Path) -> None:
    benchmark = benchmarks()["mmmu"]
    records = {record.key: record for record in benchmark.read(write(tmp_path))}
    assert list(records) == [row[0] for row in ROWS]
    first, both, choices, mean = records.values()
    letter = "Answer with the option's letter from the given choices directly."
    asked = "Which bar of <image 1> is higher?\nA. $6\nB. $7\nC. Neither of them\n\n"
    assert shown(first) == [1, asked + letter]
    assert shown(both) == [
        *(1, 2),
        "Add <image 2> to <image 1>.\n\nAnswer the question using a single word or phrase.",
    ]
    assert shown(choices) == [1, 2, 3, f"Which fits <image 1>?\nA. <image 2>\nB. <image 3>\n\n{letter}"]
    assert mean.answer == ["0.5", "one half"]
    assert [record.extra["domain"] for record in records.values()] == [
        "Business",
        "Business",
        "Art and Design",
        "Science",
    ]
    names = [picture.name for record in records.values() for picture in record.pictures]
    assert len(set(names)) == len(names)  # pictures of a batch are told apart by their names
    assert benchmark.max_new_tokens == 128


@pytest.mark.parametrize("write", [write_merged, write_table])
def test_vlmevalkit_s_pictures_stand_in_the_text(write: Callable[[Path], Path], tmp_path: Path) -> None:
    [kit] = choose("mmmu", {"mmmu": "vlmevalkit"})
    first, both, choices, _ = kit.read(write(tmp_path))
    letter = "\nAnswer with the option's letter from the given choices directly."
    assert shown(first) == ["Which bar of ", 1, f" is higher?\nA. $6\nB. $7\nC. Neither of them{letter}"]
    assert shown(both) == ["Add ", 2, " to ", 1, ".\nAnswer the question directly."]
    assert shown(choices) == ["Which fits ", 1, "?\nA. ", 2, "\nB. ", 3, letter]


def test_scores_are_over_all_with_domains_and_subjects(tmp_path: Path) -> None:
    benchmark = benchmarks()["mmmu"]
    records = benchmark.read(write_merged(tmp_path))
    score = benchmark.score(records, ["(B)", "1,200 in all", "nothing", "It is 0.5"])
    guess = float(guessed_letter(records[2]) == "A")
    assert list(score.per_item) == [1, 1, guess, 1]
    assert score.value == 25 * (3 + guess)
    assert score.parts["per_domain"] == {"Business": 100, "Art and Design": 100 * guess, "Science": 100}
    assert score.parts["per_subject"]["Accounting"] == 100
    assert score.parts["num_guessed"] == score.num_unparsable == 1
    assert score.variants["vlmevalkit"].value == 25  # "1,200 in all" and "It is 0.5" do not hold the table's texts


def test_vlmevalkit_gives_open_questions_two_options(tmp_path: Path) -> None:
    [kit] = choose("mmmu", {"mmmu": "vlmevalkit"})
    records = kit.read(write_merged(tmp_path))
    right = kit.headline_of(kit.score(records, ["B", "1200", "A", "['0.5', 'one half']"]))
    assert (right.value, right.metric) == (100, "accuracy (vlmevalkit)")
    other = kit.headline_of(kit.score(records, ["C", "Other Answers", "A or B", "0.5"]))
    assert (other.value, other.num_unparsable) == (0, 2)
    assert list(kit.score(records, ["A", "A", "A", "A"]).per_item) == [0, 1, 1, 1]


def test_there_are_thirty_subjects_in_six_domains_and_missing_ones_are_named(tmp_path: Path) -> None:
    assert (len(DOMAINS), sum(map(len, DOMAINS.values()))) == (6, 30)
    benchmark = benchmarks()["mmmu"]
    assert benchmark.lacks(tmp_path) == ["*.parquet|MMMU_DEV_VAL.tsv"]
    lacking = benchmark.lacks(write_subjects(tmp_path))
    assert len(lacking) == 27
    assert "Music/validation-*.parquet" in lacking
    assert benchmark.lacks(write_merged(tmp_path / "merged")) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "D"}, "answer 'D', expected one of A, B, C"),
        ({"answer": None}, "answer is None, expected text"),
        ({"options": None}, "options is None, expected a list of texts"),
        ({"options": "[[1], [2]]"}, "expected a list of texts"),
        ({"image_1": None}, "the question names <image 1>, and there is no such picture"),
        ({"question": "Which <image>?"}, "<image> in the question"),
    ],
)
def test_what_no_row_may_hold_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    rows = [hub_rows()[0] | changes, *hub_rows()[1:]]
    with pytest.raises(BenchmarkDataError, match="row 0: ") as caught:
        benchmarks()["mmmu"].read(write_merged(tmp_path, rows))
    assert message in caught.value.message
