"""Benchmarks on the way of whole stages on a tiny model: scored, resumable, and without a trace in the training."""

from pathlib import Path
from typing import Any

import pytest
import torch

from croc_cli.benchmarks.predictions import read_rows, shard_file
from croc_cli.checkpoint.load import load_for_inference
from croc_cli.checkpoint.metadata import CheckpointMetadata
from croc_cli.errors import Interrupted, UsageError
from croc_cli.eval.predict import Answerer, answer_share
from croc_cli.eval.prompts import evaluation_encoder
from croc_cli.eval.runner import decode_plainly
from croc_cli.pipeline.during import asked_on_the_way
from croc_cli.recipe.schema import Recipe
from croc_cli.report.prune import _of_stage
from croc_cli.run_dir import StageDir, read_json, read_jsonl, write_json
from croc_cli.train.position import POSITION
from croc_cli.train.stage_module import StageModule
from croc_cli.train.trainer import Trainer
from croc_cli.worker import during
from tests.worker import harness
from tests.worker.ranks import run_ranks

CLOCKS = ("seconds", "time_share")


def asking(home: Path, *, stage: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    given = {"benchmarks": ["scenes"], "every": 2, "limit": 40, "batch_size": 8} | changes
    shared = {"max_steps": 3} | (stage or {})
    own = {key: value for key, value in shared.items() if key != "reconstruction"}
    recipe = harness.make_recipe(home, reconstruct=shared, finetune=own)
    values = recipe.model_dump(mode="json")
    values["eval"] |= {"during": given, "num_scenes": 2, "max_new_tokens": 4}
    return type(recipe).model_validate(values)


def scored(stage_dir: StageDir) -> dict[int, dict[str, Any]]:
    return {
        row["step"]: {key: value for key, value in row["benchmark"].items() if key not in CLOCKS}
        for row in harness.metrics(stage_dir)
        if "benchmark" in row
    }


def test_a_run_that_answers_on_the_way_has_the_very_weights_of_one_that_does_not(home: Path, tmp_path: Path) -> None:
    head = {"reconstruction": {"head": "bert"}}  # its dropout draws numbers
    torch.manual_seed(0)
    plain = harness.train(asking(home, stage=head, benchmarks=[]), "reconstruct", tmp_path / "a", start=home / "start")
    torch.manual_seed(0)
    asked = harness.train(asking(home, stage=head), "reconstruct", tmp_path / "b", start=home / "start")
    before, after = harness.weights(plain), harness.weights(asked)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert scored(plain) == {}
    rows = scored(asked)
    assert list(rows) == [2, 3]
    assert rows[2]["scenes"]["questions"] == 31  # of 40, in whole scenes
    assert 0 < harness.metrics(asked)[-1]["benchmark"]["time_share"] < 1
    assert read_json(asked.summary_file)["benchmark"]["scenes"] == rows[3]["scenes"]
    assert texts(asked.during(3)) == answers_of(asked, asking(home))
    entry = read_json(asked.during(3).results_file)["benchmarks"]["scenes"]
    assert (entry["limit"], entry["made_by"]["step"]) == (40, 3)


def texts(folder: StageDir) -> dict[str, str]:
    return {row["question_id"]: row["text"] for row in read_jsonl(folder.predictions / "scenes.jsonl")}


def answers_of(stage_dir: StageDir, recipe: Recipe) -> dict[str, str]:
    """Return what the newest checkpoint answers, opened as `croc eval` opens it."""
    checkpoint = stage_dir.latest_checkpoint()
    assert checkpoint is not None
    model = load_for_inference(checkpoint)
    decode_plainly(model.llava, model.processor)
    [(benchmark, records)] = asked_on_the_way(recipe)
    batches = answer_share(
        Answerer(model, evaluation_encoder(model), 8, ""),
        records,
        max_new_tokens=benchmark.max_new_tokens,
        rank=0,
        num_ranks=1,
        answered=(),
        on_bad_image=lambda *_: None,
    )
    return {row["question_id"]: row["text"] for batch in batches for row in batch}


def test_a_stop_amid_an_evaluation_loses_nothing_and_the_resumed_run_has_the_same_scores(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = asking(home)
    whole = harness.train(recipe, "finetune", tmp_path / "whole", start=home / "start")
    with monkeypatch.context() as patched:
        asked: list[str] = []

        def stop_at_the_second_batch(trainer: Trainer) -> bool:
            asked.extend([POSITION.phase] if POSITION.phase == "answering scenes" else [])
            return len(asked) == 2

        patched.setattr(Trainer, "_asked_to_stop", stop_at_the_second_batch)
        with pytest.raises(Interrupted, match="stopped after step 2 of 3; saved in"):
            harness.train(recipe, "finetune", tmp_path / "cut", start=home / "start")
    cut = StageDir(tmp_path / "cut" / "finetune")
    assert scored(cut) == {}
    first = list(read_rows(shard_file(cut.during(2).predictions, "scenes", 0)))
    assert len(first) == 16
    harness.train(recipe, "finetune", tmp_path / "cut", start=home / "start")
    assert scored(cut) == scored(whole)
    assert [row["step"] for row in harness.metrics(cut)] == [1, 2, 3]
    assert texts(cut.during(2)) == texts(whole.during(2))
    before, after = harness.weights(whole), harness.weights(cut)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_the_best_step_is_kept_beside_the_newest(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {1: 50.0, 2: 80.0, 3: 80.0, 4: 20.0}

    def scores(*_: Any, made_by: dict[str, Any], **__: Any) -> dict[str, Any]:
        return {"value": figures[made_by["step"]], "num_answered": 1, "made_by": made_by}

    monkeypatch.setattr(during, "score_rows", scores)
    stage = {"max_steps": 4, "keep_checkpoints": 1}
    recipe = asking(home, stage=stage, every=1, limit=10, keep_best="scenes")
    stage_dir = harness.train(recipe, "finetune", tmp_path, start=home / "start")
    assert [path.name for path in stage_dir.complete_checkpoints()] == ["step-00000002", "step-00000004"]
    assert read_json(stage_dir.best_file) == {"benchmark": "scenes", "step": 2, "value": 80.0}
    assert not list(_of_stage(stage_dir)) or all("step-00000002" not in str(path) for path, _ in _of_stage(stage_dir))
    assert not (stage_dir.checkpoint(2) / "resume").exists()


def test_what_a_later_step_left_goes_when_a_run_resumes_before_it(tmp_path: Path) -> None:
    stage_dir = StageDir(tmp_path / "finetune")
    for step, value in ((2, 10.0), (4, 90.0)):
        write_json(stage_dir.during(step).results_file, {"benchmarks": {"pope": {"value": value}}})
    settings = during.DuringSettings(every=2, num_steps=9, limit=None, keep_best="pope", batch_size=1)
    evaluation = during.DuringEvaluation(
        StageModule.__new__(StageModule),
        None,
        CheckpointMetadata(stage="finetune"),
        [],
        settings,
        stage_dir=stage_dir,
        device=torch.device("cpu"),
        warn=print,
    )
    evaluation.drop_after(4)
    assert stage_dir.best_step() == 4
    evaluation.drop_after(3)
    assert stage_dir.evaluated_steps() == [2]
    assert stage_dir.best_step() == 2


def test_a_benchmark_without_a_score_is_told_and_training_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UsageError("nothing fits")

    monkeypatch.setattr(during, "score_rows", fail)
    recipe = asking(home, stage={"max_steps": 1}, limit=10, keep_best="scenes")
    stage_dir = harness.train(recipe, "finetune", tmp_path, start=home / "start")
    assert "scenes after step 1 has no score: nothing fits" in harness.events(stage_dir)
    assert scored(stage_dir) == {1: {"scenes": {"questions": 10}}} or list(scored(stage_dir)) == [1]
    assert stage_dir.best_step() is None


@pytest.mark.slow
def test_two_ranks_under_zero_3_answer_as_one_does_and_train_as_without(home: Path, tmp_path: Path) -> None:
    stage = {"zero_stage": 3, "max_steps": 2}
    found, weights = {}, {}
    for name, benchmarks, num_ranks in (("asked", ["scenes"], 2), ("plain", [], 2)):
        recipe = asking(home, stage=stage, every=1, benchmarks=benchmarks)
        stage_dir, ended = run_ranks(recipe, "reconstruct", tmp_path / name, start=home / "start", num_ranks=num_ranks)
        assert ended.codes == [0] * num_ranks, ended.logs
        found[name], weights[name] = stage_dir, harness.weights(stage_dir)
    assert [name for name, one in weights["asked"].items() if not torch.equal(one, weights["plain"][name])] == []
    assert list(scored(found["asked"])) == [1, 2]
    assert texts(found["asked"].during(2)) == answers_of(found["asked"], asking(home))
