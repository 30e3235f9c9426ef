"""The demo's held-out evaluation: questions and caption requests about test scenes, with all that the scoring needs.

The records are plain dictionaries that can be saved as JSON lines beside the predictions; `croc_cli.benchmarks.scenes`
scores them without drawing a scene again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from croc_cli.demo.dataset import SceneImage
from croc_cli.demo.language import DETAIL_REQUESTS, detailed_caption
from croc_cli.demo.questions import QUESTION_TYPES, Question, ask, blind_answers
from croc_cli.demo.scenes import HELD_OUT_PAIRS, Scene, sample_scene, scene_generator
from croc_cli.names import IMAGE_TOKEN

EVALUATION_SEED = 20_241_014
"""Of the test scenes: one fixed set, so that the figures of different runs compare."""

_PURPOSE = 4  # of the random draws, see `scene_generator`
_QUESTIONS_PER_TYPE = 2


def evaluation_records(
    *, num_scenes: int = 60, num_captions: int = 60, seed: int = EVALUATION_SEED
) -> list[dict[str, Any]]:
    """Return the records: two questions of every type about each scene, then the caption requests.

    Question records hold `question_id`, `kind` ("question"), `type`, `question` (as the model is asked, with the image
    placeholder), `answer`, `scene_index`, `names_held_out_pair`, and for the baselines: `swapped_scene_index` (another
    picture to show with the question), `other_question_id` (the other question of the type about the same picture) and
    `blind_answers` (rule → answer).
    Caption records hold `question_id`, `kind` ("caption"), `question`, `answer`, `scene_index`, `objects`, a list of
    [shape, colour] pairs, and `held_out`, which of these were never trained together.

    Args:
        num_scenes: Scenes; each type has twice as many questions.
        num_captions: So many of the scenes are also described.
        seed: Of scenes and questions.
    """
    scenes = [sample_scene(seed, "test", index) for index in range(num_scenes)]
    records = [
        record
        for index, scene in enumerate(scenes)
        for question_type in QUESTION_TYPES
        for record in _question_pair(scene, index, question_type, seed, num_scenes)
    ]
    return records + [_caption_record(scene, index) for index, scene in enumerate(scenes[:num_captions])]


def evaluation_image(scene_index: int, *, seed: int = EVALUATION_SEED) -> SceneImage:
    """Return the picture that a record's `scene_index` or `swapped_scene_index` means."""
    return SceneImage(sample_scene(seed, "test", scene_index))


def _question_pair(
    scene: Scene, index: int, question_type: str, seed: int, num_scenes: int
) -> Iterator[dict[str, Any]]:
    """Yield two different questions of a type, each the other's baseline."""
    rng = scene_generator(seed, "test", index, purpose=_PURPOSE + QUESTION_TYPES.index(question_type))
    questions: dict[str, Question] = {}
    while len(questions) < _QUESTIONS_PER_TYPE:
        question = ask(scene, question_type, rng, held_out="preferred")
        questions.setdefault(question.text, question)
    # A distance from 1 to num_scenes - 1, so that the other picture is never the question's own.
    distance = int(rng.integers(1, num_scenes)) if num_scenes > 1 else 0
    for number, question in enumerate(questions.values()):
        yield {
            "question_id": f"{question_type}-{index:04d}-{number}",
            "kind": "question",
            "type": question_type,
            "question": f"{IMAGE_TOKEN}\n{question.text}",
            "answer": question.answer,
            "scene_index": index,
            "names_held_out_pair": _names_held_out_pair(scene, question),
            "swapped_scene_index": (index + distance) % num_scenes,
            "other_question_id": f"{question_type}-{index:04d}-{1 - number}",
            "blind_answers": blind_answers(scene, question_type),
        }


def _names_held_out_pair(scene: Scene, question: Question) -> bool:
    """Tell whether answering needs an object whose shape and colour were never trained together."""
    words = set(question.text.rstrip("?").split()) | {question.answer}
    held_out = [item for item in scene.objects if (item.shape, item.colour) in HELD_OUT_PAIRS]
    return any(item.shape in words or item.place in question.text for item in held_out)


def _caption_record(scene: Scene, index: int) -> dict[str, Any]:
    return {
        "question_id": f"caption-{index:04d}",
        "kind": "caption",
        "question": f"{IMAGE_TOKEN}\n{DETAIL_REQUESTS[0]}",
        "answer": detailed_caption(scene),
        "scene_index": index,
        "objects": [[item.shape, item.colour] for item in scene.objects],
        "held_out": [(item.shape, item.colour) in HELD_OUT_PAIRS for item in scene.objects],
    }
