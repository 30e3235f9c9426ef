"""A tiny random stock LLaVA and its two parts, made with transformers alone, for tests of every room.

Sizes: images of 56 pixels in patches of 14, so 16 visual tokens; a CLIP tower of width 32 and a Llama of width 64. The
tokenizer is a byte-level BPE that knows every byte, so any text goes in and comes back out.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AddedToken,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

IMAGE_SIZE = 56
PATCH_SIZE = 14
NUM_VISUAL_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
VISION_WIDTH = 32
LLM_WIDTH = 64

_CORPUS = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    "USER: What colour is the circle? ASSISTANT: The circle is red. There are two squares and one green triangle.",
)


def make_tiny_tokenizer(*, vocab_size: int = 320, image_token: bool = True) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer used as Vicuna's is: <s> in front, </s> ends an answer, <unk> pads."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    if image_token:
        fast.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    return fast


def tiny_vision_config(*, num_layers: int = 3) -> CLIPVisionConfig:
    """Return the config of the tiny CLIP vision tower."""
    return CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=VISION_WIDTH,
    )


def tiny_text_config(tokenizer: PreTrainedTokenizerFast, *, tie_word_embeddings: bool = False) -> LlamaConfig:
    """Return the config of the tiny Llama, with the vocabulary of `tokenizer`."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=LLM_WIDTH,
        intermediate_size=2 * LLM_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,  # wider than Llama's 0.02, so that logits of random weights differ enough to compare
        tie_word_embeddings=tie_word_embeddings,
    )


def make_tiny_parts(folder: Path | str, *, seed: int = 0, tie_word_embeddings: bool = False) -> tuple[Path, Path]:
    """Save a tiny CLIP vision tower and a tiny Llama (no `<image>` token) as pretrained parts.

    Returns:
        The tower's folder (CLIPVisionModel and image processor) and the LLM's (LlamaForCausalLM and tokenizer).
    """
    tower_dir, llm_dir = Path(folder) / "tower", Path(folder) / "llm"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = CLIPVisionModel(tiny_vision_config())
        tokenizer = make_tiny_tokenizer(image_token=False)
        llm = LlamaForCausalLM(tiny_text_config(tokenizer, tie_word_embeddings=tie_word_embeddings))
    tower.save_pretrained(tower_dir)
    CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    ).save_pretrained(tower_dir)
    llm.save_pretrained(llm_dir)
    tokenizer.save_pretrained(llm_dir)
    return tower_dir, llm_dir


def make_tiny_processor(
    *, image_aspect: str = "pad", chat_template: str | None = None, tokenizer: PreTrainedTokenizerFast | None = None
) -> LlavaProcessor:
    """Return a stock LlavaProcessor for the tiny model; `image_aspect` is "pad" or "square"."""
    image_processor = LlavaImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_pad=image_aspect == "pad",
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer or make_tiny_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )


def make_tiny_model(*, seed: int = 0, tie_word_embeddings: bool = False) -> LlavaForConditionalGeneration:
    """Return a tiny random LLaVA (fp32, eval mode) that fits `make_tiny_processor`."""
    tokenizer = make_tiny_tokenizer()
    config = LlavaConfig(
        vision_config=tiny_vision_config(),
        text_config=tiny_text_config(tokenizer, tie_word_embeddings=tie_word_embeddings),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=NUM_VISUAL_TOKENS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=tie_word_embeddings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    return model.eval()


def make_tiny_llava(
    folder: Path | str,
    *,
    seed: int = 0,
    image_aspect: str = "pad",
    chat_template: str | None = None,
    tie_word_embeddings: bool = False,
) -> Path:
    """Save a tiny random stock LLaVA checkpoint with its processor to `folder`, and return the folder."""
    folder = Path(folder)
    make_tiny_model(seed=seed, tie_word_embeddings=tie_word_embeddings).save_pretrained(folder)
    make_tiny_processor(image_aspect=image_aspect, chat_template=chat_template).save_pretrained(folder)
    return folder
