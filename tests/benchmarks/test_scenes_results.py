import pytest

from croc_cli.benchmarks.scenes_results import score_rows


def question(name: str, answer: str, text: str, **more: object) -> dict[str, object]:
    return {
        "question_id": name,
        "kind": "question",
        "type": "colour",
        "question": "<image>\nWhat colour is the star?",
        "answer": answer,
        "names_held_out_pair": False,
        "blind_answers": {"first object": "red"},
        "text": text,
    } | more


def test_each_baseline_is_scored_from_its_own_answers() -> None:
    rows = [
        question("a", "red", "Red.", another_picture="blue", no_picture="green", other_question_id="b"),
        question("b", "blue", "blue", another_picture="blue", no_picture="green", other_question_id="a"),
    ]
    caption = {"question_id": "c", "kind": "caption", "objects": [["star", "red"], ["ring", "blue"]]}
    scores = score_rows([*rows, caption | {"text": "A red star and a green ring."}])
    assert scores["num_questions"] == 2
    assert scores["accuracy"] == {"colour": 1.0}
    assert scores["mean_accuracy"] == 1.0
    assert scores["caption_recall"] == 0.5
    baselines = {name: values["colour"] for name, values in scores["baselines"].items()}
    assert baselines == {
        "swapped_picture": 0.5,
        "other_question": 0.0,
        "most_common_answer": 0.5,
        "best_blind_rule": 0.5,
        "no_picture": 0.0,
    }
    assert scores["best_blind"] == {"colour": pytest.approx(0.5)}
