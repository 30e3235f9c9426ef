"""A checkpoint of whatever form, opened: the stock model that computes what it computes, and what lies beside it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoProcessor, GenerationConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from croc_cli.checkpoint.locate import check_safetensors
from croc_cli.checkpoint.metadata import RECIPE_FILE, TRAINING_STATE_FILE, CheckpointMetadata, read_metadata
from croc_cli.checkpoint.weights import first_file, read_model
from croc_cli.data.conversation import answer_end_ids
from croc_cli.errors import UsageError, first_line
from croc_cli.model.build import generation_config
from croc_cli.model.vision_tower import OPENING_ERRORS

TOKENIZER_MODEL = "tokenizer.model"
_SAVED_NAMES = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("model.vision_tower.vision_model.", "model.vision_tower."),
)
_NAMED = 3
"""Weights that a message names; the rest is counted."""
_HINT = "the checkpoint is damaged or not a LLaVA; use another one"
_PARTIAL_HINT = f"{_HINT}, or take what is there: croc convert SRC DST --allow-partial"


@dataclass(frozen=True)
class OpenedModel:
    """A checkpoint as stock LLaVA.

    Args:
        config: The stock config.
        weights: By the names of `LlavaForConditionalGeneration`, in the dtypes of the files.
        processor: Makes the pictures and prompts that it was trained with.
        training_state: Token pool, reconstruction head and what else the files hold; empty where there is none.
        metadata: What croc.json says, or is to say.
        end_ids: Tokens that end an answer by its generation config; None where it does not say.
        recipe_yaml: The recipe it was trained with, where it says so.
        tokenizer_model: SentencePiece's file, where the tokenizer has one; the original code and llama.cpp read it.
    """

    config: LlavaConfig
    weights: dict[str, Tensor]
    processor: LlavaProcessor
    training_state: dict[str, Tensor]
    metadata: CheckpointMetadata
    end_ids: int | list[int] | None
    recipe_yaml: str | None = None
    tokenizer_model: Path | None = None

    def build(self, *, dtype: torch.dtype | None = None) -> LlavaForConditionalGeneration:
        """Return the model; its weights are those of `weights`, copied only where `dtype` is another."""
        llava, found = LlavaForConditionalGeneration.from_pretrained(
            None,
            config=self.config,
            state_dict=dict(self.weights),
            dtype=dtype or self.config.dtype,
            output_loading_info=True,
        )
        assert not found["missing_keys"], f"weights were checked before: {found}"
        llava.generation_config = generation_config(
            self.processor.tokenizer, self.end_ids, trained=trained_end_ids(self.processor, self.metadata)
        )
        return llava


def trained_end_ids(processor: LlavaProcessor, metadata: CheckpointMetadata) -> tuple[int, ...]:
    """Return the tokens that a checkpoint's training ended answers with."""
    return answer_end_ids(processor.tokenizer, template=metadata.template, chat_template=processor.chat_template)


def open_stock(
    folder: Path, *, allow_partial: bool = False, say: Callable[[str], None] = lambda _: None
) -> OpenedModel:
    """Open a stock LLaVA, in safetensors or in torch's own form, its weights in the dtypes of its files.

    Args:
        folder: Its folder.
        allow_partial: Leave out unexpected weights, and draw missing ones at random.
        say: Told of these, one line each.

    Raises:
        UsageError: It is not whole, or its files do not fit each other.
    """
    weights = {stock_model_name(name): tensor for name, tensor in read_model(folder).items()}
    metadata = read_metadata(folder)
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, backend="pil")
        config = LlavaConfig.from_pretrained(folder)
        generation = GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").is_file() else None
    except OPENING_ERRORS as error:
        raise UsageError(f"{folder} cannot be opened: {first_line(error)}", hint=_HINT) from error
    recipe, state = folder / RECIPE_FILE, {}
    if (folder / TRAINING_STATE_FILE).is_file():
        check_safetensors(folder / TRAINING_STATE_FILE)
        state = load_file(folder / TRAINING_STATE_FILE)
    return OpenedModel(
        config=config,
        weights=checked_weights(weights, config, folder, allow_partial=allow_partial, say=say),
        processor=processor,
        training_state=state,
        metadata=metadata,
        end_ids=generation.eos_token_id if generation is not None else None,
        recipe_yaml=recipe.read_text(encoding="utf-8") if recipe.is_file() else None,
        tokenizer_model=first_file(folder, [TOKENIZER_MODEL]),
    )


