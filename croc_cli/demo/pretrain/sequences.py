"""Builds the nano LLM's training sequences: scenes as soft tokens or in words, and what is said and asked about them.

A soft token stands where a visual token will stand: the sum of one object's attribute words as the LLM embeds them. A
grid is the 36 tokens of a picture: the patches under an object's centre are such sums, the others carry nothing.

Letters: B sequences · T tokens · S soft tokens of a scene · A attributes of an object.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from croc_cli.demo.language import BRIEF_FORMS, brief_caption, detail_request, detailed_caption, scene_in_words
from croc_cli.demo.pretrain.tokenizer import SYSTEM_PROMPT
from croc_cli.demo.pretrain.tower import ATTRIBUTES, MAX_OBJECTS, NUM_PATCHES
from croc_cli.demo.questions import QUESTION_TYPES, ask
from croc_cli.demo.scenes import Scene, SceneObject
from croc_cli.names import IGNORE_INDEX

Form = Literal["objects", "grid", "words"]
"""How a scene is given: one soft token per object, a picture's grid of soft tokens, or a text."""

_CAPTION_WEIGHT = (
    0.25  # a caption has fifty tokens and a turn one answer; unweighted, captions would crowd out questions
)
_END_WEIGHT = 0.1


@dataclass
class Sequence:
    """Token ids with what each position is trained to predict next.

    Attributes:
        ids: Token ids; soft tokens are pad tokens here.
        targets: For each position, the token to predict, or IGNORE_INDEX.
        weights: For each position, the weight of its loss.
        soft_start: Position of the first soft token, or None for a scene in words.
        sentence_ends: Of a scene in words, the position of the full stop after each object.
    """

    ids: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    soft_start: int | None = None
    sentence_ends: list[int] = field(default_factory=list)

    def add(self, ids: tuple[int, ...], weight: float = 0.0) -> None:
        """Append tokens; with a weight, the position before each is trained to predict it."""
        for token in ids:
            if weight:
                self.targets[-1], self.weights[-1] = token, weight
            self.ids.append(token)
            self.targets.append(IGNORE_INDEX)
            self.weights.append(0.0)

    def hint(self, positions_back: int, token: int, weight: float) -> None:
        """Train an earlier position to predict a token that comes only later (see `SequenceWriter`)."""
        self.targets[-positions_back], self.weights[-positions_back] = token, weight


@dataclass(frozen=True)
class SequenceBatch:
    """Sequences of one form, filled up to one length.

    Attributes:
        ids: [B, T] int64.
        targets: [B, T] int64, IGNORE_INDEX where nothing is trained.
        weights: [B, T] float32.
        soft_start: Position of the soft tokens, the same in all sequences, or None.
        soft_words: [B, S, A] int64, ids of the attribute words, or -1 for a token that carries nothing.
        sentence_ends: [B, S] int64, where a scene in words ends its objects' sentences, or None; 0 for none.
    """

    ids: Tensor
    targets: Tensor
    weights: Tensor
    soft_start: int | None
    soft_words: Tensor
    sentence_ends: Tensor | None = None


