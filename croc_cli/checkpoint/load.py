"""Opens a checkpoint for inference, and the training state that lies beside it."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from croc_cli.checkpoint.formats.original import is_original
from croc_cli.checkpoint.formats.original_load import open_original
from croc_cli.checkpoint.locate import check_safetensors, locate_checkpoint, read_config
from croc_cli.checkpoint.metadata import TRAINING_STATE_FILE, CheckpointMetadata, read_metadata
from croc_cli.checkpoint.opened import check_whole
from croc_cli.errors import UsageError, first_line
from croc_cli.model.vision_tower import OPENING_ERRORS


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer: in eval mode, on its device, with its own processor."""

    llava: LlavaForConditionalGeneration
    processor: LlavaProcessor
    metadata: CheckpointMetadata
    folder: Path


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
    folder = locate_checkpoint(name)
    if is_original(read_config(folder)):
        return _load_original(folder, dtype=dtype, device=device)
    metadata = read_metadata(folder)
    hint = "the checkpoint is damaged or not a LLaVA; use another one"
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, backend="pil")
        llava, found = LlavaForConditionalGeneration.from_pretrained(
            folder, dtype=dtype or "auto", use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except OPENING_ERRORS as error:
        raise UsageError(f"{folder} cannot be opened: {first_line(error)}", hint=hint) from error
    check_whole(folder, found, llava.config)
    return _ready(LoadedModel(llava, processor, metadata, folder), device)


def _load_original(folder: Path, *, dtype: torch.dtype | None, device: str | torch.device) -> LoadedModel:
    """Open a checkpoint of the original code in memory, as `croc convert` would write it."""
    opened = open_original(folder, say=lambda line: print(line, file=sys.stderr))
    return _ready(LoadedModel(opened.build(dtype=dtype), opened.processor, opened.metadata, folder), device)


def _ready(model: LoadedModel, device: str | torch.device) -> LoadedModel:
    """Put a model into eval mode on its device, and give it the norm that its metadata asks for."""
    model.llava.eval().requires_grad_(False).to(device)
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


def load_training_state(folder: Path) -> dict[str, Tensor]:
    """Return the token pool and the reconstruction head saved in `folder`; empty where there are none.

    Raises:
        UsageError: The file is cut off.
    """
    file = folder / TRAINING_STATE_FILE
    if not file.exists():
        return {}
    check_safetensors(file)
    state: dict[str, Tensor] = load_file(file)
    return state