def stock_model_name(name: str) -> str:
    """Return a weight's name in `LlavaForConditionalGeneration`, given any under which stock LLaVAs are saved."""
    return next((new + name[len(old) :] for old, new in _SAVED_NAMES if name.startswith(old)), name)


def check_whole(folder: Path, found: dict[str, Any], config: LlavaConfig) -> None:
    """Raise UsageError where transformers reports weights of another shape, missing ones, or such as a LLaVA has not.

    Args:
        folder: Where the weights are.
        found: What `from_pretrained` reports, without its own refusal of shapes.
        config: The model's, whose sizes are named.
    """
    if wrong := sorted(found["mismatched_keys"]):
        name, saved, expected = wrong[0]
        empty = "; a projector of no entries is what a broken save under ZeRO-3 leaves" if 0 in saved else ""
        raise UsageError(
            f"{folder}: {name} is {tuple(saved)}, expected {tuple(expected)} by config.json, whose vision tower is"
            f" {config.vision_config.hidden_size} wide and whose LLM {config.text_config.hidden_size}{empty}",
            hint="the weights belong to another config.json, or the checkpoint is damaged; use another one",
        )
    if missing := found["missing_keys"]:
        raise UsageError(
            f"{folder} is not whole: {_counted(missing)} missing, such as {min(missing)}", hint=_PARTIAL_HINT
        )
    if unexpected := found["unexpected_keys"]:
        raise UsageError(
            f"{folder} is no LLaVA alone: {_counted(unexpected)} unexpected, such as {min(unexpected)}",
            hint=_PARTIAL_HINT,
        )


def checked_weights(
    weights: dict[str, Tensor],
    config: LlavaConfig,
    folder: Path,
    *,
    allow_partial: bool,
    say: Callable[[str], None],
) -> dict[str, Tensor]:
    """Return exactly the weights that the model has.

    Raises:
        UsageError: Some have another shape, or some are missing or unexpected and `allow_partial` is off.
    """
    with torch.device("meta"):
        own: dict[str, Any] = LlavaForConditionalGeneration(config).state_dict()
    if config.text_config.tie_word_embeddings:
        own.pop("lm_head.weight", None)
        weights.pop("lm_head.weight", None)
    wrong = [name for name in sorted(own.keys() & weights.keys()) if own[name].shape != weights[name].shape]
    if wrong:
        name = wrong[0]
        raise UsageError(
            f"{folder}: {name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)} by config.json",
            hint="config.json belongs to another model, or the vision tower is another one (--vision-tower)",
        )
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    problems = [
        f"{_counted(names)} {what} ({_listed(names)})"
        for what, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if problems and not allow_partial:
        raise UsageError(
            f"{folder}: {'; '.join(problems)}",
            hint="`croc convert SRC DST --allow-partial` leaves out unexpected ones and draws missing ones at random",
        )
    for problem in problems:
        say(f"warning: {problem}, and --allow-partial lets that pass")
    drawn = {name: _drawn(own[name], name, config) for name in missing}
    return {name: weights[name] for name in own if name in weights} | drawn


def _drawn(like: Tensor, name: str, config: LlavaConfig) -> Tensor:
    """Return first weights for a weight that a checkpoint lacks: normal for matrices, else ones or zeros."""
    if like.ndim > 1:
        seed = torch.Generator().manual_seed(0)
        spread = float(getattr(config.text_config, "initializer_range", 0.02))
        return (torch.randn(like.shape, generator=seed) * spread).to(config.dtype)
    return torch.full(like.shape, 0.0 if name.endswith("bias") else 1.0, dtype=config.dtype)


def _counted(names: Collection[str]) -> str:
    return "1 weight is" if len(names) == 1 else f"{len(names)} weights are"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
