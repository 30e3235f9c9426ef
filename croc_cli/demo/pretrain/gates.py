"""Measures the nano LLM alone, on test scenes that it is given as soft tokens or in words, never as a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from croc_cli.demo.pretrain.sequences import Form, SequenceWriter, embed_batch
from croc_cli.demo.questions import QUESTION_TYPES, ask
from croc_cli.demo.scenes import sample_scene, scene_generator

FORMS: tuple[Form, ...] = ("objects", "grid", "words")
GATE = 0.95
"""Share of right answers that the LLM alone has to reach in every question type before anything is built on it."""

_PURPOSE = 3  # of the random draws, see `scene_generator`


@torch.no_grad()
def measure_gates(
    model: LlamaForCausalLM, tokenizer: Any, *, num_scenes: int, seed: int = 1, forms: tuple[Form, ...] = FORMS
) -> dict[str, dict[str, float]]:
    """Ask one question of every type about each test scene, in LLaVA's vicuna_v1 template.

    An answer counts when the LLM's most likely token is the answer's word; the soft tokens are clean sums of words.

    Args:
        model: The LLM.
        tokenizer: Its tokenizer.
        num_scenes: Test scenes, one question of every type each.
        seed: Of the scenes.
        forms: How the scenes are given.

    Returns:
        Form → question type → share of right answers.
    """
    writer = SequenceWriter(tokenizer)
    scenes = [sample_scene(seed, "test", index) for index in range(num_scenes)]
    shares: dict[str, dict[str, float]] = {}
    for form in forms:
        shares[form] = {}
        for question_type in QUESTION_TYPES:
            questions = [
                ask(scene, question_type, scene_generator(seed, "test", index, purpose=_PURPOSE), held_out="preferred")
                for index, scene in enumerate(scenes)
            ]
            sequences = [
                writer.dialogue(scene, form, [(question.text, "")], with_system=True)
                for scene, question in zip(scenes, questions, strict=True)
            ]
            batch = writer.batch(scenes, sequences, form, np.random.default_rng(seed))
            embeddings = embed_batch(batch, model.get_input_embeddings().weight, noise=0.0)
            logits = model(inputs_embeds=embeddings, use_cache=False).logits
            last = torch.tensor([len(sequence.ids) - 1 for sequence in sequences])
            said = logits[torch.arange(len(scenes)), last].argmax(-1).tolist()
            right = [
                tokenizer.decode([token]).strip() == question.answer
                for token, question in zip(said, questions, strict=True)
            ]
            shares[form][question_type] = round(sum(right) / len(right), 4)
    return shares
