"""The scene scores, on records small enough to count by hand."""

from typing import Any

import pytest

from croc_cli.benchmarks.scenes import (
    accuracy_by_type,
    baselines_by_type,
    caption_recall,
    first_word,
    margins_over_blind,
    scene_scores,
)


def _question(identity: str, question_type: str, answer: str, other: str, **rules: str) -> dict[str, Any]:
    return {
        "question_id": identity,
        "kind": "question",
        "type": question_type,
        "answer": answer,
        "other_question_id": other,
        "names_held_out_pair": identity == "c1",
        "blind_answers": rules,
    }


QUESTIONS = [
    _question("e1", "existence", "yes", "e2", always_yes="yes"),
    _question("e2", "existence", "no", "e1", always_yes="yes"),
    _question("c1", "colour", "red", "c2", largest="red", first="blue"),
    _question("c2", "colour", "blue", "c1", largest="blue", first="blue"),
    _question("c3", "colour", "blue", "c4", largest="green", first="green"),
    _question("c4", "colour", "red", "c3", largest="red", first="green"),
]
CAPTION = {"question_id": "k", "kind": "caption", "objects": [["star", "red"], ["ring", "blue"]]}
PREDICTIONS = {
    "e1": "Yes.",
    "e2": "yes",
    "c1": "red",
    "c2": "blue",
    "c3": "blue",
    "c4": "blue",
    "k": "A blue ring, a red",
}


@pytest.mark.parametrize(("said", "word"), [(" Yes, there is.", "yes"), ("3 of them", "3"), ("", ""), ("...", "")])
def test_an_answer_is_its_first_word(said: str, word: str) -> None:
    assert first_word(said) == word


def test_accuracy_is_counted_by_type_and_averaged_over_types() -> None:
    assert accuracy_by_type([*QUESTIONS, CAPTION], PREDICTIONS) == {"existence": 0.5, "colour": 0.75, "mean": 0.625}


def test_the_baselines_are_those_of_a_model_without_sight() -> None:
    swapped = dict.fromkeys(PREDICTIONS, "red")
    assert baselines_by_type(QUESTIONS, PREDICTIONS, swapped) == {
        "swapped_picture": {"existence": 0.0, "colour": 0.5, "mean": 0.25},
        "other_question": {"existence": 0.5, "colour": 0.25, "mean": 0.375},
        "most_common_answer": {"existence": 0.5, "colour": 0.5, "mean": 0.5},
        "best_blind_rule": {"existence": 0.5, "colour": 0.75, "mean": 0.625},
    }


def test_without_predictions_for_swapped_pictures_that_baseline_is_left_out() -> None:
    assert "swapped_picture" not in baselines_by_type(QUESTIONS, PREDICTIONS)


def test_the_margin_is_over_the_better_blind_baseline() -> None:
    baselines = {"most_common_answer": {"colour": 0.5}, "best_blind_rule": {"colour": 0.75}}
    assert margins_over_blind({"colour": 1.0}, baselines) == {"colour": 0.25}


def test_a_caption_names_an_object_by_colour_and_shape_together() -> None:
    assert caption_recall([CAPTION], PREDICTIONS) == 0.5
    assert caption_recall([CAPTION], {"k": "A red ring and a blue star."}) == 0.0
    with pytest.raises(ValueError, match="no caption records"):
        caption_recall(QUESTIONS, PREDICTIONS)


def test_all_scores_come_together() -> None:
    scores = scene_scores([*QUESTIONS, CAPTION], PREDICTIONS)
    assert scores["num_questions"] == {"existence": 2, "colour": 4}
    assert scores["accuracy_on_held_out_pairs"] == {"colour": 1.0, "mean": 1.0}
    assert scores["caption_recall"] == 0.5
    assert scores["margin_over_blind"]["existence"] == 0.0


def test_a_missing_prediction_is_an_error() -> None:
    with pytest.raises(KeyError, match="e2"):
        accuracy_by_type(QUESTIONS, {"e1": "yes"})
