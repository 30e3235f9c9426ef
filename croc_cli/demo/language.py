"""What can be said about a scene: brief captions, detailed captions and the requests that ask for them.

The wordings are few and plain on purpose: the nano LLM has under two million parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from croc_cli.demo.scenes import Scene, SceneObject

NUMBER_WORDS = ("zero", "one", "two", "three", "four")

BRIEF_FORMS = ("colour", "size", "place")
"""The one attribute beside the shape that a brief caption tells."""

DETAIL_REQUESTS = (
    "Describe the picture in detail.",
    "Describe every object in the picture.",
    "What is in the picture?",
)
"""Requests that are answered by a detailed caption."""

SCENE_IN_WORDS = "This is a picture in words."
"""Opens a text-only task; every object in a sentence and a question follow."""


def brief_caption(scene: Scene, form: str) -> str:
    """Name every object in reading order with one attribute beside its shape.

    Args:
        scene: The scene.
        form: One of BRIEF_FORMS; for example "place" gives "a star at the top left and a ring at the middle centre".
    """
    return f"{_join([_brief_phrase(item, form) for item in scene.objects])}."


def detailed_caption(scene: Scene) -> str:
    """Tell the number of objects, then place, size, colour and shape of each in reading order.

    The place comes first: a small LLM that has named one can look there, where it would otherwise have to name the
    colour of an object that it has yet to choose.
    """
    phrases = [f"At the {item.place} is a {item.size} {item.colour} {item.shape}." for item in scene.objects]
    return " ".join([_count(scene), *phrases])


def detail_request(rng: np.random.Generator) -> str:
    """Draw one of the requests for a detailed caption."""
    return DETAIL_REQUESTS[int(rng.integers(len(DETAIL_REQUESTS)))]


def scene_in_words(scene: Scene, question: str) -> str:
    """Return the text-only form of a question: the scene described in words, then the question on its own line."""
    phrases = [f"A {item.size} {item.colour} {item.shape} is at the {item.place}." for item in scene.objects]
    return "\n".join([" ".join([SCENE_IN_WORDS, _count(scene), *phrases]), question])


def _count(scene: Scene) -> str:
    return f"There are {NUMBER_WORDS[len(scene.objects)]} objects."


def _brief_phrase(item: SceneObject, form: str) -> str:
    if form == "place":
        return f"a {item.shape} at the {item.place}"
    return f"a {item.colour if form == 'colour' else item.size} {item.shape}"


def _join(phrases: list[str]) -> str:
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"
