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


@torch.inference_mode()
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
    tokenizer = processor.tokenizer
    # Alike lengths beside each other leave little padding; the sort is stable, so the order is too.
    ordered = sorted(questions, key=lambda question: len(question.prompt_ids))
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        longest = max(len(question.prompt_ids) for question in batch)
        # Padding stands on the left, where generation does not see it between prompt and answer.
        padded = [[tokenizer.pad_token_id] * (longest - len(q.prompt_ids)) + q.prompt_ids for q in batch]
        mask = [[0] * (longest - len(q.prompt_ids)) + [1] * len(q.prompt_ids) for q in batch]
        pictures = [reference for question in batch for reference in question.images]
        inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
        if pictures:
            inputs["pixel_values"] = _pixels(processor, pictures).to(llava.dtype)
        output = llava.generate(
            **{name: tensor.to(llava.device) for name, tensor in inputs.items()},
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        texts = tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
        yield from ((question.id, text.strip()) for question, text in zip(batch, texts, strict=True))


def _pixels(processor: LlavaProcessor, pictures: Sequence[ImageRef | None]) -> torch.Tensor:
    """Return [I, 3, H, W] float32, each distinct picture opened and prepared once."""
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
