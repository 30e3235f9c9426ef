"""Answers of a model to many questions: greedy, in batches, each answer the same whatever else is in its batch.

Letters: B questions of a batch, L tokens of the longest prompt, P different pictures, I places for pictures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import DynamicCache, GenerationConfig, LlavaForConditionalGeneration, LlavaProcessor

from croc_cli.data.image import open_image, process_images
from croc_cli.data.sample import ImageRef
from croc_cli.model.build import end_token_ids

_LENGTH_STEP = 32  # tokens of padding at most, few beside the 576 visual ones of a prompt


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


@dataclass(frozen=True)
class Pictures:
    """The pictures of a batch, each different one prepared once.

    Attributes:
        pixels: [P, 3, H, W] float32, the P different ones.
        places: Which of them stands at each place of the batch's prompts, in order; I numbers.
    """

    pixels: torch.Tensor
    places: list[int]


def make_batches(questions: Sequence[Question], batch_size: int) -> list[list[Question]]:
    """Return the questions in batches, the shortest prompts first, those about one picture beside each other.

    Alike lengths leave little padding, and a picture is read once for all its questions in a batch.
    Lengths count in steps, or hardly two questions about a picture would meet. The order is the same every time.
    """

    def place(question: Question) -> tuple[int, list[str], int]:
        names = [reference.name if reference is not None else "" for reference in question.images]
        return len(question.prompt_ids) // _LENGTH_STEP, names, len(question.prompt_ids)

    ordered = sorted(questions, key=place)
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
        pictures = prepare_pictures(processor, [reference for question in batch for reference in question.images])
        texts = answer_batch(llava, processor, batch, pictures, max_new_tokens=max_new_tokens)
        yield from zip((question.id for question in batch), texts, strict=True)


@torch.inference_mode()
def answer_batch(
    llava: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    batch: Sequence[Question],
    pictures: Pictures | None,
    *,
    max_new_tokens: int,
) -> list[str]:
    """Return the greedy answers to the questions of one batch.

    Args:
        llava: The model, in eval mode.
        processor: Its processor.
        batch: B questions.
        pictures: Their pictures, or None where they have none.
        max_new_tokens: Tokens of an answer at most.
    """
    tokenizer = processor.tokenizer
    opening = _read_openings(llava, batch, pictures)
    start = opening.length if opening is not None else 0
    longest = max(len(question.prompt_ids) for question in batch)
    # Padding stands before what differs, where generation does not see it between prompt and answer.
    padding = [longest - len(question.prompt_ids) for question in batch]
    ids = [
        [*q.prompt_ids[:start], *[tokenizer.pad_token_id] * pad, *q.prompt_ids[start:]]
        for q, pad in zip(batch, padding, strict=True)
    ]
    mask = [[1] * start + [0] * pad + [1] * (longest - start - pad) for pad in padding]
    # An answer ends where the model's positions do; a prompt that has none left is answered as well as it can be.
    positions = getattr(llava.config.text_config, "max_position_embeddings", None)
    rooms = [_room(positions, len(question.prompt_ids), max_new_tokens) for question in batch]
    visual = {"past_key_values": opening.cache} if opening is not None else _visual_inputs(llava, pictures)
    output = llava.generate(
        input_ids=torch.tensor(ids, device=llava.device),
        attention_mask=torch.tensor(mask, device=llava.device),
        **visual,
        max_new_tokens=max(rooms),
        do_sample=False,
        num_beams=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_tokens(llava, processor),
    )
    answers = [row[:room] for row, room in zip(output[:, longest:].tolist(), rooms, strict=True)]
    texts: list[str] = tokenizer.batch_decode(answers, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _room(positions: int | None, num_prompt: int, max_new_tokens: int) -> int:
    return (
        max_new_tokens if positions is None or num_prompt >= positions else min(max_new_tokens, positions - num_prompt)
    )


@dataclass(frozen=True)
class _Opening:
    """What the LLM has read already: every prompt of a batch up to the end of its pictures.

    Attributes:
        length: Tokens of it, the same in every prompt.
        cache: Keys and values, a row for each question.
    """

    length: int
    cache: DynamicCache


def _read_openings(
    llava: LlavaForConditionalGeneration, batch: Sequence[Question], pictures: Pictures | None
) -> _Opening | None:
    """Read each different opening of a batch once: template and pictures, which all questions about a picture share.

    Returns None where nothing would be saved: no pictures, openings of different lengths, or none that is shared.
    """
    if pictures is None or any(not question.images for question in batch):
        return None
    image_token = llava.config.image_token_id
    places = iter(pictures.places)
    keys = []
    for question in batch:
        end = len(question.prompt_ids) - question.prompt_ids[::-1].index(image_token)
        keys.append((tuple(question.prompt_ids[:end]), tuple(next(places) for _ in question.images)))
    different = list(dict.fromkeys(keys))
    length = len(different[0][0])
    if 2 * len(different) > len(batch) or any(len(ids) != length for ids, _ in different):
        return None
    shown = Pictures(pictures.pixels, [place for _, places_of_one in different for place in places_of_one])
    cache = DynamicCache(config=llava.config.text_config)
    llava.model(
        input_ids=torch.tensor([ids for ids, _ in different], device=llava.device),
        past_key_values=cache,
        use_cache=True,
        **_visual_inputs(llava, shown),
    )
    rows = {key: row for row, key in enumerate(different)}
    cache.batch_select_indices(torch.tensor([rows[key] for key in keys], device=llava.device))
    return _Opening(length, cache)


def _visual_inputs(llava: LlavaForConditionalGeneration, pictures: Pictures | None) -> dict[str, Any]:
    """Return what the model takes in place of pixels: visual tokens, computed once for each different picture."""
    if pictures is None:
        return {}
    features = llava.get_image_features(pictures.pixels.to(llava.device, llava.dtype))
    features.pooler_output = [features.pooler_output[index] for index in pictures.places]
    return {"mm_encoder_outputs": {"image": features}}


def end_tokens(llava: LlavaForConditionalGeneration, processor: LlavaProcessor) -> list[int]:
    """Return every token that ends an answer: the tokenizer's, and those of the model's generation config."""
    return end_token_ids(processor.tokenizer, llava.generation_config.eos_token_id)


def decode_plainly(llava: LlavaForConditionalGeneration, processor: LlavaProcessor) -> int:
    """Take beams, penalties and top-p out of a model's generation config, and return the token that pads.

    They would be mixed into every answer, greedy ones too.
    """
    ends = end_tokens(llava, processor)
    pad = processor.tokenizer.pad_token_id
    pad = int(pad) if pad is not None else (ends or [0])[0]
    llava.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=pad)
    return pad


def prepare_pictures(processor: LlavaProcessor, pictures: Sequence[ImageRef | None]) -> Pictures | None:
    """Return the pictures of a batch, each different one opened and prepared once; None where there are none.

    Raises:
        BadImageError: A picture does not open.
    """
    if not pictures:
        return None
    prepared: list[torch.Tensor] = []
    known: dict[str, int] = {}
    places = []
    for reference in pictures:
        name = reference.name if reference is not None else ""
        if name not in known:
            known[name] = len(prepared)
            image = blank_image(processor) if reference is None else open_image(reference)
            prepared.append(process_images([image], processor.image_processor))
        places.append(known[name])
    return Pictures(torch.cat(prepared), places)


def blank_image(processor: LlavaProcessor) -> Image.Image:
    """Return a picture of nothing: the mean colour that padding uses."""
    size = processor.image_processor.crop_size
    return Image.new("RGB", (size["width"], size["height"]), mean_colour(processor))


def mean_colour(processor: LlavaProcessor) -> tuple[int, int, int]:
    """Return the colour that padding uses, 0 to 255 each."""
    red, green, blue = (int(mean * 255) for mean in processor.image_processor.image_mean)
    return red, green, blue
