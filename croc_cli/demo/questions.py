"""Questions about a scene with answers of one word, and rules that would answer them without reading the question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from croc_cli.demo.language import NUMBER_WORDS
from croc_cli.demo.scenes import COLOURS, COLUMNS, HELD_OUT_PAIRS, PLACES, ROWS, SHAPES, SIZES, Scene, SceneObject

QUESTION_TYPES = ("existence", "colour", "count", "shape", "relation")

_WORDINGS = {
    "existence": ("Is there a {colour} {shape}?", "Do you see a {colour} {shape}?"),
    "colour": ("What colour is the {shape}?", "What is the colour of the {shape}?"),
    "shape": ("Which shape is at the {place}?", "What shape do you see at the {place}?"),
    "count line": ("How many objects are in the {value}?",),
    "count all": ("How many objects are there?", "How many objects do you see?"),
    "relation check": ("Is the {one} {relation} the {other}?",),
    "relation choice": ("Is the {one} {choice} the {other}?",),
}
_RELATIONS = ("left of", "right of", "above", "below")
_CHOICES = {"x": "left or right of", "y": "above or below"}
_RECOMBINED_SHARE = 0.8  # of training's "no" questions about existence; the test asks no others


@dataclass(frozen=True)
class Question:
    """A question about one scene.

    Attributes:
        type: One of QUESTION_TYPES.
        text: The question.
        answer: The right answer, one word.
    """

    type: str
    text: str
    answer: str


@dataclass(frozen=True)
class _Count:
    kind: str
    value: str
    number: int


HeldOut = Literal["never", "any", "preferred"]
"""Whether a question about existence may name a held-out pair."""


def ask(scene: Scene, question_type: str, rng: np.random.Generator, *, held_out: HeldOut = "never") -> Question:
    """Draw a question of one type about a scene.

    Yes and no are equally likely, and so are the counts that the scene allows.

    Args:
        scene: The scene.
        question_type: One of QUESTION_TYPES.
        rng: What the draws are made from.
        held_out: "never" names no held-out pair, not even where the answer is no; "preferred", for the test, names one
            half of the time under either answer, and asks only what takes binding attributes to objects; "any" treats
            all pairs alike.

    Raises:
        KeyError: The question type is not one of QUESTION_TYPES.
    """
    if question_type == "existence":
        return _existence(scene, rng, held_out)
    return _MAKERS[question_type](scene, rng)


def _pick(rng: np.random.Generator, items: list[SceneObject]) -> SceneObject:
    return items[int(rng.integers(len(items)))]


def _word(rng: np.random.Generator, wording: str, **values: str) -> str:
    wordings = _WORDINGS[wording]
    return wordings[int(rng.integers(len(wordings)))].format(**values)


def _existence(scene: Scene, rng: np.random.Generator, held_out: HeldOut) -> Question:
    present = [(item.shape, item.colour) for item in scene.objects]
    is_there = bool(rng.integers(2))
    if is_there:
        pairs = present
    elif held_out == "preferred" or rng.random() < _RECOMBINED_SHARE:
        pairs = [(shape, colour) for shape, _ in present for _, colour in present]
    else:
        pairs = [(shape, colour) for shape in SHAPES for colour in COLOURS]
    candidates = [pair for pair in pairs if (pair in present) == is_there]
    if held_out != "any":
        unseen = [pair for pair in candidates if pair in HELD_OUT_PAIRS]
        seen = [pair for pair in candidates if pair not in HELD_OUT_PAIRS]
        # The test prefers them under yes and under no alike: never having seen a pair must not tell the answer.
        candidates = unseen if held_out == "preferred" and unseen and (rng.random() < 0.5 or not seen) else seen
    shape, colour = candidates[int(rng.integers(len(candidates)))]
    text = _word(rng, "existence", colour=colour, shape=shape)
    return Question("existence", text, "yes" if is_there else "no")


def _colour(scene: Scene, rng: np.random.Generator) -> Question:
    item = _pick(rng, list(scene.objects))
    return Question("colour", _word(rng, "colour", shape=item.shape), item.colour)


def _shape(scene: Scene, rng: np.random.Generator) -> Question:
    item = _pick(rng, list(scene.objects))
    return Question("shape", _word(rng, "shape", place=item.place), item.shape)


def _count(scene: Scene, rng: np.random.Generator) -> Question:
    counts = [_Count("count all", "", len(scene.objects))]
    for row in ROWS:
        counts.append(_Count("count line", f"{row} row", sum(item.row == row for item in scene.objects)))
    for column in COLUMNS:
        counts.append(_Count("count line", f"{column} column", sum(item.column == column for item in scene.objects)))
    numbers = sorted({count.number for count in counts})
    number = numbers[int(rng.integers(len(numbers)))]
    # Drawn by kind first, or the six lines would crowd out the total.
    kinds = sorted({count.kind for count in counts if count.number == number})
    kind = kinds[int(rng.integers(len(kinds)))]
    fitting = [count for count in counts if (count.kind, count.number) == (kind, number)]
    count = fitting[int(rng.integers(len(fitting)))]
    return Question("count", _word(rng, count.kind, value=count.value), NUMBER_WORDS[count.number])


def _relation(scene: Scene, rng: np.random.Generator) -> Question:
    options = [
        (axis, one, other)
        for axis in ("x", "y")
        for one in scene.objects
        for other in scene.objects
        if _rank(one, axis) != _rank(other, axis)
    ]
    axis, one, other = options[int(rng.integers(len(options)))]
    before, after = _RELATIONS[:2] if axis == "x" else _RELATIONS[2:]
    truth = before if _rank(one, axis) < _rank(other, axis) else after
    if rng.random() < 0.5:
        text = _word(rng, "relation choice", one=one.shape, choice=_CHOICES[axis], other=other.shape)
        return Question("relation", text, truth.split()[0])
    asked = before if rng.integers(2) else after
    text = _word(rng, "relation check", one=one.shape, relation=asked, other=other.shape)
    return Question("relation", text, "yes" if asked == truth else "no")


def _rank(item: SceneObject, axis: str) -> int:
    return COLUMNS.index(item.column) if axis == "x" else ROWS.index(item.row)


_MAKERS: dict[str, Callable[[Scene, np.random.Generator], Question]] = {
    "colour": _colour,
    "count": _count,
    "shape": _shape,
    "relation": _relation,
}


def blind_answers(scene: Scene, question_type: str) -> dict[str, str]:
    """Answer a question of one type by rules that look at the scene and never at the question.

    Returns:
        Name of the rule → its answer.
    """
    constants = {
        "existence": ("yes", "no"),
        "relation": ("yes", "no", "left", "right", "above", "below"),
        "count": NUMBER_WORDS,
        "colour": COLOURS,
        "shape": SHAPES,
    }[question_type]
    rules = {f"always {word}": word for word in constants}
    if question_type in ("colour", "shape"):
        for name, item in _salient_objects(scene).items():
            rules[f"{question_type} of the {name} object"] = getattr(item, question_type)
    elif question_type == "count":
        rules["number of objects"] = NUMBER_WORDS[len(scene.objects)]
        for size in SIZES:
            rules[f"number of {size} objects"] = NUMBER_WORDS[sum(item.size == size for item in scene.objects)]
        for name, lines in (
            ("row", [item.row for item in scene.objects]),
            ("column", [i.column for i in scene.objects]),
        ):
            rules[f"objects in the fullest {name}"] = NUMBER_WORDS[max(lines.count(line) for line in lines)]
    else:
        rules["yes where there are four objects"] = "yes" if len(scene.objects) == 4 else "no"
        rules["yes where there are three objects"] = "yes" if len(scene.objects) == 3 else "no"
    return rules


def _salient_objects(scene: Scene) -> dict[str, SceneObject]:
    """Return the objects that a model could name without knowing which one is asked for."""
    centre = PLACES[len(PLACES) // 2]
    return {
        "largest": max(scene.objects, key=lambda item: item.radius),
        "smallest": min(scene.objects, key=lambda item: item.radius),
        "first": scene.objects[0],
        "last": scene.objects[-1],
        "most central": min(
            scene.objects,
            key=lambda item: (
                abs(ROWS.index(item.row) - ROWS.index(centre[0]))
                + abs(COLUMNS.index(item.column) - COLUMNS.index(centre[1]))
            ),
        ),
    }
