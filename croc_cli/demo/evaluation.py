"""The demo's held-out evaluation: questions and caption requests about test scenes, with all that the scoring needs.

The records are plain dictionaries that can be saved as JSON lines beside the predictions; `croc_cli.benchmarks.scenes`
scores them without drawing a scene again.
"""

from __future__ import annotations

from typing import Any

from croc_cli.demo.dataset import SceneImage
from croc_cli.demo.language import DETAIL_REQUESTS, detailed_caption
from croc_cli.demo.questions import QUESTION_TYPES, Question, ask, blind_answers
from croc_cli.demo.scenes import HELD_OUT_PAIRS, Scene, sample_scene, scene_generator
from croc_cli.names import IMAGE_TOKEN

EVALUATION_SEED = 20_241_014
"""Of the test scenes: one fixed set, so that the figures of different runs compare."""

_PURPOSE = 4  # of the random draws, see `scene_generator`
_ATTEMPTS = 50  # draws until a question or partner has another answer; nearly always one of the first three


def evaluation_records(*, num_scenes: int = 120, num_captions: int = 60, seed: int = EVALUATION_SEED) -> list[dict[str, Any]]:
    """Return the records: one question of every type about each scene, then the caption requests.

    Question records hold `question_id`, `kind` ("question"), `type`, `question` (as the model is asked, with the image
    placeholder), `answer`, `scene_index`, `names_held_out_pair`, and for the baselines: `swapped_scene_index` (another
    picture to show with the question), `other_question_id` (a question of the same type about the same picture, see
    below) and `blind_answers` (rule → answer). Each question stands beside a second one of its type about its scene;
    only the first has `is_scored` set, the second is there to be answered in its stead.
    Caption records hold `question_id`, `kind` ("caption"), `question`, `answer`, `scene_index` and `objects`, a list of
    [shape, colour] pairs.

    Args:
        num_scenes: Scenes, each asked one question of every type.
        num_captions: The first of the scenes are also described.
        seed: Of scenes and questions.
    """
    records = []
    for index in range(num_scenes):
        scene = sample_scene(seed, "test", index)
        for question_type in QUESTION_TYPES:
            records += _question_pair(scene, index, question_type, seed, num_scenes)
    return records + [
        _caption_record(sample_scene(seed, "test", index), index) for index in range(min(num_captions, num_scenes))
    ]


def evaluation_image(scene_index: int, *, seed: int = EVALUATION_SEED) -> SceneImage:
    """Return the picture that a record's `scene_index` or `swapped_scene_index` means."""
    return SceneImage(sample_scene(seed, "test", scene_index))


def _question_pair(scene: Scene, index: int, question_type: str, seed: int, num_scenes: int) -> list[dict[str, Any]]:
    """Return the scored question of a type and the other question that baseline answers come from."""
    purpose = _PURPOSE + QUESTION_TYPES.index(question_type)
    rng = scene_generator(seed, "test", index, purpose=purpose)
    scored = ask(scene, question_type, rng, for_test=True)
    other = ask(scene, question_type, rng, for_test=True)
    for _ in range(_ATTEMPTS):
        if other.text != scored.text:
            break
        other = ask(scene, question_type, rng, for_test=True)
    identity = f"{question_type}-{index:04d}"
    swapped = int(rng.integers(1, num_scenes) + index) % num_scenes if num_scenes > 1 else index
    records = []
    for name, question, is_scored in ((identity, scored, True), (f"{identity}-other", other, False)):
        records.append(
            {
                "question_id": name,
                "kind": "question",
                "type": question_type,
                "question": f"{IMAGE_TOKEN}\n{question.text}",
                "answer": question.answer,
                "scene_index": index,
                "is_scored": is_scored,
                "names_held_out_pair": _names_held_out_pair(scene, question),
                "swapped_scene_index": swapped,
                "other_question_id": f"{identity}-other" if is_scored else identity,
                "blind_answers": blind_answers(scene, question_type),
            }
        )
    return records


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
    }
