"""A rank's share of a benchmark's questions, answered batch by batch and written down at once.

Which questions make a batch does not depend on the ranks or on what is answered already, so answers do not either.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from croc_cli.benchmarks.base import Record
from croc_cli.benchmarks.files import Picture
from croc_cli.benchmarks.predictions import answer_row
from croc_cli.checkpoint.load import LoadedModel
from croc_cli.data.conversation import ConversationEncoder
from croc_cli.data.image import BadImageError, LazyImage, PathImage
from croc_cli.data.sample import ImageRef, Turn
from croc_cli.eval.runner import Question, answer_batch, make_batches, prepare_pictures
from croc_cli.names import IMAGE_TOKEN
from croc_cli.pictures import ImageReading


@dataclass(frozen=True)
class Answerer:
    """A model with all that answering needs.

    Args:
        model: The model.
        encoder: Writes prompts in its template.
        batch_size: Questions answered at once.
        model_sha256: Of its weights; answer ids are made from it.
    """

    model: LoadedModel
    encoder: ConversationEncoder
    batch_size: int
    model_sha256: str


def answer_share(
    answerer: Answerer,
    records: Sequence[Record],
    *,
    max_new_tokens: int,
    rank: int,
    num_ranks: int,
    answered: Collection[str],
    on_bad_image: Callable[[Record, BadImageError], None],
) -> Iterator[list[dict[str, Any]]]:
    """Yield answer rows in LLaVA's format for each batch that falls to one rank; as many lists on every rank.

    Args:
        answerer: The model.
        records: All questions of the benchmark.
        max_new_tokens: Tokens of an answer at most.
        rank: This rank.
        num_ranks: All of them; batch i falls to rank i mod num_ranks.
        answered: Keys of records that have an answer already.
        on_bad_image: Called with each question whose picture does not open; it stays unanswered.
    """
    by_key = {record.key: record for record in records}
    reading = answerer.model.metadata.image_reading
    questions = [_question(answerer.encoder, record, reading) for record in records]
    batches = make_batches(questions, answerer.batch_size)
    for start in range(0, len(batches), num_ranks):
        batch = batches[start + rank] if start + rank < len(batches) else []
        waiting = [question for question in batch if question.id not in answered]
        yield _answer(answerer, waiting, by_key, max_new_tokens, on_bad_image)


def _answer(
    answerer: Answerer,
    waiting: list[Question],
    by_key: dict[str, Record],
    max_new_tokens: int,
    on_bad_image: Callable[[Record, BadImageError], None],
) -> list[dict[str, Any]]:
    processor = answerer.model.processor
    while waiting:
        try:
            pictures = prepare_pictures(processor, [reference for q in waiting for reference in q.images])
        except BadImageError as error:
            for question in waiting:
                if any(image is not None and image.name == error.name for image in question.images):
                    on_bad_image(by_key[question.id], error)
            waiting = [q for q in waiting if all(image is None or image.name != error.name for image in q.images)]
            continue
        texts = answer_batch(answerer.model.llava, processor, waiting, pictures, max_new_tokens=max_new_tokens)
        about = {"model_sha256": answerer.model_sha256, "model_id": answerer.model.folder.name}
        return [answer_row(by_key[question.id], text, **about) for question, text in zip(waiting, texts, strict=True)]
    return []


def _question(encoder: ConversationEncoder, record: Record, reading: ImageReading) -> Question:
    """Return a question with its pictures where `croc serve` would put them: before a text, each ends its line."""
    pieces: list[str] = []
    for part in record.parts():
        in_front = all(piece == f"{IMAGE_TOKEN}\n" for piece in pieces)
        pieces.append(part if isinstance(part, str) else f"{IMAGE_TOKEN}\n" if in_front else IMAGE_TOKEN)
    images = tuple(image_reference(picture, reading) for picture in record.pictures)
    ids = encoder.encode_prompt([Turn("human", "".join(pieces))], num_images=len(images))
    return Question(record.key, ids, images)


def image_reference(picture: Picture, reading: ImageReading = "upright") -> ImageRef | None:
    """Return a benchmark's picture in the form that the data room opens; None for a blank one."""
    if picture.is_blank:
        return None
    if picture.path is not None:
        return PathImage(picture.path, reading=reading)
    return LazyImage(picture.name, picture.read, reading=reading)