class SequenceWriter:
    """Writes scenes as training sequences.

    The answer is also trained, with `hint_weight`, at the last word of the question and at the template tokens after
    it. Without these hints the answer has to travel over tokens that have learned nothing yet: in trials, one template
    token between question and answer kept the nano LLM at chance for 700 steps.

    Args:
        tokenizer: The nano tokenizer.
        hint_weight: Loss weight of the hints; 0 is the plain objective.
    """

    def __init__(self, tokenizer: Any, *, hint_weight: float = 0.0) -> None:
        self._tokenizer = tokenizer
        self._encode = lru_cache(maxsize=None)(self._encode_uncached)
        self._attribute_words = {
            name: [self._encode(f" {value}")[0] for value in values] for name, values in ATTRIBUTES.items()
        }
        self.hint_weight = hint_weight

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def conversation(
        self,
        scene: Scene,
        form: Form,
        rng: np.random.Generator,
        *,
        num_questions: int,
        with_system: bool,
        end: str = "",
    ) -> Sequence:
        """Write a conversation of several questions about a scene, then perhaps a request for a detailed caption.

        Args:
            scene: The scene.
            form: How the scene is given.
            rng: What questions are drawn from.
            num_questions: Questions, one turn each.
            with_system: Begin with the system prompt.
            end: "caption" adds the request.
        """
        answers: dict[str, str] = {}
        while len(answers) < num_questions:  # a question asked twice could be answered by reading the first answer
            question_type = QUESTION_TYPES[int(rng.integers(len(QUESTION_TYPES)))]
            question = ask(scene, question_type, rng, held_out="any")
            answers.setdefault(question.text, question.answer)
        turns = list(answers.items())
        if end == "caption":
            turns.append((detail_request(rng), detailed_caption(scene)))
        return self.dialogue(scene, form, turns, with_system=with_system)

    def dialogue(self, scene: Scene, form: Form, turns: list[tuple[str, str]], *, with_system: bool) -> Sequence:
        """Write turns in the vicuna_v1 template, the scene before the first; an empty last answer is left open."""
        sequence = self._open(f"{SYSTEM_PROMPT} USER:" if with_system else "USER:")
        for index, (request, answer) in enumerate(turns):
            if index:
                sequence.add(self._encode("USER:"))
            if index or form == "words":
                request = scene_in_words(scene, request) if not index else request
                for piece in f" {request}".splitlines(keepends=True):
                    if not index and not sequence.sentence_ends:
                        sequence.sentence_ends = self._sentence_ends(scene, piece, start=len(sequence.ids))
                    sequence.add(self._encode(piece))
            else:
                sequence.add(self._encode(" "))
                self._add_soft(sequence, form)
                sequence.add(self._encode(f"\n{request}"))
            sequence.add(self._encode(" ASSISTANT:"))
            if not answer:
                break
            ids = self._encode(f" {answer}")
            is_question = len(ids) == 1
            if is_question and self.hint_weight:
                for positions_back in (2, 3, 4):
                    sequence.hint(positions_back, ids[0], self.hint_weight)
            sequence.add(ids, 1.0 if is_question else _CAPTION_WEIGHT)
            sequence.add((self._tokenizer.eos_token_id,), _END_WEIGHT)
        return sequence

    def plain_caption(self, scene: Scene, form: Form, rng: np.random.Generator) -> Sequence:
        """Write a caption straight after the soft tokens, as the plain template does; two in three are brief."""
        kind = int(rng.integers(len(BRIEF_FORMS) + 1))
        caption = brief_caption(scene, BRIEF_FORMS[kind]) if kind < len(BRIEF_FORMS) else detailed_caption(scene)
        sequence = self._open("")
        self._add_soft(sequence, form)
        sequence.add(self._encode(caption), _CAPTION_WEIGHT)
        sequence.add(self._encode("\n"), _END_WEIGHT)
        return sequence

    def _open(self, text: str) -> Sequence:
        sequence = Sequence()
        sequence.add((self._tokenizer.bos_token_id,))
        sequence.add(self._encode(text) if text else ())
        return sequence

    def _sentence_ends(self, scene: Scene, text: str, *, start: int) -> list[int]:
        (stop,) = self._encode(".")
        stops = [start + offset for offset, token in enumerate(self._encode(text)) if token == stop]
        return stops[-len(scene.objects) :]  # the sentences before tell what follows, and how many objects

    def _add_soft(self, sequence: Sequence, form: Form) -> None:
        sequence.soft_start = len(sequence.ids)
        sequence.add((self._tokenizer.pad_token_id,) * (NUM_PATCHES if form == "grid" else MAX_OBJECTS))

    def batch(
        self, scenes: list[Scene], sequences: list[Sequence], form: Form, rng: np.random.Generator
    ) -> SequenceBatch:
        """Stack sequences of one form, with the soft tokens of their scenes."""
        length = max(len(sequence.ids) for sequence in sequences)
        ids = np.full((len(sequences), length), self._tokenizer.pad_token_id)
        targets = np.full((len(sequences), length), IGNORE_INDEX)
        weights = np.zeros((len(sequences), length), dtype=np.float32)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence.ids)] = sequence.ids
            targets[row, : len(sequence.ids)] = sequence.targets
            weights[row, : len(sequence.ids)] = sequence.weights
        if form == "words":
            words, ends = self._described_words(scenes, sequences)
        else:
            words, ends = np.stack([self._soft_words(scene, form, rng) for scene in scenes]), None
        return SequenceBatch(
            ids=torch.from_numpy(ids),
            targets=torch.from_numpy(targets),
            weights=torch.from_numpy(weights),
            soft_start=sequences[0].soft_start,
            soft_words=torch.from_numpy(words),
            sentence_ends=None if ends is None else torch.from_numpy(ends),
        )

    def _soft_words(self, scene: Scene, form: Form, rng: np.random.Generator) -> np.ndarray:
        num_tokens = NUM_PATCHES if form == "grid" else MAX_OBJECTS
        words = np.full((num_tokens, len(ATTRIBUTES)), -1)
        order = rng.permutation(len(scene.objects))
        for position, index in enumerate(order):
            item = scene.objects[index]
            words[item.patch if form == "grid" else position] = self._words_of(item)
        return words

    def _described_words(self, scenes: list[Scene], sequences: list[Sequence]) -> tuple[np.ndarray, np.ndarray]:
        words = np.full((len(scenes), MAX_OBJECTS, len(ATTRIBUTES)), -1)
        ends = np.zeros((len(scenes), MAX_OBJECTS), dtype=np.int64)
        for row, (scene, sequence) in enumerate(zip(scenes, sequences, strict=True)):
            for position, (item, end) in enumerate(zip(scene.objects, sequence.sentence_ends, strict=True)):
                words[row, position], ends[row, position] = self._words_of(item), end
        return words, ends

    def _words_of(self, item: SceneObject) -> list[int]:
        return [self._attribute_words[name][values.index(getattr(item, name))] for name, values in ATTRIBUTES.items()]


