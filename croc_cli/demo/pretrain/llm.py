"""Trains the nano LLM from nothing to answer questions about scenes given as soft tokens or in words."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from croc_cli.demo.pretrain.sequences import Form, SequenceBatch, SequenceWriter, embed_batch
from croc_cli.demo.scenes import Scene, sample_scene
from croc_cli.names import IGNORE_INDEX

logger = logging.getLogger(__name__)

VOCABULARY_SIZE = 576
"""Rows of the embedding, in tokens: the tokenizer's 524, and some to spare."""


@dataclass(frozen=True)
class LlmTraining:
    """How the LLM is trained.

    Attributes:
        batch_size: Scenes a step.
        num_questions: Questions a scene.
        seed: Of scenes, weights and draws.
        scale: Of every leg's steps; below 1 for trials.
    """

    batch_size: int = 48
    num_questions: int = 8
    seed: int = 0
    scale: float = 1.0


@dataclass(frozen=True)
class Phase:
    """A stretch of a leg; easier forms come first, and stay in the mix.

    Attributes:
        until: Where it ends, as a share of the leg.
        forms: Share of the batches that each form has.
        captions: Share of the batches that are captions in the plain template.
        system: Share of the conversations that begin with the system prompt.
        noise: Of the soft tokens, see `embed_batch`.
        hints: Weight of the hints, see `SequenceWriter`.
        scaffold: Of scenes in words, see `embed_batch`.
    """

    until: float
    forms: dict[Form, float]
    captions: float
    system: float
    noise: float
    hints: float
    scaffold: float = 0.0


@dataclass(frozen=True)
class Leg:
    """A training with a learning rate that warms up, holds and falls.

    Attributes:
        num_steps: Optimizer steps.
        learning_rate: Peak rate.
        warm_up: Share of the steps until the peak.
        fall_from: Share of the steps after which the rate falls to a fiftieth.
        phases: What is trained when.
    """

    num_steps: int
    learning_rate: float
    warm_up: float
    fall_from: float
    phases: tuple[Phase, ...]

    def rate(self, progress: float) -> float:
        """Return the learning rate at a share of the leg, as a share of its peak."""
        if progress < self.warm_up:
            return (progress + 1e-3) / self.warm_up
        if progress < self.fall_from:
            return 1.0
        return 1.0 - 0.98 * (progress - self.fall_from) / (1 - self.fall_from)


_SOFT_TOKENS = Leg(
    num_steps=4_000,
    learning_rate=1.5e-3,
    warm_up=0.02,
    fall_from=0.6,
    phases=(
        Phase(0.12, {"objects": 1.0}, captions=0.1, system=0.0, noise=0.3, hints=1.0),
        Phase(0.30, {"objects": 0.5, "grid": 0.5}, captions=0.15, system=0.3, noise=0.6, hints=0.7),
        Phase(0.80, {"objects": 0.15, "grid": 0.5, "words": 0.35}, captions=0.15, system=0.6, noise=1.0, hints=0.4),
        Phase(1.00, {"objects": 0.1, "grid": 0.55, "words": 0.35}, captions=0.15, system=1.0, noise=1.0, hints=0.0),
    ),
)
_RUNNING_TEXT = Leg(
    num_steps=1_500,
    learning_rate=1e-3,
    warm_up=0.03,
    fall_from=0.5,
    phases=(
        Phase(0.20, {"grid": 0.4, "words": 0.6}, captions=0.25, system=0.6, noise=1.0, hints=0.4, scaffold=1.0),
        Phase(0.50, {"grid": 0.4, "words": 0.6}, captions=0.25, system=0.6, noise=1.0, hints=0.3, scaffold=0.7),
        Phase(1.00, {"grid": 0.5, "words": 0.5}, captions=0.25, system=1.0, noise=1.0, hints=0.0),
    ),
)
_TEXT_ALONE = Leg(
    num_steps=1_300,
    learning_rate=1e-3,
    warm_up=0.03,
    fall_from=0.5,
    phases=(
        Phase(0.60, {"grid": 0.3, "words": 0.7}, captions=0.3, system=0.8, noise=1.0, hints=0.2),
        Phase(1.00, {"grid": 0.4, "words": 0.6}, captions=0.3, system=1.0, noise=1.0, hints=0.0),
    ),
)
CURRICULUM = (_SOFT_TOKENS, _RUNNING_TEXT, _TEXT_ALONE)
"""First to answer about soft tokens; then the scaffold leads from there to running text, which 4,000 steps without it
did not teach (existence, count, shape and relation between 0.64 and 0.82)."""


