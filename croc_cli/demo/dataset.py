"""The training data of the demo: conversations about drawn scenes, made on the fly from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from PIL import Image

from croc_cli.data.sample import Sample, Turn
from croc_cli.demo.draw import draw_scene
from croc_cli.demo.language import BRIEF_FORMS, brief_caption, detail_request, detailed_caption, scene_in_words
from croc_cli.demo.questions import QUESTION_TYPES, HeldOut, ask
from croc_cli.demo.scenes import IMAGE_SIZE, PATCH_SIZE, Scene, sample_scene, scene_generator
from croc_cli.names import IMAGE_TOKEN

SceneTask = Literal["brief_captions", "detailed_captions", "questions"]
SCENE_TASKS: tuple[SceneTask, ...] = get_args(SceneTask)

SCENES_SOURCE = "scenes"
"""Name of the source that all scenes are from."""
_PURPOSE = 2  # of the random draws, see `scene_generator`
_BRIEF_REQUEST = "Give a brief description of the picture."  # the plain template leaves it out
_QUESTIONS_PER_SCENE = 6
_REMEMBERED = 1024  # samples: more than any batch of the demo
_CAPTION_SHARE = 0.4
"""Of the question conversations that ask for a detailed caption: half of them at the end, half of them for it alone, as
a model that only ever described pictures after questions about them does not learn to begin with it."""


@dataclass(frozen=True)
class SceneImage:
    """A scene's picture, drawn when it is opened."""

    scene: Scene

    @property
    def name(self) -> str:
        """The picture's file name."""
        return self.scene.name

    def open(self) -> Image.Image:
        """Draw the picture."""
        return draw_scene(self.scene)


class SceneDataset:
    """Conversations about scenes, one per index, the same for the same arguments.

    Args:
        kind: "brief_captions" for align: every object with one attribute; "detailed_captions" for reconstruct: every
            object with all attributes; "questions" for finetune: several questions a scene, some with a request for a
            detailed caption at the end, and some requests for a detailed caption alone.
        num_samples: Length, in samples.
        seed: Of scenes and words.
        split: "train" or "test"; see `croc_cli.demo.scenes.SPLITS`.
        text_only_share: Share of the samples that tell the scene in words instead of showing it, and ask about it.
            Brief captions have none.
        brief: With `detailed_captions`, brief captions of the same pictures (the paper's Table 4e).

    Raises:
        ValueError: The kind is unknown, or the share is not between 0 and 1.
    """

    def __init__(
        self,
        kind: SceneTask,
        *,
        num_samples: int,
        seed: int,
        split: str = "train",
        text_only_share: float = 0.0,
        brief: bool = False,
    ) -> None:
        if kind not in SCENE_TASKS:
            raise ValueError(f"kind of scene data {kind!r} is not one of {', '.join(SCENE_TASKS)}")
        if not 0.0 <= text_only_share <= 1.0:
            raise ValueError(f"text_only_share {text_only_share} is not between 0 and 1")
        self.kind = kind
        self.num_samples = num_samples
        self.seed = seed
        self.split = split
        self.brief = brief
        self.text_only_share = text_only_share if kind != "brief_captions" else 0.0
        # A step asks for the lengths of its samples, then for the samples; pictures are drawn only when opened.
        self._sample = lru_cache(maxsize=_REMEMBERED)(self._make)

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> Sample:
        return self._sample(index)

    def _make(self, index: int) -> Sample:
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} of a scene data set of {self.num_samples}")
        # The kinds draw different scenes: a stage then never meets the pictures of the stage before.
        position = len(SCENE_TASKS) * index + SCENE_TASKS.index(self.kind)
        scene = sample_scene(self.seed, self.split, position)
        rng = scene_generator(self.seed, self.split, position, purpose=_PURPOSE)
        identity = f"{self.kind}-{self.split}-{self.seed}-{index}"
        if rng.random() < self.text_only_share:
            (question, answer), *others = self._questions(scene, rng)
            turns = _turns([(scene_in_words(scene, question), answer), *others], image=False)
            return Sample(identity, turns, source=SCENES_SOURCE)
        return Sample(identity, _turns(self._exchanges(scene, rng), image=True), (SceneImage(scene),), SCENES_SOURCE)

    @property
    def source_names(self) -> tuple[str, ...]:
        """The one name that all scenes have."""
        return (SCENES_SOURCE,)

    def length_hint(self, index: int) -> int:
        """Return about how many tokens a sample has: a word is a token, and so is a patch of its picture."""
        sample = self._sample(index)
        return sum(len(turn.text.split()) for turn in sample.turns) + (IMAGE_SIZE // PATCH_SIZE) ** 2 * len(
            sample.images
        )

    def _exchanges(self, scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Return what is asked and answered about the picture of a scene."""
        if self.kind == "brief_captions":
            return [(_BRIEF_REQUEST, brief_caption(scene, BRIEF_FORMS[int(rng.integers(len(BRIEF_FORMS)))]))]
        description = (detail_request(rng), detailed_caption(scene))
        if self.brief and self.kind == "detailed_captions":
            return [(_BRIEF_REQUEST, brief_caption(scene, BRIEF_FORMS[int(rng.integers(len(BRIEF_FORMS)))]))]
        if self.kind == "detailed_captions":
            return [description]
        draw = rng.random()
        if draw < _CAPTION_SHARE / 2:
            return [description]
        questions = self._questions(scene, rng)
        return [*questions, description] if draw < _CAPTION_SHARE else questions

    def _questions(self, scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
        return _draw_questions(scene, rng, held_out="preferred" if self.split == "test" else "never")


def _draw_questions(scene: Scene, rng: np.random.Generator, *, held_out: HeldOut) -> list[tuple[str, str]]:
    """Draw different questions, one of every type first; the types in random order."""
    types = [QUESTION_TYPES[index] for index in rng.permutation(len(QUESTION_TYPES))]
    answers: dict[str, str] = {}
    while len(answers) < _QUESTIONS_PER_SCENE:
        question = ask(scene, types[len(answers) % len(types)], rng, held_out=held_out)
        answers.setdefault(question.text, question.answer)
    return list(answers.items())


def _turns(exchanges: list[tuple[str, str]], *, image: bool) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for index, (request, answer) in enumerate(exchanges):
        shown = f"{IMAGE_TOKEN}\n{request}" if image and not index else request
        turns += [Turn("human", shown), Turn("gpt", answer)]
    return tuple(turns)
