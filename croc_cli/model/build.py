"""A stock LLaVA out of a vision tower and an LLM, and the way back from a folder to the model."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from croc_cli.errors import UsageError
from croc_cli.model.find import ModelNotFound, find_model
from croc_cli.model.opening import opening
from croc_cli.model.projector import CaptionedPictures, fit_to_captions, new_projector, num_fitting_pictures
from croc_cli.model.stock_names import weights_to_write
from croc_cli.model.vision_tower import (
    load_tower,
    num_additional_tokens,
    open_whole,
    select_strategy,
)
from croc_cli.model.vocabulary import make_room, set_up_tokenizer
from croc_cli.names import IMAGE_TOKEN

__all__ = ["ModelNotFound", "assemble", "find_model", "load_llava"]

_PROBE_TOKENS = 8
"""Tokens of the one forward pass that compares a LLaVA's logits with its LLM's."""


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
    pictures: Callable[[int, Any], Iterable[CaptionedPictures]] | None = None,
) -> None:
    """Write a stock LLaVA checkpoint with a new projector (arXiv:2410.14332v3, section 3.1).

    Any process opens the folder with `LlavaForConditionalGeneration` and `AutoProcessor`. At most one copy of tower and
    LLM is in memory. To be called before transformers is told about ZeRO-3, which would split the weights over ranks
    that are not here.

    Args:
        vision_tower: Folder of a CLIP or SigLIP vision tower, or of a whole CLIP or SigLIP, whose tower is taken.
        llm: Folder of a decoder-only LLM with its tokenizer.
        destination: Folder to write.
        seed: Decides the projector's first weights.
        vision_feature_layer: Hidden state of the tower that is projected; -2 = penultimate.
        image_processor: Stock image processor to save with the model.
        chat_template: Jinja template to save with it; None keeps the tokenizer's own.
        dtype: Of all weights.
        prepare_tokenizer: Called with the LLM's tokenizer as it was opened, to change it before it is saved.
        pictures: Returns as many of the pictures to come as it is asked for, with captions in tokens of the tokenizer
            that it is given; the projector's first weights are then fitted to them. None for torch's own first weights
            of linear layers, as LLaVA's code has them.

    Raises:
        UsageError: The parts do not fit into a LLaVA.
    """
    tokenizer = _opened_tokenizer(llm)
    if prepare_tokenizer is not None:
        prepare_tokenizer(tokenizer)
    set_up_tokenizer(tokenizer)
    tower = load_tower(vision_tower, dtype)
    model = open_whole(AutoModelForCausalLM, llm, what="LLM", dtype=dtype)
    if (bias := getattr(model.get_output_embeddings(), "bias", None)) is not None:
        raise UsageError(
            f"the LLM in {llm} has an output bias of {tuple(bias.shape)}, which LLaVA's LM head lacks",
            hint="choose another LLM, such as one of the Llama, Qwen or Mistral families",
        )
    make_room(model, len(tokenizer))
    strategy = select_strategy(tower.config)
    tower.config.name_or_path = model.config.name_or_path = ""  # a checkpoint should not tell where it was made
    config = llava_config(
        tower.config, model.config, tokenizer, feature_layer=vision_feature_layer, strategy=strategy, dtype=dtype
    )
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
    llava.model.vision_tower = tower
    llava.model.multi_modal_projector = new_projector(config, seed).to(dtype)
    llava.model.language_model = model.base_model
    llava.lm_head = model.get_output_embeddings()
    if pictures is not None:
        needed = num_fitting_pictures(llava.model.multi_modal_projector)
        fit_to_captions(llava, pictures(needed, tokenizer), seed=seed)
    llava.generation_config = generation_config(tokenizer, model.generation_config.eos_token_id)
    _check_same_logits(llava, model, llm)
    llava.save_pretrained(destination, state_dict=weights_to_write(llava))
    stock_processor(tokenizer, image_processor, config, chat_template=chat_template).save_pretrained(destination)


def llava_config(
    vision: Any, text: Any, tokenizer: Any, *, feature_layer: int, strategy: str, dtype: torch.dtype
) -> LlavaConfig:
    """Return the config of a stock LLaVA made of a tower and an LLM.

    Args:
        vision: The tower's config.
        text: The LLM's config.
        tokenizer: As `set_up_tokenizer` left it.
        feature_layer: Hidden state of the tower that is projected.
        strategy: `default` or `full`, see `select_strategy`.
        dtype: Of all weights.

    Raises:
        UsageError: The tower takes no square pictures of whole patches.
    """
    side, patch = vision.image_size, vision.patch_size
    if type(side) is not int or type(patch) is not int or not 0 < patch <= side:
        raise UsageError(
            f"the vision tower's config has image_size {side!r} and patch_size {patch!r}, expected pixels of a square",
            hint="choose another vision tower, or fix its config.json",
        )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(side // patch) ** 2,
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy=strategy,
        projector_hidden_act="gelu",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype=dtype,
    )


def generation_config(tokenizer: Any, own: int | list[int] | None, *, trained: Iterable[int] = ()) -> GenerationConfig:
    """Return a generation config of token ids only, in which every token that may end an answer does.

    Sampling settings that an LLM brings may contradict each other, and would refuse to be saved.

    Args:
        tokenizer: The model's, whose end token ends answers too.
        own: What the LLM's or checkpoint's generation config said before.
        trained: Tokens that training ends answers with.
    """
    ends = end_token_ids(tokenizer, own, trained=trained)
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else next(iter(ends), None),
        pad_token_id=tokenizer.pad_token_id,
    )


def end_token_ids(tokenizer: Any, own: int | list[int] | None, *, trained: Iterable[int] = ()) -> list[int]:
    """Return every token that ends an answer, smallest first; see `generation_config`."""
    configured = own if isinstance(own, list) else [own]
    return sorted({token for token in (*configured, tokenizer.eos_token_id, *trained) if token is not None})


def stock_processor(
    tokenizer: Any, image_processor: Any, config: LlavaConfig, *, chat_template: str | None
) -> LlavaProcessor:
    """Return the stock processor of a LLaVA; without a template of its own it keeps the tokenizer's."""
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=num_additional_tokens(config.vision_config),
        chat_template=chat_template or tokenizer.chat_template,
    )


