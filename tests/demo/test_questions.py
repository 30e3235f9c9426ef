"""Questions: right, balanced, and not answerable by a rule that looks at the scene alone."""

from collections import Counter

import numpy as np
import pytest

from croc_cli.demo.language import BRIEF_FORMS, brief_caption, detailed_caption
from croc_cli.demo.questions import QUESTION_TYPES, ask, blind_answers
from croc_cli.demo.scenes import HELD_OUT_PAIRS, Scene, SceneObject, sample_scene, scene_generator

SCENE = Scene(
    "written-out",
    (
        SceneObject("star", "red", "large", "top", "left", 12.0, 12.0, 9.0, 0.0),
        SceneObject("ring", "blue", "small", "middle", "right", 60.0, 42.0, 5.0, 0.0),
        SceneObject("cross", "green", "small", "bottom", "right", 60.0, 66.0, 5.0, 0.0),
    ),
    0,
)
ANSWERS = {
    "Is there a red star?": "yes",
    "Do you see a blue star?": "no",
    "What colour is the ring?": "blue",
    "Which shape is at the bottom right?": "cross",
    "How many objects are in the right column?": "two",
    "How many objects are in the middle row?": "one",
    "How many objects are in the centre column?": "zero",
    "How many objects are there?": "three",
    "Is the star left of the ring?": "yes",
    "Is the star below the ring?": "no",
    "Is the cross above or below the star?": "below",
    "Is the ring left or right of the star?": "right",
}


def test_captions_tell_the_scene_in_reading_order() -> None:
    assert detailed_caption(SCENE) == (
        "There are three objects. At the top left is a large red star. At the middle right is a small blue ring. "
        "At the bottom right is a small green cross."
    )
    assert [brief_caption(SCENE, form) for form in BRIEF_FORMS] == [
        "a red star, a blue ring and a green cross.",
        "a large star, a small ring and a small cross.",
        "a star at the top left, a ring at the middle right and a cross at the bottom right.",
    ]


def test_answers_are_right() -> None:
    rng = np.random.default_rng(0)
    asked = {}
    for _ in range(400):
        for question_type in QUESTION_TYPES:
            question = ask(SCENE, question_type, rng)
            assert asked.setdefault(question.text, question.answer) == question.answer
    assert {text: asked.get(text) for text in ANSWERS} == ANSWERS


def test_training_questions_never_name_a_held_out_pair() -> None:
    names = [f"{colour} {shape}" for shape, colour in HELD_OUT_PAIRS]
    for index in range(600):
        scene = sample_scene(0, "train", index)
        question = ask(scene, "existence", scene_generator(0, "train", index, purpose=1))
        assert not any(name in question.text for name in names)


def test_a_test_scene_without_the_asked_for_pair_has_its_shape_and_its_colour() -> None:
    for index in range(300):
        scene = sample_scene(0, "test", index)
        question = ask(scene, "existence", scene_generator(0, "test", index, purpose=1), held_out="preferred")
        *_, colour, shape = question.text.rstrip("?").split()
        assert shape in {item.shape for item in scene.objects}
        assert colour in {item.colour for item in scene.objects}


@pytest.mark.parametrize("question_type", QUESTION_TYPES)
def test_no_answer_and_no_blind_rule_is_right_much_more_often_than_chance(question_type: str) -> None:
    answers: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    for index in range(600):
        scene = sample_scene(0, "test", index)
        question = ask(scene, question_type, scene_generator(0, "test", index, purpose=1), held_out="preferred")
        answers[question.answer] += 1
        rules.update(rule for rule, answer in blind_answers(scene, question_type).items() if answer == question.answer)
    limit = {"existence": 0.55, "colour": 0.40, "shape": 0.40, "count": 0.42, "relation": 0.35}[question_type]
    assert max(rules.values()) / 600 < limit
    if question_type == "existence":
        assert abs(answers["yes"] - answers["no"]) < 60
    if question_type == "relation":
        assert abs(answers["yes"] - answers["no"]) < 60


def test_blind_rules_look_at_the_scene() -> None:
    assert blind_answers(SCENE, "colour")["colour of the largest object"] == "red"
    assert blind_answers(SCENE, "shape")["shape of the last object"] == "cross"
    assert blind_answers(SCENE, "count")["number of objects"] == "three"
    assert blind_answers(SCENE, "existence")["always yes"] == "yes"
