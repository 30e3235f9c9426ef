"""Opens a checkpoint for inference, and the training state that lies beside it."""

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from croc_cli.checkpoint.formats.original import is_original
from croc_cli.checkpoint.formats.original_load import open_original
from croc_cli.checkpoint.locate import find_folder, read_config
from croc_cli.checkpoint.metadata import CheckpointMetadata
from croc_cli.checkpoint.opened import trained_end_ids
from croc_cli.checkpoint.validate import naming, validate_checkpoint
from croc_cli.console import say
from croc_cli.model.build import end_token_ids


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer: in eval mode, on its device, with its own processor."""

    llava: LlavaForConditionalGeneration
    processor: LlavaProcessor
    metadata: CheckpointMetadata
    folder: Path


def quiet_transformers() -> None:
    """Keep the bars and remarks of transformers off the terminal."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def load_for_inference(
    name: str | Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> LoadedModel:
    """Open a checkpoint by folder or hub id.

    Args:
        name: A folder that croc, transformers or the original LLaVA or Croc code saved, or a hub id.
        dtype: Of all weights; None keeps the checkpoint's own.
        device: Where the model goes.

    Raises:
        UsageError: Not found, not a whole LLaVA, or its files do not fit each other; the file or folder is named.
    """
    folder = find_folder(name)
    if is_original(read_config(folder)):
        return _load_original(folder, dtype=dtype, device=device)
    parts = validate_checkpoint(folder)
    with naming(folder):
        llava = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype or "auto", use_safetensors=True)
    return ready(LoadedModel(llava, parts.processor, parts.metadata, folder), device)


def _load_original(folder: Path, *, dtype: torch.dtype | None, device: str | torch.device) -> LoadedModel:
    """Open a checkpoint of the original code in memory, as `croc convert` would write it."""
    opened = open_original(folder, say=say)
    return ready(LoadedModel(opened.build(dtype=dtype), opened.processor, opened.metadata, folder), device)


def ready(model: LoadedModel, device: str | torch.device) -> LoadedModel:
    """Put a model into eval mode on its device, and give it the norm and the end tokens that it was trained with.

    Args:
        model: Its weights no longer train.
        device: Where it goes.
    """
    model.llava.eval().requires_grad_(False).to(device)
    own = model.llava.generation_config
    trained = trained_end_ids(model.processor, model.metadata)
    own.eos_token_id = end_token_ids(model.processor.tokenizer, own.eos_token_id, trained=trained) or None
    if model.metadata.visual_norm == "l2":
        normalise_visual_tokens(model.llava)
    return model


def normalise_visual_tokens(llava: LlavaForConditionalGeneration) -> None:
    """Divide every projected visual token by its L2 norm, as the released code does, at inference too.

    Stock LLaVA cannot say this in its config, so it is a hook on the projector, set where croc.json asks for it.
    """
    llava.model.multi_modal_projector.register_forward_hook(_normalise)


def _normalise(_projector: nn.Module, _inputs: object, visual_tokens: Tensor) -> Tensor:
    """Return `visual_tokens` [I, n, D] at length 1 along D."""
    return nn.functional.normalize(visual_tokens, dim=-1)
