"""Benchmarks on the way of whole stages on a tiny model: scored, resumable, and without a trace in the training."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from croc_cli.benchmarks.predictions import read_rows, shard_file
from croc_cli.checkpoint.load import load_for_inference
from croc_cli.checkpoint.metadata import CheckpointMetadata
from croc_cli.errors import EXIT_INTERRUPTED, Interrupted, UsageError
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
from tests.worker.ranks import END_SECONDS, kill_ranks, run_ranks, start_ranks, wait_for_ranks

CLOCKS = ("seconds", "time_share")


def asking(home: Path, *, stage: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    given = {"benchmarks": ["scenes"], "every": 2, "limit": 40, "batch_size": 8} | changes
    shared = {"max_steps": 3} | (stage or {})
    head = {"reconstruction": {"head": "bert"}}  # its dropout draws numbers
    recipe = harness.make_recipe(home, reconstruct=shared | head, finetune=shared)
    values = recipe.model_dump(mode="json")
    values["eval"] |= {"during": given, "num_scenes": 2, "max_new_tokens": 4}
    return type(recipe).model_validate(values)


def scored(stage_dir: StageDir) -> dict[int, dict[str, Any]]:
    return {
        row["step"]: {key: value for key, value in row["benchmark"].items() if key not in CLOCKS}
        for row in harness.metrics(stage_dir)
        if "benchmark" in row
    }


@pytest.fixture(scope="module")
def answered(home: Path, tmp_path_factory: pytest.TempPathFactory) -> StageDir:
    """Return a whole run of stage 1.5 that answers after steps 2 and 3."""
    torch.manual_seed(0)
    return harness.train(asking(home), "reconstruct", tmp_path_factory.mktemp("whole"), start=home / "start")


def differing(one: StageDir, other: StageDir) -> list[str]:
    """Return the weights in which the newest checkpoints of two runs differ."""
    before, after = harness.weights(one), harness.weights(other)
    assert before.keys() == after.keys()
    return [name for name in before if not torch.equal(before[name], after[name])]


def test_a_run_that_answers_on_the_way_has_the_very_weights_of_one_that_does_not(
    home: Path, tmp_path: Path, answered: StageDir
) -> None:
    torch.manual_seed(0)
    plain = harness.train(asking(home, benchmarks=[]), "reconstruct", tmp_path, start=home / "start")
    assert differing(plain, answered) == []
    assert scored(plain) == {}
    rows = scored(answered)
    assert list(rows) == [2, 3]
    assert rows[2]["scenes"]["questions"] == 31  # of 40, in whole scenes
    assert 0 < harness.metrics(answered)[-1]["benchmark"]["time_share"] < 1
    assert read_json(answered.summary_file)["benchmark"]["scenes"] == rows[3]["scenes"]
    entry = read_json(answered.during(3).results_file)["benchmarks"]["scenes"]
    assert (entry["limit"], entry["made_by"]["step"]) == (40, 3)


def test_the_answers_are_those_of_the_steps_checkpoint(home: Path, answered: StageDir) -> None:
    assert texts(answered.during(3)) == answers_of(answered, asking(home))
    assert len(texts(answered.during(3))) == 31


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
    home: Path, tmp_path: Path, answered: StageDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = asking(home)
    torch.manual_seed(0)
    with monkeypatch.context() as patched:
        asked: list[str] = []

        def stop_at_the_second_batch(_: Trainer) -> bool:
            asked.extend([POSITION.phase] if POSITION.phase == "answering scenes" else [])
            return len(asked) == 2

        patched.setattr(Trainer, "_asked_to_stop", stop_at_the_second_batch)
        with pytest.raises(Interrupted, match="stopped after step 2 of 3; saved in"):
            harness.train(recipe, "reconstruct", tmp_path, start=home / "start")
    cut = StageDir(tmp_path / "reconstruct")
    assert scored(cut) == {}
    assert len(read_rows(shard_file(cut.during(2).predictions, "scenes", 0))) == 16
    harness.train(recipe, "reconstruct", tmp_path, start=home / "start")
    assert scored(cut) == scored(answered)
    assert [row["step"] for row in harness.metrics(cut)] == [1, 2, 3]
    assert texts(cut.during(2)) == texts(answered.during(2))
    assert differing(cut, answered) == []


def test_the_best_step_is_kept_beside_the_newest_and_one_without_a_score_is_told(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {2: 80.0, 3: 80.0}

    def scores(*_: Any, made_by: dict[str, Any], **__: Any) -> dict[str, Any]:
        if made_by["step"] not in figures:
            raise UsageError("nothing fits")
        return {"value": figures[made_by["step"]], "num_answered": 1, "made_by": made_by}

    monkeypatch.setattr(during, "score_rows", scores)
    recipe = asking(home, stage={"keep_checkpoints": 1}, every=1, limit=10, keep_best="scenes")
    stage_dir = harness.train(recipe, "finetune", tmp_path, start=home / "start")
    assert [path.name for path in stage_dir.complete_checkpoints()] == ["step-00000002", "step-00000003"]
    assert read_json(stage_dir.best_file) == {"benchmark": "scenes", "step": 2, "value": 80.0}
    assert not (stage_dir.checkpoint(2) / "resume").exists()
    assert [path.name for path, _ in _of_stage(stage_dir)] == ["resume"]
    assert "scenes after step 1 has no score: nothing fits" in harness.events(stage_dir)
    assert scored(stage_dir)[1] == {"scenes": {}}


def bare(stage_dir: StageDir) -> during.DuringEvaluation:
    """Return an evaluation that asks nothing, for what it keeps on disk."""
    settings = during.DuringSettings(every=2, num_steps=9, limit=None, keep_best="pope", batch_size=1)
    return during.DuringEvaluation(
        StageModule.__new__(StageModule),
        None,
        CheckpointMetadata(stage="finetune"),
        [],
        settings,
        stage_dir=stage_dir,
        device=torch.device("cpu"),
        warn=print,
    )


def test_what_a_later_step_left_goes_when_a_run_resumes_before_it(tmp_path: Path) -> None:
    stage_dir = StageDir(tmp_path / "finetune")
    for step, value in ((2, 10.0), (4, 90.0)):
        write_json(stage_dir.during(step).results_file, {"benchmarks": {"pope": {"value": value}}})
    evaluation = bare(stage_dir)
    evaluation.drop_after(4)
    assert stage_dir.best_step() == 4
    evaluation.drop_after(3)
    assert stage_dir.evaluated_steps() == [2]
    assert stage_dir.best_step() == 2


@pytest.mark.slow
def test_two_ranks_under_zero_3_answer_train_stop_and_are_killed_as_one_is(home: Path, tmp_path: Path) -> None:
    """The same weights without benchmarks; a stop and a kill amid an evaluation change neither weights nor scores."""

    def recipe(benchmarks: list[str]) -> Recipe:
        stage = {"zero_stage": 3, "max_steps": 2, "save_every": 1}
        return asking(home, stage=stage, every=1, benchmarks=benchmarks, batch_size=2)

    def run(name: str, benchmarks: list[str]) -> StageDir:
        stage_dir, ended = run_ranks(
            recipe(benchmarks), "reconstruct", tmp_path / name, start=home / "start", num_ranks=2
        )
        assert ended.codes == [0, 0], ended.logs
        return stage_dir

    def cut(name: str, *, kill: bool) -> None:
        """Start a run, and end it while it answers after step 2."""
        stage_dir, ranks = start_ranks(
            recipe(["scenes"]), "reconstruct", tmp_path / name, start=home / "start", num_ranks=2
        )
        try:
            deadline = time.monotonic() + END_SECONDS
            while not read_rows(shard_file(stage_dir.during(2).predictions, "scenes", 1)):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            if not kill:
                stage_dir.stop_file.touch()
                assert set(wait_for_ranks(stage_dir, ranks).codes) == {EXIT_INTERRUPTED}
        finally:
            kill_ranks(ranks)
        assert 2 not in scored(stage_dir)

    whole = run("whole", ["scenes"])
    assert list(scored(whole)) == [1, 2]
    assert texts(whole.during(2)) == answers_of(whole, asking(home))
    assert differing(run("plain", []), whole) == []
    for name, kill in (("stopped", False), ("killed", True)):
        cut(name, kill=kill)
        resumed = run(name, ["scenes"])
        assert scored(resumed) == scored(whole)
        assert texts(resumed.during(2)) == texts(whole.during(2))
        assert differing(resumed, whole) == []


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"benchmarks": 3}', '{"benchmarks": {"pope": []}}', '{"benchmarks": {"pope": {"value": []}}}'],
)
def test_damaged_results_of_a_step_are_as_none(content: str, tmp_path: Path) -> None:
    stage_dir = StageDir(tmp_path / "finetune")
    evaluation = bare(stage_dir)
    evaluation.hashes = {"pope": "x"}
    stage_dir.during(2).root.mkdir(parents=True)
    stage_dir.during(2).results_file.write_text(content)
    assert evaluation.is_open(2)
    evaluation.drop_after(2)
    assert stage_dir.best_step() is None
