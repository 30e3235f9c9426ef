"""The scene scores, on rows small enough to count by hand."""

from typing import Any

import pytest

from croc_cli.benchmarks.scenes import accuracy_by_type, caption_recall, first_word, score_rows


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
