"""One rank of `croc eval`: answers its share of every chosen benchmark's questions."""

import itertools
import os
import time
from pathlib import Path
from typing import Any

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.matching import limit_records
from croc_cli.benchmarks.predictions import answers_file, append_row, open_shard, read_rows, shard_file, shard_files
from croc_cli.benchmarks.registry import choose
from croc_cli.checkpoint.load import load_for_inference
from croc_cli.data.image import BadImageError
from croc_cli.eval.predict import Answerer, answer_share
from croc_cli.eval.prompts import evaluation_encoder
from croc_cli.eval.runner import decode_plainly
from croc_cli.recipe.load import load_resolved
from croc_cli.run_dir import StageDir, read_json, write_json
from croc_cli.train.metrics import JsonLines
from croc_cli.train.position import POSITION
from croc_cli.words import counted
from croc_cli.worker.device import chosen_device

TASK_FILE = "task.json"
_REPORT_SECONDS = 2.0


def run_benchmarks(stage_dir: StageDir, *, start: Path | None) -> None:
    """Answer this rank's questions and write them into its shard of each benchmark's answer file.

    The folder's task.json names the benchmarks, the data root, the batch size and the hash of the model's weights.
    """
    rank, num_ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    recipe = load_resolved(stage_dir.recipe_file)
    task = read_json(stage_dir.root / TASK_FILE)
    device: str = chosen_device(recipe.launch.device)
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    with POSITION.working("loading the model", "loaded the model", opaque=True):
        model = load_for_inference(start or Path(task["model"]), device=device)
    decode_plainly(model.llava, model.processor)
    encoder = evaluation_encoder(model)
    answerer = Answerer(model, encoder, int(task["batch_size"]), str(task["model_sha256"]))
    events = JsonLines(stage_dir.events_file)
    for name in task["benchmarks"]:
        variant = task.get("variants", {}).get(name)
        [benchmark] = choose(name, {name: variant} if variant else None, scenes=recipe.eval)
        records = benchmark.read(Path(task["data"]))
        if limit := task.get("limit"):
            records = limit_records(benchmark, records, limit)
        answer_benchmark(answerer, benchmark, records, stage_dir, rank=rank, num_ranks=num_ranks, events=events)
    if rank == 0:
        write_json(stage_dir.summary_file, {"finished": True, "stage": "benchmarks", "checkpoint": str(start)})


def answer_benchmark(
    answerer: Answerer,
    benchmark: Benchmark,
    records: list[Record],
    stage_dir: StageDir,
    *,
    rank: int,
    num_ranks: int,
    events: Any,
) -> None:
    """Answer what is not answered yet of one benchmark, as far as it falls to this rank."""
    folder = stage_dir.predictions
    files = (answers_file(folder, benchmark.name), *shard_files(folder, benchmark.name))
    saved = [row for file in files for row in read_rows(file)]
    done = {benchmark.row_key(row) for row in saved if row["text"] is not None}
    num_done = sum(record.key in done for record in records)
    num_kept = sum(len(read_rows(file)) for file in shard_files(folder, benchmark.name))
    shown = time.monotonic()

    def tell_bad_image(record: Record, error: BadImageError) -> None:
        events.write(
            time=time.time(),
            level="warning",
            message=f"{benchmark.name}: question {record.question_id} stays unanswered: {error}",
        )

    name, total = benchmark.name, len(records)
    with (
        POSITION.working(f"answering {name}", f"answered {name}", total=total, unit="questions") as moved,
        open_shard(shard_file(folder, name, rank)) as stream,
    ):
        moved(num_done)
        rows = answer_share(
            answerer,
            records,
            max_new_tokens=benchmark.max_new_tokens,
            rank=rank,
            num_ranks=num_ranks,
            answered=done,
            on_bad_image=tell_bad_image,
        )
        for row in itertools.chain.from_iterable(rows):
            append_row(stream, row)
            if rank == 0 and time.monotonic() - shown > _REPORT_SECONDS:
                shown = time.monotonic()
                rows_now = sum(len(read_rows(file)) for file in shard_files(folder, name))
                moved(num_done + rows_now - num_kept)
    if rank == 0:
        message = f"{benchmark.name}: {counted(len(records), 'question')}, {num_done:,} of them answered before"
        events.write(time=time.time(), level="info", message=message)