def load_llava(
    folder: Path | str, *, dtype: torch.dtype, attention: str, device: str = "cpu"
) -> LlavaForConditionalGeneration:
    """Open a stock LLaVA checkpoint for training.

    Args:
        folder: As `assemble` or a training stage wrote it.
        dtype: Of all weights.
        attention: Kernel of the LLM, as transformers calls it. The tower, which needs no mask, has `sdpa`.
        device: Where weights are read to, one after another; the host never holds all of them for another device.

    Raises:
        ModelNotFound: No checkpoint is there.
        UsageError: It is something other than a LLaVA.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise ModelNotFound(
            f"no checkpoint in {folder.absolute()}: config.json is missing", hint="pass the folder of a stock LLaVA"
        )
    with opening(str(folder), hint="pass the folder of a stock LLaVA"):
        kind = AutoConfig.from_pretrained(folder).model_type
    if kind != "llava":
        raise UsageError(
            f"the checkpoint in {folder} is of type {kind!r}, expected 'llava'",
            hint="`LlavaForConditionalGeneration` must be able to open it",
        )
    llava = LlavaForConditionalGeneration.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation={"text_config": attention, "vision_config": "sdpa"},
        device_map=None if device == "cpu" else {"": device},
    )
    # transformers' loader for ZeRO-3 also keeps renamings that no weight needed, and save_pretrained would undo them
    llava._weight_conversions = [renaming for renaming in llava._weight_conversions or () if renaming.was_used()]
    return llava


def _check_same_logits(llava: Any, llm: Any, name: Path | str) -> None:
    """Raise UsageError where the LLM does to its logits what a stock LLaVA does not, such as scaling or capping."""
    input_ids = torch.arange(min(_PROBE_TOKENS, llm.get_input_embeddings().weight.shape[0]))[None]
    with torch.no_grad():
        expected, found = (model.eval()(input_ids=input_ids).logits.float() for model in (llm, llava))
    if not torch.allclose(found, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max())):
        raise UsageError(
            f"the LLM in {name} ({llm.config.model_type}) changes its logits in a way that a stock LLaVA does not: "
            f"they differ by up to {float((found - expected).abs().max()):.2g}",
            hint="choose another LLM, such as one of the Llama, Mistral, Qwen or Gemma (first generation) families",
        )


def _opened_tokenizer(llm: Path | str) -> Any:
    hint = "model.llm takes a folder with config.json, weights and tokenizer"
    with opening(f"the LLM's tokenizer in {llm}", hint=hint):
        return AutoTokenizer.from_pretrained(llm, trust_remote_code=False)