def llm_config(tokenizer: Any) -> LlamaConfig:
    """Return the nano LLM: 4 layers of 192 dimensions."""
    return LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        initializer_range=0.06,  # at the usual 0.02 the sums of words start too faint to be told apart
        # Tied for the pretraining only: a soft token's words can then be copied to the output from the first step on.
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def train_llm(
    tokenizer: Any, settings: LlmTraining, *, on_progress: Callable[[int, LlamaForCausalLM], None] | None = None
) -> LlamaForCausalLM:
    """Train an LLM from nothing, leg by leg; about an hour and a quarter on two CPU cores.

    Args:
        tokenizer: The nano tokenizer.
        settings: How it is trained.
        on_progress: Called with the step and the model every 500 steps of a leg.
    """
    torch.manual_seed(settings.seed)
    model = LlamaForCausalLM(llm_config(tokenizer))
    writer = SequenceWriter(tokenizer)
    rng = np.random.default_rng(settings.seed)
    first_scene = 0
    for leg in CURRICULUM:
        num_steps = max(1, round(leg.num_steps * settings.scale))
        optimizer = torch.optim.AdamW(_parameter_groups(model), lr=leg.learning_rate, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate_at, leg, num_steps))
        report = _Progress(on_progress)
        for step in range(num_steps):
            phase = next(phase for phase in leg.phases if step / num_steps < phase.until)
            writer.hint_weight = phase.hints
            scenes = [sample_scene(settings.seed, "words", first_scene + row) for row in range(settings.batch_size)]
            first_scene += settings.batch_size
            form, batch = draw_batch(writer, scenes, phase, rng, num_questions=settings.num_questions)
            loss = _take_step(model, batch, phase, optimizer)
            schedule.step()
            report(step + 1, form, loss, model)
    return untie(model)


def _rate_at(leg: Leg, num_steps: int, step: int) -> float:
    return leg.rate(step / num_steps)


def _take_step(model: LlamaForCausalLM, batch: SequenceBatch, phase: Phase, optimizer: torch.optim.Optimizer) -> float:
    embeddings = embed_batch(batch, model.get_input_embeddings().weight, noise=phase.noise, scaffold=phase.scaffold)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # halves the time of a step where the CPU has AVX512-BF16
        logits = model(inputs_embeds=embeddings, use_cache=False).logits
    loss = sequence_loss(logits.float(), batch)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


class _Progress:
    """Logs the mean loss of each form every 50 steps, and calls back every 500."""

    def __init__(self, on_progress: Callable[[int, LlamaForCausalLM], None] | None) -> None:
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._recent: dict[str, list[float]] = {}

    def __call__(self, step: int, form: str, loss: float, model: LlamaForCausalLM) -> None:
        self._recent.setdefault(form, []).append(loss)
        if step % 50 == 0:
            losses = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in sorted(self._recent.items()))
            logger.info("llm step %d: %s, %.0f s", step, losses, time.monotonic() - self._started)
            self._recent.clear()
        if self._on_progress and step % 500 == 0:
            self._on_progress(step, model)


def draw_batch(
    writer: SequenceWriter, scenes: list[Scene], phase: Phase, rng: np.random.Generator, *, num_questions: int
) -> tuple[str, SequenceBatch]:
    """Write the scenes as sequences of one form that is drawn from the phase's mix; the form's name comes first."""
    form: Form = rng.choice(list(phase.forms), p=list(phase.forms.values()))
    if form != "words" and rng.random() < phase.captions:
        sequences = [writer.plain_caption(scene, form, rng) for scene in scenes]
        return f"{form} plain", writer.batch(scenes, sequences, form, rng)
    with_system = rng.random() < phase.system
    end = "caption" if form != "words" and rng.random() < 0.3 else ""
    sequences = [
        writer.conversation(scene, form, rng, num_questions=num_questions, with_system=with_system, end=end)
        for scene in scenes
    ]
    return f"{form}{' ' + end if end else ''}", writer.batch(scenes, sequences, form, rng)


def sequence_loss(logits: Tensor, batch: SequenceBatch) -> Tensor:
    """Return the weighted mean cross-entropy; logits [B, T, V]."""
    trained = batch.targets != IGNORE_INDEX
    losses = functional.cross_entropy(logits[trained], batch.targets[trained], reduction="none")
    weights = batch.weights[trained]
    return (losses * weights).sum() / weights.sum()


def untie(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Give the output its own copy of the word embeddings, so that a LLaVA model can hold it without tying."""
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    return model


def _parameter_groups(model: LlamaForCausalLM) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    return [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