def embed_batch(
    batch: SequenceBatch,
    table: Tensor,
    *,
    noise: float,
    scaffold: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Embed a batch, its soft tokens put in as sums of their words, scaled and blurred as no two projectors agree.

    Args:
        batch: The batch.
        table: [V, D] float, the LLM's word embeddings.
        noise: 0 gives clean sums and zeros elsewhere; 1 the pretraining's spread of scales, noise and background.
        scaffold: Of a scene in words: how much of an object's soft token is added to the full stop of its sentence, at
            most; each scene draws its share. From there the model knows how to answer, and as the scaffold goes it
            learns to gather the words at the full stop itself.
        generator: What noise and shares are drawn from.

    Returns:
        [B, T, D] float.
    """
    embeddings = torch.nn.functional.embedding(batch.ids, table)
    is_object = (batch.soft_words[..., :1] >= 0).to(table.dtype)
    soft = torch.nn.functional.embedding(batch.soft_words.clamp(min=0), table).sum(2) * is_object
    if batch.soft_start is None:
        if not scaffold or batch.sentence_ends is None:
            return embeddings
        share = scaffold * torch.rand(len(soft), 1, 1, generator=generator)
        return embeddings.scatter_add(1, batch.sentence_ends[..., None].expand_as(soft), soft * share)
    if noise:
        num_rows, num_soft, size = soft.shape

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        spread = table.detach()[batch.soft_words[batch.soft_words >= 0]].std()
        scale = torch.exp(0.35 * noise * draw(num_rows, 1, 1) + 0.1 * noise * draw(num_rows, num_soft, 1))
        blur = 0.35 * noise * spread * draw(num_rows, 1, 1).abs() * draw(num_rows, num_soft, size)
        # One vector that all empty patches of a picture share, as the ground of a real picture gives.
        ground = noise * spread * draw(num_rows, 1, 1).abs() * draw(num_rows, 1, size) * (1 - is_object)
        soft = soft * scale + blur + ground
    start = batch.soft_start
    return torch.cat([embeddings[:, :start], soft, embeddings[:, start + soft.shape[1] :]], dim=1)
