"""Answers of a model to many questions: greedy, in batches, each answer the same whatever else is in its batch.

Letters: B questions of a batch, L tokens of the longest prompt, I pictures of a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from croc_cli.data.image import open_image, process_images
from croc_cli.data.sample import ImageRef


@dataclass(frozen=True)
class Question:
    """One prompt that waits for an answer.

    Args:
        id: Comes back with the answer.
        prompt_ids: Token ids up to where the answer begins, visual places included.
        images: The pictures of the prompt, in order; None is a blank one, in the pictures' mean colour.
    """

    id: str
    prompt_ids: list[int]
    images: tuple[ImageRef | None, ...]


def make_batches(questions: Sequence[Question], batch_size: int) -> list[list[Question]]:
    """Return the questions in batches, the shortest prompts first.

    Alike lengths beside each other leave little padding; the sort is stable, so the batches are always the same.
    """
    ordered = sorted(questions, key=lambda question: len(question.prompt_ids))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def answer_questions(
    llava: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    questions: Sequence[Question],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> Iterator[tuple[str, str]]:
    """Yield (id, answer) of every question, the shortest prompts first.

    Args:
        llava: The model, in eval mode.
        processor: Its processor.
        questions: What is asked.
        batch_size: Questions answered at once.
        max_new_tokens: Tokens of an answer at most.

    Raises:
        BadImageError: A picture does not open.
    """
    for batch in make_batches(questions, batch_size):
        pixels = prepare_pictures(processor, [reference for question in batch for reference in question.images])
        texts = answer_batch(llava, processor, batch, pixels, max_new_tokens=max_new_tokens)
        yield from zip((question.id for question in batch), texts, strict=True)


@torch.inference_mode()
def answer_batch(
    llava: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    batch: Sequence[Question],
    pixels: torch.Tensor | None,
    *,
    max_new_tokens: int,
) -> list[str]:
    """Return the greedy answers to the questions of one batch.

    Args:
        llava: The model, in eval mode.
        processor: Its processor.
        batch: B questions.
        pixels: Their pictures in order, [I, 3, H, W] float32, or None where they have none.
        max_new_tokens: Tokens of an answer at most.
    """
    tokenizer = processor.tokenizer
    longest = max(len(question.prompt_ids) for question in batch)
    # Padding stands on the left, where generation does not see it between prompt and answer.
    padded = [[tokenizer.pad_token_id] * (longest - len(q.prompt_ids)) + q.prompt_ids for q in batch]
    mask = [[0] * (longest - len(q.prompt_ids)) + [1] * len(q.prompt_ids) for q in batch]
    inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
    if pixels is not None:
        inputs["pixel_values"] = pixels.to(llava.dtype)
    output = llava.generate(
        **{name: tensor.to(llava.device) for name, tensor in inputs.items()},
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_tokens(llava, processor),
    )
    texts: list[str] = tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
    return [text.strip() for text in texts]


def end_tokens(llava: LlavaForConditionalGeneration, processor: LlavaProcessor) -> list[int]:
    """Return every token that ends an answer: the tokenizer's, and those of the model's generation config."""
    configured = llava.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*ids, processor.tokenizer.eos_token_id) if token is not None})


def prepare_pictures(processor: LlavaProcessor, pictures: Sequence[ImageRef | None]) -> torch.Tensor | None:
    """Return [I, 3, H, W] float32, each distinct picture opened and prepared once; None where there are none.

    Raises:
        BadImageError: A picture does not open.
    """
    if not pictures:
        return None
    prepared: dict[str, torch.Tensor] = {}
    names = [reference.name if reference is not None else "" for reference in pictures]
    for name, reference in zip(names, pictures, strict=True):
        if name not in prepared:
            image = blank_image(processor) if reference is None else open_image(reference)
            prepared[name] = process_images([image], processor.image_processor)
    return torch.cat([prepared[name] for name in names])


def blank_image(processor: LlavaProcessor) -> Image.Image:
    """Return a picture of nothing: the mean colour that padding uses."""
    size = processor.image_processor.crop_size
    colour = tuple(int(mean * 255) for mean in processor.image_processor.image_mean)
    return Image.new("RGB", (size["width"], size["height"]), colour)
