"""The nano LLM's training sequences: what is trained, where soft tokens stand, and the scaffold under running text."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from croc_cli.demo.pretrain.backbones import LLM
from croc_cli.demo.pretrain.sequences import SequenceWriter, embed_batch
from croc_cli.demo.scenes import HELD_OUT_PAIRS, sample_scene
from croc_cli.names import IGNORE_INDEX

SCENES = [sample_scene(0, "words", index) for index in range(6)]
TABLE = torch.randn(576, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(LLM)


def test_the_llm_reads_of_pairs_that_no_training_picture_shows() -> None:
    scenes = [sample_scene(0, "words", index) for index in range(200)]
    read = {(item.shape, item.colour) for scene in scenes for item in scene.objects}
    assert read >= HELD_OUT_PAIRS


def test_only_answers_are_trained_and_an_open_answer_is_not(tokenizer: Any) -> None:
    writer = SequenceWriter(tokenizer)
    turns = [("How many objects are there?", "three"), ("What colour is the star?", "")]
    sequence = writer.dialogue(SCENES[0], "objects", turns, with_system=False)
    trained = [target for target in sequence.targets if target != IGNORE_INDEX]
    assert tokenizer.decode(trained) == " three</s>"


def test_hints_train_the_answer_at_the_question_s_last_tokens(tokenizer: Any) -> None:
    writer = SequenceWriter(tokenizer, hint_weight=0.5)
    sequence = writer.dialogue(SCENES[0], "objects", [("How many objects are there?", "three")], with_system=False)
    (three,) = tokenizer(" three", add_special_tokens=False)["input_ids"]
    weights = [w for target, w in zip(sequence.targets, sequence.weights, strict=True) if target == three]
    assert weights == [0.5, 0.5, 0.5, 1.0]


def test_a_grid_s_soft_tokens_stand_at_the_objects_patches(tokenizer: Any) -> None:
    writer = SequenceWriter(tokenizer)
    rng = np.random.default_rng(0)
    sequences = [writer.plain_caption(scene, "grid", rng) for scene in SCENES]
    batch = writer.batch(SCENES, sequences, "grid", rng)
    for row, scene in enumerate(SCENES):
        filled = {patch for patch in range(36) if batch.soft_words[row, patch, 0] >= 0}
        assert filled == {item.patch for item in scene.objects}
    embeddings = embed_batch(batch, TABLE, noise=0.0)
    item = SCENES[0].objects[0]
    words = [f" {word}" for word in (item.shape, item.colour, item.size, item.row, item.column)]
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
    assert batch.soft_start is not None
    torch.testing.assert_close(embeddings[0, batch.soft_start + item.patch], TABLE[ids].sum(0))


def test_the_scaffold_puts_an_object_s_words_at_its_full_stop_and_nothing_elsewhere(tokenizer: Any) -> None:
    writer = SequenceWriter(tokenizer)
    rng = np.random.default_rng(0)
    sequences = [
        writer.conversation(scene, "words", rng, num_questions=2, with_system=True, end="") for scene in SCENES
    ]
    batch = writer.batch(SCENES, sequences, "words", rng)
    assert batch.sentence_ends is not None
    for row, scene in enumerate(SCENES):
        for position, item in enumerate(scene.objects):
            end = int(batch.sentence_ends[row, position])
            sentence = tokenizer.decode(batch.ids[row, end - 9 : end + 1])
            assert sentence == f" A {item.size} {item.colour} {item.shape} is at the {item.place}."
    plain = embed_batch(batch, TABLE, noise=0.0)
    held_up = embed_batch(batch, TABLE, noise=0.0, scaffold=1.0, generator=torch.Generator().manual_seed(1))
    share = torch.rand(len(SCENES), 1, generator=torch.Generator().manual_seed(1))
    added = held_up - plain
    for row, scene in enumerate(SCENES):
        ends = batch.sentence_ends[row, : len(scene.objects)]
        expected = TABLE[batch.soft_words[row, : len(scene.objects)]].sum(1) * share[row]
        torch.testing.assert_close(added[row, ends], expected, atol=1e-5, rtol=1e-5)
        elsewhere = torch.ones(added.shape[1], dtype=torch.bool)
        elsewhere[ends] = False
        assert not added[row, elsewhere].any()
