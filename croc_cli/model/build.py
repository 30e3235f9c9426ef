"""A stock LLaVA out of a vision tower and an LLM, and the way back from a folder to the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from croc_cli.errors import UsageError
from croc_cli.model.find import ModelNotFound, find_model
from croc_cli.names import IMAGE_TOKEN

__all__ = ["ModelNotFound", "assemble", "find_model", "load_llava"]

VOCABULARY_MULTIPLE = 64
"""A vocabulary that must grow is filled to a multiple of this, as in llava-hf's checkpoints; tensor cores like it."""


def assemble(
    vision_tower: Path | str,
    llm: Path | str,
    destination: Path | str,
    *,
    seed: int,
    vision_feature_layer: int,
    image_processor: Any,
    chat_template: str | None,
    dtype: torch.dtype,
    prepare_tokenizer: Callable[[Any], None] | None = None,
    projector_init_std: float | None = None,
) -> None:
    """Write a stock LLaVA checkpoint with a new projector (arXiv:2410.14332v3, section 3.1).

    Any process opens the folder with `LlavaForConditionalGeneration` and `AutoProcessor`. At most one copy of tower and
    LLM is in memory. To be called before transformers is told about ZeRO-3, which would split the weights over ranks
    that are not here.

    Args:
        vision_tower: Folder of a CLIP vision tower, or of a whole CLIP, whose tower is taken.
        llm: Folder of a decoder-only LLM with its tokenizer.
        destination: Folder to write.
        seed: Decides the projector's first weights.
        vision_feature_layer: Hidden state of the tower that is projected; -2 = penultimate.
        image_processor: Stock image processor to save with the model.
        chat_template: Jinja template to save with it; None keeps the tokenizer's own.
        dtype: Of all weights.
        prepare_tokenizer: Called with the LLM's tokenizer as it was opened, to change it before it is saved.
        projector_init_std: Spread of the projector's first weights, its biases zero; None for torch's own first weights
            of linear layers, as LLaVA's code has them.

    Raises:
        UsageError: The parts do not fit into a LLaVA.
    """
    tokenizer = _load_tokenizer(llm, prepare_tokenizer)
    tower = _load_tower(vision_tower, dtype)
    model = AutoModelForCausalLM.from_pretrained(llm, dtype=dtype)
    if (bias := getattr(model.get_output_embeddings(), "bias", None)) is not None:
        raise UsageError(
            f"the LLM in {llm} has an output bias of {tuple(bias.shape)}, which LLaVA's LM head lacks",
            hint="choose another LLM, such as one of the Llama, Qwen or Mistral families",
        )
    _make_room(model, len(tokenizer))
    tower.config.name_or_path = model.config.name_or_path = ""  # a checkpoint should not tell where it was made
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=model.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(tower.config.image_size // tower.config.patch_size) ** 2,
        vision_feature_layer=vision_feature_layer,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype=dtype,
    )
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
    llava.model.vision_tower = tower
    llava.model.multi_modal_projector = _new_projector(config, seed, projector_init_std).to(dtype)
    llava.model.language_model = model.base_model
    llava.lm_head = model.get_output_embeddings()
    # only the token ids: sampling settings that an LLM brings may contradict each other, and would refuse to be saved
    llava.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    llava.save_pretrained(destination)
    LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,  # the tower's CLS token, which the `default` strategy leaves out
        chat_template=chat_template or tokenizer.chat_template,
    ).save_pretrained(destination)


def load_llava(folder: Path | str, *, dtype: torch.dtype, attention: str) -> LlavaForConditionalGeneration:
    """Open a stock LLaVA checkpoint for training.

    Args:
        folder: As `assemble` or a training stage wrote it.
        dtype: Of all weights.
        attention: Kernel of the LLM: `sdpa`, `eager` or `flex_attention`. The tower, which needs no mask, has `sdpa`.

    Raises:
        ModelNotFound: No checkpoint is there.
        UsageError: It is something other than a LLaVA.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise ModelNotFound(
            f"no checkpoint in {folder.absolute()}: config.json is missing", hint="pass the folder of a stock LLaVA"
        )
    if (kind := AutoConfig.from_pretrained(folder).model_type) != "llava":
        raise UsageError(
            f"the checkpoint in {folder} is of type {kind!r}, expected 'llava'",
            hint="`LlavaForConditionalGeneration` must be able to open it",
        )
    return LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, attn_implementation={"text_config": attention, "vision_config": "sdpa"}
    )


def _load_tokenizer(llm: Path | str, prepare: Callable[[Any], None] | None) -> Any:
    """Return the LLM's tokenizer, with an image token, something to pad with, and padding on the right."""
    tokenizer = AutoTokenizer.from_pretrained(llm)
    if prepare is not None:
        prepare(tokenizer)
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in (None, tokenizer.unk_token_id):
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def _load_tower(folder: Path | str, dtype: torch.dtype) -> CLIPVisionModel:
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind not in ("clip", "clip_vision_model"):
        raise UsageError(
            f"the vision tower in {folder} is of type {kind!r}, expected a CLIP vision tower",
            hint="one such is openai/clip-vit-large-patch14-336",
        )
    return CLIPVisionModel.from_pretrained(folder, dtype=dtype)


def _make_room(model: Any, num_tokens: int) -> None:
    """Grow the LLM's embeddings to hold `num_tokens`, if they do not; new rows are the mean of the old."""
    old = model.get_input_embeddings().weight.shape[0]
    if num_tokens <= old:
        return
    model.resize_token_embeddings(num_tokens, pad_to_multiple_of=VOCABULARY_MULTIPLE, mean_resizing=False)
    with torch.no_grad():
        for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
            embeddings.weight[old:] = embeddings.weight[:old].float().mean(dim=0).to(embeddings.weight.dtype)


def _new_projector(config: LlavaConfig, seed: int, init_std: float | None) -> nn.Module:
    """Return a projector whose first weights follow from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector: nn.Module = LlavaMultiModalProjector(config)
        if init_std is not None:
            for parameter in projector.parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=init_std)
                else:
                    nn.init.zeros_(parameter)
    return projector
