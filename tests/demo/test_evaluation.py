"""The held-out records: enough of each type, JSON, and everything that the baselines need."""

import json
from collections import Counter

from croc_cli.benchmarks.scenes import score_rows
from croc_cli.demo.evaluation import evaluation_image, evaluation_records
from croc_cli.demo.questions import QUESTION_TYPES

RECORDS = evaluation_records()
QUESTIONS = [record for record in RECORDS if record["kind"] == "question"]


def test_every_type_has_at_least_a_hundred_questions_and_they_are_json() -> None:
    assert json.loads(json.dumps(RECORDS)) == RECORDS
    assert Counter(record["type"] for record in QUESTIONS) == dict.fromkeys(QUESTION_TYPES, 120)
    assert len({record["question_id"] for record in RECORDS}) == len(RECORDS)


def test_partners_are_another_question_of_the_same_type_and_scene_and_another_picture() -> None:
    by_id = {record["question_id"]: record for record in QUESTIONS}
    for record in QUESTIONS:
        other = by_id[record["other_question_id"]]
        assert (other["type"], other["scene_index"]) == (record["type"], record["scene_index"])
        assert other["question"] != record["question"]
        assert record["swapped_scene_index"] != record["scene_index"]


def test_yes_and_no_are_alike() -> None:
    answers = Counter(record["answer"] for record in QUESTIONS if record["type"] == "existence")
    assert set(answers) == {"yes", "no"}
    assert abs(answers["yes"] - answers["no"]) <= 24


def test_right_answers_score_one_and_the_blind_baselines_lie_far_below() -> None:
    scores = score_rows([record | {"text": record["answer"]} for record in RECORDS])
    assert set(scores["accuracy"].values()) == {1.0}
    assert scores["caption_recall"] == 1.0
    assert scores["caption_recall_held_out_pairs"] == 1.0
    assert 1.0 - max(scores["best_blind"].values()) > 0.35
    assert min(Counter(r["type"] for r in QUESTIONS if r["names_held_out_pair"]).values()) > 20


def test_the_picture_of_a_record_is_that_of_its_scene() -> None:
    assert evaluation_image(RECORDS[0]["scene_index"]).name == "scene-test-20241014-000000.png"
