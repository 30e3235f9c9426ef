"""A checkpoint of whatever form, opened: the stock model that computes what it computes, and what lies beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from croc_cli.checkpoint.fit import checked_weights
from croc_cli.checkpoint.formats.stock import repaired_name
from croc_cli.checkpoint.locate import check_stock_config, read_config
from croc_cli.checkpoint.metadata import DAMAGED, LLM_TEMPLATE_KEY, RECIPE_FILE, CheckpointMetadata, verify_hashes
from croc_cli.checkpoint.validate import open_small_parts
from croc_cli.checkpoint.weights import first_file, read_file, read_model
from croc_cli.data.conversation import answer_end_ids
from croc_cli.data.processor_template import chat_template_for, with_pictures
from croc_cli.errors import UsageError, first_line
from croc_cli.model.build import end_token_ids, generation_config
from croc_cli.names import TRAINING_STATE_FILE

TOKENIZER_MODEL = "tokenizer.model"


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
        trained = trained_end_ids(self.processor, self.metadata)
        llava.generation_config = generation_config(self.processor.tokenizer, self.end_ids, trained=trained)
        return llava

    def all_end_ids(self) -> list[int]:
        """Return every token that ends an answer: configured, the tokenizer's own, and trained."""
        trained = trained_end_ids(self.processor, self.metadata)
        return end_token_ids(self.processor.tokenizer, self.end_ids, trained=trained)


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
        UsageError: It is incomplete, or its files do not fit each other.
    """
    check_stock_config(read_config(folder), folder)
    parts = open_small_parts(folder)
    if getattr(parts.config, "quantization_config", None) is not None:
        raise UsageError(f"{folder} is quantised", hint="convert the checkpoint that was quantised")
    verify_hashes(folder)
    saved = read_model(folder)
    weights = {repaired_name(name): tensor for name, tensor in saved.items()}
    if len(weights) < len(saved):
        raise UsageError(f"{folder} holds two weights that are one to a LLaVA", hint=DAMAGED)
    set_chat_template(parts.processor, parts.metadata)
    return OpenedModel(
        config=parts.config,
        weights=checked_weights(weights, parts.config, folder, allow_partial=allow_partial, say=say),
        processor=parts.processor,
        training_state=load_training_state(folder),
        metadata=parts.metadata,
        end_ids=parts.end_ids,
        recipe_yaml=read_recipe(folder),
        tokenizer_model=first_file(folder, [TOKENIZER_MODEL]),
    )


def set_chat_template(processor: LlavaProcessor, metadata: CheckpointMetadata) -> None:
    """Give a processor the chat template that croc saves today with what croc.json names; else leave its own."""
    if metadata.template is None:
        return
    own = metadata.extra.get(LLM_TEMPLATE_KEY)
    template = chat_template_for(metadata.template, metadata.system_prompt) or (
        with_pictures(own) if isinstance(own, str) else None
    )
    if template is not None:
        processor.chat_template = template
        if metadata.template == "chat_template":
            processor.tokenizer.chat_template = template


def read_recipe(folder: Path) -> str | None:
    """Return the recipe that lies in a checkpoint, as text, or None.

    Raises:
        UsageError: It is not text.
    """
    file = folder / RECIPE_FILE
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {first_line(error)}", hint=DAMAGED) from error


def without_prefix(saved: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}


def load_training_state(folder: Path) -> dict[str, Tensor]:
    """Return the token pool and the reconstruction head saved in `folder`; empty where there are none.

    Raises:
        UsageError: The file is damaged, or a value in it is not a number.
    """
    file = folder / TRAINING_STATE_FILE
    return read_file(file) if file.is_file() else {}
