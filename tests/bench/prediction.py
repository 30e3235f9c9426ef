"""Questions answered a second: `croc eval`'s batches against one question at a time with the same model, same answers.

`python -m tests.bench.prediction [CHECKPOINT]`; left out, the nano model before any training, whose answers are long.
Baseline: one `generate` call after another, each question's picture opened and prepared just before.
"""

import io
import sys
import tempfile
import time
from pathlib import Path

import torch

from croc_cli.benchmarks.base import Record
from croc_cli.benchmarks.files import Picture
from croc_cli.checkpoint.load import LoadedModel, load_for_inference
from croc_cli.data.conversation import ConversationEncoder
from croc_cli.data.sample import Turn
from croc_cli.demo.evaluation import evaluation_image, evaluation_records
from croc_cli.eval.predict import Answerer, answer_share, image_reference
from croc_cli.eval.prompts import evaluation_encoder
from croc_cli.eval.runner import Question, answer_batch, prepare_pictures
from croc_cli.names import IMAGE_TOKEN
from tests.nano import assemble_nano

NUM_SCENES = 40
BATCH_SIZE = 64
MAX_NEW_TOKENS = 32


def records() -> list[Record]:
    """Return ten questions about each of the held-out scenes, their pictures as PNG files in memory."""
    made = []
    for row in evaluation_records(num_scenes=NUM_SCENES, num_captions=0):
        stream = io.BytesIO()
        evaluation_image(row["scene_index"]).open().save(stream, format="PNG")
        prompt = row["question"].replace(IMAGE_TOKEN, "").strip()
        picture = Picture(f"scene {row['scene_index']}", data=stream.getvalue())
        made.append(Record(row["question_id"], row["question_id"], prompt, picture))
    return made


def one_at_a_time(model: LoadedModel, encoder: ConversationEncoder, asked: list[Record]) -> dict[str, str]:
    """Return the answers, each from its own call of `generate`."""
    answers = {}
    for record in asked:
        assert record.picture is not None
        ids = encoder.encode_prompt([Turn("human", f"{IMAGE_TOKEN}\n{record.prompt}")])
        question = Question(record.key, ids, (image_reference(record.picture),))
        pictures = prepare_pictures(model.processor, question.images)
        [answers[record.key]] = answer_batch(
            model.llava, model.processor, [question], pictures, max_new_tokens=MAX_NEW_TOKENS
        )
    return answers


def batched(answerer: Answerer, asked: list[Record]) -> dict[str, str]:
    """Return the answers as `croc eval` makes them."""
    rows = answer_share(
        answerer,
        asked,
        max_new_tokens=MAX_NEW_TOKENS,
        rank=0,
        num_ranks=1,
        answered=(),
        on_bad_image=lambda record, error: None,
    )
    return {row["question_id"]: row["text"] for batch in rows for row in batch}


def main(checkpoint: Path | None = None) -> None:
    """Print questions a second both ways, their ratio, and how many answers differ."""
    with tempfile.TemporaryDirectory() as folder:
        model = load_for_inference(checkpoint or assemble_nano(Path(folder) / "model"), device="cpu")
    encoder = evaluation_encoder(model)
    asked = records()
    batched(Answerer(model, encoder, BATCH_SIZE, ""), asked[:BATCH_SIZE])  # warms up
    started = time.perf_counter()
    alone = one_at_a_time(model, encoder, asked)
    middle = time.perf_counter()
    together = batched(Answerer(model, encoder, BATCH_SIZE, ""), asked)
    ended = time.perf_counter()
    differ = sum(alone[key] != together[key] for key in alone)
    print(f"{len(asked)} questions, {torch.get_num_threads()} threads, batches of {BATCH_SIZE}")
    print(f"one at a time: {len(asked) / (middle - started):7.1f} questions/s")
    print(f"croc eval:     {len(asked) / (ended - middle):7.1f} questions/s")
    print(f"ratio: {(middle - started) / (ended - middle):.2f}; answers that differ: {differ}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
