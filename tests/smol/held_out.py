"""Scores a checkpoint on pictures it was never trained on: `python -m tests.smol.held_out --model DIR --data DIR`.

For questions that ask what a picture shows it prints the mean loss of a right answer's token, with the picture that the
question is about and with another one, and the answers to five questions as they come out. No two pictures are of one
family, so that none differs from another in skin or gender alone.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from croc_cli.checkpoint.load import LoadedModel, load_for_inference
from croc_cli.data.conversation import ConversationEncoder
from croc_cli.data.dataset import LlavaJsonDataset
from croc_cli.data.image import open_image, process_images
from croc_cli.data.sample import ImageRef, Sample
from croc_cli.errors import CrocError
from croc_cli.eval.prompts import evaluation_encoder
from croc_cli.eval.runner import Question, answer_questions
from croc_cli.names import IGNORE_INDEX
from tests.smol.conversations import family_of

NUM_ANSWERED = 5


@dataclass(frozen=True)
class HeldOut:
    """What a model makes of held-out pictures.

    Args:
        num_questions: How many were asked.
        right: Mean cross-entropy of an answer's token, in nats, with the picture of the question.
        swapped: The same with the picture of a question half the list away.
        better: Share of questions whose answer has a lower loss with its own picture.
        answers: (question id, right answer, what the model said), of questions spread over the file.
    """

    num_questions: int
    right: float
    swapped: float
    better: float
    answers: list[tuple[str, str, str]]


def score(model: LoadedModel, samples: list[Sample]) -> HeldOut:
    """Score a model on samples of one question and one picture each."""
    encoder = evaluation_encoder(model)
    pictures = [_visual_tokens(model, sample.images[0]) for sample in samples]
    half = len(samples) // 2  # neighbours are of one kind, such as two flags
    others = [*pictures[half:], *pictures[:half]]
    right = [_loss(model, encoder, sample, picture) for sample, picture in zip(samples, pictures, strict=True)]
    swapped = [_loss(model, encoder, sample, picture) for sample, picture in zip(samples, others, strict=True)]
    better = [own[0] / own[1] < other[0] / other[1] for own, other in zip(right, swapped, strict=True)]
    asked = samples[:: max(1, len(samples) // NUM_ANSWERED)][:NUM_ANSWERED]
    questions = [Question(one.id, encoder.encode_prompt(one.turns[:1]), one.images) for one in asked]
    said = dict(answer_questions(model.llava, model.processor, questions, batch_size=NUM_ANSWERED, max_new_tokens=40))
    return HeldOut(
        num_questions=len(samples),
        right=sum(loss for loss, _ in right) / sum(tokens for _, tokens in right),
        swapped=sum(loss for loss, _ in swapped) / sum(tokens for _, tokens in swapped),
        better=sum(better) / len(better),
        answers=[(one.id, one.turns[1].text, said[one.id]) for one in asked],
    )


@torch.inference_mode()
def _visual_tokens(model: LoadedModel, picture: ImageRef) -> torch.Tensor:
    """Return a picture's projected tokens [n, D], which two questions share."""
    pixels = process_images([open_image(picture)], model.processor.image_processor).to(model.llava.dtype)
    return model.llava.get_image_features(pixel_values=pixels).pooler_output[0]


@torch.inference_mode()
def _loss(
    model: LoadedModel, encoder: ConversationEncoder, sample: Sample, visual_tokens: torch.Tensor
) -> tuple[float, int]:
    """Return the summed cross-entropy of an answer's tokens, and how many they are."""
    encoded = encoder.encode(sample.turns, num_images=1)
    input_ids = torch.tensor([encoded.input_ids])
    embeddings = model.llava.get_input_embeddings()(input_ids)
    embeddings[input_ids == model.llava.config.image_token_id] = visual_tokens
    logits = model.llava(inputs_embeds=embeddings).logits[0, :-1].float()
    labels = torch.tensor(encoded.labels[1:])
    loss = functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return float(loss), int((labels != IGNORE_INDEX).sum())


def one_a_family(samples: list[Sample], *, count: int) -> list[Sample]:
    """Return the first sample of `count` families of pictures, spread over all of them."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(family_of(sample.id.split("-name")[0]), sample)
    chosen = list(first.values())
    taken = min(count, len(chosen))
    return [chosen[number * len(chosen) // taken] for number in range(taken)]


def main() -> int:
    """Score a checkpoint from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Score a checkpoint of the recipe `smol` on held-out pictures.")
    parser.add_argument("--model", required=True, metavar="DIR", help="a checkpoint folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="what tests.smol.pictures wrote")
    parser.add_argument("--count", type=int, default=60, metavar="N", help="questions (default: 60)")
    arguments = parser.parse_args()
    try:
        dataset = LlavaJsonDataset(arguments.data / "test.json", arguments.data / "images")
        samples = [dataset[index] for index in range(len(dataset))]
        named = [sample for sample in samples if "-name" in sample.id]
        found = score(load_for_inference(arguments.model), one_a_family(named, count=arguments.count))
    except CrocError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(found.__dict__, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
