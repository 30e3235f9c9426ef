"""A checkpoint of whatever form, opened: the stock model that computes what it computes, and what lies beside it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from croc_cli.checkpoint.locate import check_safetensors
from croc_cli.checkpoint.metadata import RECIPE_FILE, TRAINING_STATE_FILE, CheckpointMetadata, read_metadata
from croc_cli.checkpoint.weights import model_files, read_file
from croc_cli.errors import UsageError
from croc_cli.model.build import generation_config
from croc_cli.model.vision_tower import OPENING_ERRORS, first_line

_HINT = "the checkpoint is damaged or not a LLaVA; use another one"


@dataclass(frozen=True)
class OpenedModel:
    """A checkpoint as stock LLaVA.

    Args:
        config: The stock config.
        weights: By the names of `LlavaForConditionalGeneration`, in the dtypes of the files.
        processor: Makes the pictures and prompts that it was trained with.
        training_state: Token pool, reconstruction head and what else the files hold; empty where there is none.
        metadata: What croc.json says, or is to say.
        end_ids: Tokens that end an answer; None for the tokenizer's own.
        recipe_yaml: The recipe it was trained with, where it says so.
    """

    config: LlavaConfig
    weights: dict[str, Tensor]
    processor: LlavaProcessor
    training_state: dict[str, Tensor]
    metadata: CheckpointMetadata
    end_ids: int | list[int] | None
    recipe_yaml: str | None = None

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
        llava.generation_config = generation_config(self.processor.tokenizer, self.end_ids)
        return llava


def open_stock(folder: Path) -> OpenedModel:
    """Open a stock LLaVA, in safetensors or in torch's own form.

    Raises:
        UsageError: It is not whole, or its files do not fit each other.
    """
    for file in model_files(folder):
        read_file(file)  # says what is wrong with a file better than transformers does
    metadata = read_metadata(folder)
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        llava, found = LlavaForConditionalGeneration.from_pretrained(folder, dtype="auto", output_loading_info=True)
    except OPENING_ERRORS as error:
        raise UsageError(f"{folder} cannot be opened: {first_line(error)}", hint=_HINT) from error
    check_whole(folder, found)
    recipe, state = folder / RECIPE_FILE, {}
    if (folder / TRAINING_STATE_FILE).is_file():
        check_safetensors(folder / TRAINING_STATE_FILE)
        state = load_file(folder / TRAINING_STATE_FILE)
    return OpenedModel(
        config=llava.config,
        weights=dict(llava.state_dict()),
        processor=processor,
        training_state=state,
        metadata=metadata,
        end_ids=llava.generation_config.eos_token_id,
        recipe_yaml=recipe.read_text(encoding="utf-8") if recipe.is_file() else None,
    )


def check_whole(folder: Path, found: dict[str, set[str]]) -> None:
    """Raise UsageError where transformers reports weights that are missing, or that a LLaVA does not have."""
    if missing := found["missing_keys"]:
        raise UsageError(
            f"{folder} is not whole: {len(missing)} weights are missing, such as {min(missing)}", hint=_HINT
        )
    if unexpected := found["unexpected_keys"]:
        raise UsageError(
            f"{folder} holds {len(unexpected)} weights that a LLaVA does not have, such as {min(unexpected)}",
            hint=_HINT,
        )
