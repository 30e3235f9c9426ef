"""Benchmarks on the way: a stage's ranks answer questions between two steps, without a trace in the training.

Each evaluation has a folder of its own, `during/step-N`, with answers, items and results as `croc eval` writes them.
Its weights are those of the step, so what is left of a later step than the one that a run resumes at goes.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.predictions import (
    answers_file,
    append_row,
    claim,
    merge_shards,
    open_shard,
    questions_sha256,
    read_rows,
    shard_file,
    shard_files,
)
from croc_cli.benchmarks.results import score_rows, write_results
from croc_cli.checkpoint.load import LoadedModel, ready
from croc_cli.checkpoint.metadata import CheckpointMetadata
from croc_cli.data.image import BadImageError
from croc_cli.errors import CrocError
from croc_cli.eval.predict import Answerer, answer_share
from croc_cli.eval.prompts import evaluation_encoder
from croc_cli.eval.runner import decode_plainly
from croc_cli.pipeline.during import asked_on_the_way
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir, read_json, write_json
from croc_cli.train.collectives import barrier, gather_from_ranks, num_ranks, rank, sum_over_ranks
from croc_cli.train.held_out import untouched
from croc_cli.train.metrics import JsonLines
from croc_cli.train.position import POSITION
from croc_cli.train.stage_module import StageModule
from croc_cli.train.weights import answering_copy
from croc_cli.worker.build import StageParts


@dataclass(frozen=True)
class DuringSettings:
    """What is asked.

    Args:
        every: Steps between two evaluations.
        num_steps: Of the stage; after the last step there is an evaluation, too.
        limit: As the recipe says; scores say so.
        keep_best: Benchmark by which the best step is told; None for none.
        batch_size: Questions answered at once.
    """

    every: int
    num_steps: int
    limit: int | None
    keep_best: str | None
    batch_size: int


class DuringEvaluation:
    """Answers and scores benchmarks with the weights of a step.

    Args:
        module: The training module.
        processor: The stage's stock processor.
        metadata: What croc.json says of the stage's checkpoints.
        asked: The benchmarks, each with the questions that are asked.
        settings: The rest.
        stage_dir: Gets the results.
        device: Where the module is.
        warn: Is told what stays unanswered or unscored.
    """

    def __init__(
        self,
        module: StageModule,
        processor: Any,
        metadata: CheckpointMetadata,
        asked: Sequence[tuple[Benchmark, list[Record]]],
        settings: DuringSettings,
        *,
        stage_dir: StageDir,
        device: torch.device,
        warn: Callable[[str], None],
    ) -> None:
        self.module = module
        self.processor = processor
        self.metadata = metadata
        self.asked = asked
        self.settings = settings
        self.stage_dir = stage_dir
        self.device = device
        self.warn = warn
        self.hashes = {benchmark.name: questions_sha256(records) for benchmark, records in asked}

    def is_open(self, step: int) -> bool:
        """Tell whether `step` has an evaluation that is not done; the same on all ranks."""
        is_due = step % self.settings.every == 0 or step == self.settings.num_steps
        return is_due and gather_from_ranks(not self._is_done(step))[0]

    def drop_after(self, step: int) -> None:
        """Remove what later steps left; on rank 0 alone."""
        for later in self.stage_dir.evaluated_steps():
            if later > step:
                shutil.rmtree(self.stage_dir.during(later).root)
        self._note_best()

    def evaluate(self, step: int, *, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Answer and score; every rank must call it at the same point.

        Args:
            step: Steps that are done.
            stop: Asked after each batch; when one rank is to stop, all do, and the answers so far are kept.

        Returns:
            Figures as metrics.jsonl holds them, the same on all ranks; None where it was stopped.
        """
        started = time.perf_counter()
        folder = self.stage_dir.during(step)
        if rank() == 0:
            for benchmark, _ in self.asked:
                made_by = {"step": step, "questions_sha256": self.hashes[benchmark.name]}
                claim(folder.predictions, benchmark.name, made_by | {"max_new_tokens": benchmark.max_new_tokens})
        barrier()
        with untouched(self.module):
            answerer = self._answerer(step)
            for benchmark, records in self.asked:
                if not self._answer(answerer, benchmark, records, folder, stop=stop):
                    return None
            del answerer
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        figures = gather_from_ranks(self._scores(step, folder) if rank() == 0 else None)[0]
        return {**figures, "seconds": time.perf_counter() - started}

    def is_best(self, step: int) -> bool:
        """Tell whether `step` has the best figure so far; the same on all ranks."""
        return bool(gather_from_ranks(self.stage_dir.best_step() == step)[0])

    def _is_done(self, step: int) -> bool:
        made_by = {name: self._kept(step, name).get("made_by") for name in self.hashes}
        return all(
            isinstance(made, dict) and made.get("questions_sha256") == self.hashes[name]
            for name, made in made_by.items()
        )

    def _kept(self, step: int, name: str) -> dict[str, Any]:
        """Return a benchmark's entry in the results of a step; empty where there is none, or a damaged one."""
        entries = read_json(self.stage_dir.during(step).results_file).get("benchmarks")
        entry = entries.get(name) if isinstance(entries, dict) else None
        return entry if isinstance(entry, dict) else {}

    def _answerer(self, step: int) -> Answerer:
        POSITION.at("copying the weights to answer with")
        name = self.stage_dir.checkpoint(step)
        model = LoadedModel(answering_copy(self.module.model.llava), self.processor, self.metadata, name)
        model = ready(model, self.device)
        decode_plainly(model.llava, model.processor)
        return Answerer(model, evaluation_encoder(model), self.settings.batch_size, f"{self.stage_dir.root}, {step}")

    def _answer(
        self,
        answerer: Answerer,
        benchmark: Benchmark,
        records: list[Record],
        folder: StageDir,
        *,
        stop: Callable[[], bool],
    ) -> bool:
        """Answer what is open of one benchmark, a batch a rank at a time; False where it was stopped."""
        name = benchmark.name
        files = (answers_file(folder.predictions, name), *shard_files(folder.predictions, name))
        done = {benchmark.row_key(row) for file in files for row in read_rows(file) if row["text"] is not None}
        done = set(gather_from_ranks(done)[0])  # a rank that is early writes already
        count = sum(record.key in done for record in records)
        rows = answer_share(
            answerer,
            records,
            max_new_tokens=benchmark.max_new_tokens,
            rank=rank(),
            num_ranks=num_ranks(),
            answered=done,
            on_bad_image=lambda record, error: self._tell(benchmark, record, error),
        )
        with (
            POSITION.working(f"answering {name}", f"answered {name}", total=len(records), unit="questions") as moved,
            open_shard(shard_file(folder.predictions, name, rank())) as stream,
        ):
            moved(count)
            for batch in rows:
                for row in batch:
                    append_row(stream, row)
                told = torch.tensor([len(batch), int(stop())], device=self.device)
                num_answered, stops = sum_over_ranks(told).tolist()
                count += num_answered
                moved(count)
                if stops:
                    return False
        return True

    def _tell(self, benchmark: Benchmark, record: Record, error: BadImageError) -> None:
        self.warn(f"{benchmark.name}: question {record.question_id} stays unanswered: {error}")

    def _scores(self, step: int, folder: StageDir) -> dict[str, Any]:
        """Score what all ranks answered, keep it, and return the figures; on rank 0 alone."""
        entries: dict[str, dict[str, Any]] = {}
        for benchmark, records in self.asked:
            made_by = {"step": step, "questions_sha256": self.hashes[benchmark.name]}
            try:
                rows = merge_shards(folder.predictions, benchmark, records)
                entry = score_rows(benchmark, records, rows, folder, made_by=made_by, partial=True)
            except CrocError as error:
                self.warn(f"{benchmark.name} after step {step} has no score: {error.message}")
                entry = {"value": None, "metric": benchmark.metric, "num_questions": len(records), "made_by": made_by}
            entries[benchmark.name] = entry | ({"limit": self.settings.limit} if self.settings.limit else {})
        write_results(folder, entries, model={"step": step})
        self._note_best()
        keys = {"score": "value", "questions": "num_answered", "unreadable": "num_unparsable"}
        return {
            name: {key: entry.get(own) for key, own in keys.items() if entry.get(own) is not None}
            for name, entry in entries.items()
        }

    def _note_best(self) -> None:
        """Write down which step has the best figure; of equal ones, the first."""
        name = self.settings.keep_best
        steps = self.stage_dir.evaluated_steps() if name is not None else []
        values = {step: self._kept(step, name or "").get("value") for step in steps}
        figures = {step: float(value) for step, value in values.items() if isinstance(value, int | float)}
        if figures:
            best = max(figures, key=lambda step: (figures[step], -step))
            write_json(self.stage_dir.best_file, {"benchmark": name, "step": best, "value": figures[best]})
        else:
            self.stage_dir.best_file.unlink(missing_ok=True)


def during_evaluation(
    recipe: Recipe, parts: StageParts, stage_dir: StageDir, metadata: CheckpointMetadata, *, device: torch.device
) -> DuringEvaluation | None:
    """Return what answers the recipe's benchmarks on the way; None where it asks for none.

    Args:
        recipe: The resolved recipe.
        parts: Of the stage.
        stage_dir: Its folder.
        metadata: What croc.json says of its checkpoints.
        device: Where the module is.
    """
    asked = asked_on_the_way(recipe)
    if not asked:
        return None
    during, events = recipe.eval.during, JsonLines(stage_dir.events_file)
    return DuringEvaluation(
        parts.module,
        parts.processor,
        metadata,
        asked,
        DuringSettings(
            every=during.every,
            num_steps=parts.settings.num_steps,
            limit=during.limit,
            keep_best=during.keep_best,
            batch_size=during.batch_size,
        ),
        stage_dir=stage_dir,
        device=device,
        warn=lambda message: events.write(time=time.time(), level="warning", message=message),
    )
