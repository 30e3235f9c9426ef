import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from croc_cli.estimate import speed
from croc_cli.estimate.resources import Hardware, recipe_resources, speed_cases, tokens_of_sample
from croc_cli.estimate.speed import StageSpeed, _kept, measured_speeds
from croc_cli.recipe.facts import model_facts
from tests.launch.make import recipe

CPU = Hardware(num_ranks=2, on_gpu=False, memory_bytes=10**10, threads=1, utilisation=0.4)
ANSWER = {"micro_seconds": 2.0, "picture_seconds": 0.5, "update_seconds": 1.0, "start_seconds": 10.0}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "croc" / "speed"


def test_hours_follow_from_what_was_measured() -> None:
    measured = StageSpeed(**ANSWER)
    [align, *_] = recipe_resources(recipe("nano"), replace(CPU, speeds={"align": measured}))
    # 400 steps of 16 samples on two ranks: 200 micro-batches of 16 and 3,200 pictures each
    assert align.hours * 3600 == pytest.approx(200 * 2.0 + 400 * 1.0 + 3200 * 0.5 + 10.0)


def test_pictures_whose_features_are_kept_are_computed_once(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"conversations": []}\n' * 10)
    changes = {"data__align__path": str(file), "align__max_steps": 40}
    measured = replace(CPU, speeds={"align": StageSpeed(0.0, 1.0, 0.0, 0.0)})
    kept = recipe_resources(recipe("smol", **changes), measured)[0]
    computed = recipe_resources(recipe("smol", data__cache_features=None, **changes), measured)[0]
    assert kept.hours * 3600 == pytest.approx(10 / 2)
    assert computed.hours * 3600 == pytest.approx(40 * 4 / 2)


def test_a_measurement_is_kept_and_asked_for_once(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    asked, said = [], []

    def run(cases: list[dict[str, object]], **_: object) -> list[list[dict[str, float]]]:
        asked.append(len(cases))
        return [[ANSWER] * len(cases)] * 2

    monkeypatch.setattr(speed, "_run_children", run)
    cases = speed_cases(recipe("nano"), device="cpu")
    first = measured_speeds(cases, num_ranks=2, threads=1, say=said.append)
    again = measured_speeds(cases, num_ranks=2, threads=1, say=said.append)
    assert first == again == {stage: StageSpeed(**ANSWER) for stage in ("align", "reconstruct", "finetune")}
    assert asked == [3]
    assert len(said) == 1
    assert len(list(cache.iterdir())) == 3
    assert measured_speeds(cases, num_ranks=1, threads=2, only_kept=True) is None
    measured_speeds(cases, num_ranks=2, threads=1, again=True)
    assert asked == [3, 3]


def test_a_trained_tower_is_measured_backwards_too_and_others_keep_their_measurements() -> None:
    frozen = speed_cases(recipe("nano"), device="cpu")
    trained = speed_cases(recipe("nano", finetune__learning_rate__vision_tower=1e-6), device="cpu")
    assert trained["finetune"] == frozen["finetune"] | {"trains_tower": True}
    assert trained["reconstruct"] == frozen["reconstruct"]


def test_where_nothing_can_be_measured_the_constant_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "CHILD", "croc_cli.nosuch")
    assert measured_speeds(speed_cases(recipe("nano"), device="cpu"), num_ranks=1, threads=1) is None
    assert speed_cases(recipe("nano", model__llm="some/unknown"), device="cpu") == {}


def test_tokens_of_a_sample_follow_from_the_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    rows = [{"conversations": [{"from": "human", "value": "x" * 80}, {"from": "gpt", "value": "y" * 320}]}] * 3
    file.write_text(json.dumps(rows))
    source = {"kind": "llava_json", "path": str(file), "image_folder": str(tmp_path)}
    own = recipe("nano", data__align=source)
    assert tokens_of_sample(own, "align", model_facts(own.model)) == 36 + 100


@pytest.mark.slow
def test_the_child_measures_every_stage_of_nano() -> None:
    cases = list(speed_cases(recipe("nano", finetune__learning_rate__vision_tower=1e-6), device="cpu").values())
    command = [sys.executable, "-m", speed.CHILD]
    run = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, check=True)
    answers = json.loads(run.stdout)
    assert len(answers) == 3
    assert all(0 < answer[key] < 100 for answer in answers for key in ANSWER)
    assert answers[1]["micro_seconds"] > answers[0]["micro_seconds"]
    assert answers[2]["picture_seconds"] > answers[1]["picture_seconds"]  # backwards too


@pytest.mark.parametrize(
    "kept", ["{", '{"speed": 7}', '{"speed": {"micro_seconds": 1}}', '{"speed": {"a": 1, "b": 2, "c": 3, "d": 4}}']
)
def test_a_damaged_cache_is_no_measurement(tmp_path: Path, kept: str) -> None:
    file = tmp_path / "speed.json"
    file.write_text(kept)
    assert _kept(file) is None
    names = ("micro_seconds", "picture_seconds", "update_seconds", "start_seconds")
    file.write_text(json.dumps({"speed": dict.fromkeys(names, "x")}))
    assert _kept(file) is None
    file.write_text(json.dumps({"speed": dict.fromkeys(names, 1.0)}))
    assert _kept(file) == StageSpeed(1.0, 1.0, 1.0, 1.0)
