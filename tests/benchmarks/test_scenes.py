"""The scene scores, on rows small enough to count by hand, and the benchmark on the questions themselves."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from croc_cli.benchmarks.decode import BenchmarkDataError
from croc_cli.benchmarks.matching import limit_records
from croc_cli.benchmarks.registry import benchmarks, choose
from croc_cli.benchmarks.results import score_rows as score_answers
from croc_cli.benchmarks.scenes import VARIANTS, accuracy_by_type, caption_recall, first_word, score_rows
from croc_cli.run_dir import StageDir, read_jsonl


def _question(identity: str, question_type: str, answer: str, text: str, other: str, **rules: str) -> dict[str, Any]:
    return {
        "question_id": identity,
        "kind": "question",
        "type": question_type,
        "answer": answer,
        "text": text,
        "other_question_id": other,
        "names_held_out_pair": identity == "c1",
        "blind_answers": rules,
    }


QUESTIONS = [
    _question("e1", "existence", "yes", "Yes.", "e2", always_yes="yes"),
    _question("e2", "existence", "no", "yes", "e1", always_yes="yes"),
    _question("c1", "colour", "red", "red", "c2", largest="red", first="blue"),
    _question("c2", "colour", "blue", "blue", "c1", largest="blue", first="blue"),
    _question("c3", "colour", "blue", "blue", "c4", largest="green", first="green"),
    _question("c4", "colour", "red", "blue", "c3", largest="red", first="green"),
]
CAPTION = {
    "question_id": "k",
    "kind": "caption",
    "objects": [["star", "red"], ["ring", "blue"]],
    "held_out": [False, True],
    "text": "A blue ring, a red",
}


@pytest.mark.parametrize(("said", "word"), [(" Yes, there is.", "yes"), ("3 of them", "3"), ("", ""), ("...", "")])
def test_an_answer_is_its_first_word(said: str, word: str) -> None:
    assert first_word(said) == word


def test_accuracy_is_counted_by_type_and_averaged_over_types() -> None:
    scores = score_rows([*QUESTIONS, CAPTION])
    assert scores["accuracy"] == {"existence": 0.5, "colour": 0.75}
    assert scores["mean_accuracy"] == 0.625
    assert scores["num_questions"] == 6
    assert scores["accuracy_on_held_out_pairs"] == {"colour": 1.0}


def test_the_baselines_are_those_of_a_model_without_sight() -> None:
    rows = [row | {"another_picture": "red", "no_picture": "no"} for row in QUESTIONS]
    scores = score_rows(rows)
    assert scores["baselines"] == {
        "swapped_picture": {"existence": 0.0, "colour": 0.5},
        "other_question": {"existence": 0.5, "colour": 0.25},
        "most_common_answer": {"existence": 0.5, "colour": 0.5},
        "best_blind_rule": {"existence": 0.5, "colour": 0.75},
        "no_picture": {"existence": 0.5, "colour": 0.0},
    }
    assert scores["best_blind"] == {"existence": 0.5, "colour": 0.75}


def test_without_answers_to_swapped_pictures_that_baseline_is_left_out() -> None:
    assert "swapped_picture" not in score_rows(QUESTIONS)["baselines"]


def test_a_caption_names_an_object_by_colour_and_shape_together() -> None:
    assert caption_recall([CAPTION]) == 0.5
    assert caption_recall([CAPTION], held_out=True) == 1.0
    assert caption_recall([CAPTION], held_out=False) == 0.0
    assert caption_recall([CAPTION | {"text": "A red ring and a blue star."}]) == 0.0
    assert caption_recall([]) is None


def test_a_missing_answer_is_an_error() -> None:
    with pytest.raises(KeyError, match="text"):
        accuracy_by_type([{"type": "colour", "answer": "red"}], "text")


SCENES = choose("scenes", scenes=SimpleNamespace(num_scenes=4, max_new_tokens=9))[0]


def test_the_benchmark_asks_each_question_about_three_pictures() -> None:
    records = SCENES.read(Path("nowhere"))
    assert (SCENES.size, SCENES.max_new_tokens, len(records)) == (4 * 10 * 3 + 4, 9, 124)
    assert [record.key for record in records[:3]] == [f"existence-0000-0/{variant}" for variant in VARIANTS]
    own, other, blank = (record.picture for record in records[:3])
    assert own is not None
    assert other is not None
    assert blank is not None
    assert own.name != other.name
    assert (own.is_blank, blank.is_blank) == (False, True)
    assert Image.open(io.BytesIO(blank.read())).size == own.open().size
    assert benchmarks()["scenes"].size == len(benchmarks()["scenes"].read(Path()))
    assert "scenes" not in [one.name for one in choose("all")]


def test_only_the_answers_to_a_questions_own_picture_count() -> None:
    records = SCENES.read(Path())
    texts = [str(record.answer) if record.key.endswith("/picture") else "?" for record in records]
    score = SCENES.score(records, texts)
    assert score.value == 100.0
    assert score.interval() == (100.0, 100.0)
    assert [item for item in score.per_item if item is not None] == [1.0] * 40
    assert score.parts["baselines"]["swapped_picture"]["colour"] == 0.0
    half = ["?" if record.key.startswith("colour") else text for record, text in zip(records, texts, strict=True)]
    assert SCENES.score(records, half).value == 80.0


def test_a_limit_keeps_the_questions_of_a_scene_together_and_controls_alone_are_no_score() -> None:
    records = SCENES.read(Path())
    some = limit_records(SCENES, records, 31)
    assert len(some) == 31
    assert SCENES.score(some, [str(record.answer) for record in some]).parts["num_questions"] == 10
    controls = [record for record in records if record.key.endswith("/no_picture")]
    with pytest.raises(BenchmarkDataError, match="no question about its own picture"):
        SCENES.score(controls, ["?"] * len(controls))
    one = [record for record in records if record.key.startswith("colour-0000-0")]
    assert SCENES.score(one, ["?"] * 3).parts["baselines"].keys() >= {"no_picture", "swapped_picture"}


def test_scores_name_an_example_and_leave_controls_out_of_the_items(tmp_path: Path) -> None:
    rows = [{"question_id": r.question_id, "prompt": r.prompt, "text": "red"} for r in SCENES.read(Path())]
    stage = StageDir(tmp_path / "benchmarks")
    entry = score_answers(SCENES, SCENES.read(Path()), rows, stage, made_by={})
    assert entry["example"]["answer"] == "red"
    assert Image.open(entry["example"]["image"]).size == (72, 72)
    items = list(read_jsonl(stage.root / "items" / "scenes.jsonl"))
    assert len(items) == 40
    assert items[0]["picture"].startswith("scene-test-")
