"""The evaluation that ends a pipeline: predictions of the last checkpoint, scored, in the run folder."""

import json
import time
from pathlib import Path
from typing import Any

from croc_cli import __version__
from croc_cli.benchmarks.scenes import score_rows
from croc_cli.checkpoint.load import LoadedModel, load_for_inference
from croc_cli.checkpoint.metadata import weights_sha256
from croc_cli.data.sample import ImageRef, Turn
from croc_cli.demo.evaluation import evaluation_image, evaluation_records
from croc_cli.errors import UsageError
from croc_cli.eval.prompts import evaluation_encoder
from croc_cli.eval.runner import Question, answer_questions
from croc_cli.names import IMAGE_TOKEN
from croc_cli.recipe.load import load_resolved
from croc_cli.recipe.schema import EvalRecipe
from croc_cli.run_dir import StageDir, write_json
from croc_cli.train.metrics import JsonLines
from croc_cli.train.position import POSITION
from croc_cli.worker.device import chosen_device

VARIANTS = ("picture", "another_picture", "no_picture")
"""What a question is asked about: its own picture, that of another scene, and a blank one."""


def run_evaluation(stage_dir: StageDir, *, start: Path | None) -> None:
    """Answer the benchmark's questions with the checkpoint `start`, then score the answers.

    Raises:
        UsageError: No checkpoint was given.
    """
    if start is None:
        raise UsageError("eval needs a checkpoint", hint="train first, with croc run")
    recipe = load_resolved(stage_dir.recipe_file)
    started = time.perf_counter()
    device = chosen_device(recipe.launch.device)
    model = load_for_inference(start, device=device)
    records = evaluation_records(num_scenes=recipe.eval.num_scenes)
    events = JsonLines(stage_dir.events_file)
    events.write(time=time.time(), level="info", message=f"eval: {len(records)} questions about held-out scenes")
    rows = predict_scenes(model, records, recipe.eval)
    predictions = stage_dir.predictions / "scenes.jsonl"
    predictions.parent.mkdir(parents=True, exist_ok=True)
    predictions.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    results = {
        "benchmarks": {"scenes": score_rows(rows)},
        "example": save_example(rows, stage_dir),
        "seconds": time.perf_counter() - started,
        "checkpoint": str(start),
        "checkpoint_sha256": weights_sha256(start),
        "croc_version": __version__,
    }
    write_json(stage_dir.results_file, results)
    summary = {"finished": True, "stage": "eval", "seconds": results["seconds"], "checkpoint": str(start)}
    write_json(stage_dir.summary_file, summary)


def predict_scenes(model: LoadedModel, records: list[dict[str, Any]], settings: EvalRecipe) -> list[dict[str, Any]]:
    """Return the records with what the model answered: `text`, and for questions every variant.

    Each variant's answer stands under its name; `text` is that to the record's own picture.
    """
    encoder = evaluation_encoder(model)
    questions = []
    for record in records:
        prompt = encoder.encode_prompt([Turn("human", record["question"])])
        for variant in VARIANTS if record["kind"] == "question" else VARIANTS[:1]:
            questions.append(Question(f"{record['question_id']}/{variant}", prompt, (_picture(record, variant),)))
    answers: dict[str, str] = {}
    doing = ("answering questions about scenes", "answered questions about scenes")
    with POSITION.working(*doing, total=len(questions), unit="questions") as moved:
        for question_id, answer in answer_questions(
            model.llava,
            model.processor,
            questions,
            batch_size=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
        ):
            answers[question_id] = answer
            moved(len(answers))
    rows = []
    for record in records:
        name = record["question_id"]
        given = {variant: answers[f"{name}/{variant}"] for variant in VARIANTS if f"{name}/{variant}" in answers}
        rows.append(record | {"text": given["picture"]} | given)
    return rows


def _picture(record: dict[str, Any], variant: str) -> ImageRef | None:
    if variant == "no_picture":
        return None
    return evaluation_image(record["swapped_scene_index" if variant == "another_picture" else "scene_index"])


def save_example(rows: list[dict[str, Any]], stage_dir: StageDir) -> dict[str, Any] | None:
    """Save the picture of one question and return what was asked and answered about it.

    It is always the first question about a colour, whether the model was right or not.
    """
    row = next((row for row in rows if row.get("type") == "colour"), None)
    if row is None:
        return None
    picture = stage_dir.root / "example.png"
    evaluation_image(row["scene_index"]).open().save(picture)
    question = row["question"].replace(IMAGE_TOKEN, "").strip()
    return {"image": str(picture), "question": question, "answer": row["text"], "expected": row["answer"]}
