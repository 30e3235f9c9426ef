"""A stage whose samples share rows trains as one whose samples have rows of their own, on any number of ranks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from croc_cli.errors import Interrupted
from croc_cli.launch.stage_state import differing_keys
from croc_cli.names import StageName
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir
from croc_cli.worker.build import build_stage
from croc_cli.worker.training import prepare_pool_and_head
from tests.tiny import make_tiny_llava, make_tiny_parts
from tests.worker import harness
from tests.worker.harness import row
from tests.worker.test_training import stop_after

STAGES: tuple[StageName, ...] = ("align", "reconstruct", "finetune")
GLOBAL_SIZE = 10
PACKED = {"global_size": GLOBAL_SIZE, "micro_size": 1, "packing": True, "row_tokens": 160}
PLAIN = {"global_size": GLOBAL_SIZE, "micro_size": 5}
SAME = {"abs": 1e-5, "rel": 1e-5}
ABOUT_ROWS = {"padding_share", "data_seconds", "rank_wait_seconds", "save_seconds", "step_seconds", "seconds_left"} | {
    "tokens_per_second",
    "samples_per_second",
    "peak_memory_bytes",
    "assignment_solver_share",
    "assignment_wait_share",
}
"""Figures of a step that packing may change: of time and memory, and how much of the rows is padding."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples with no image, with one, with several, with one that does not open, and one that is cut."""
    folder = tmp_path_factory.mktemp("packing")
    harness.make_data(folder)
    rows = json.loads((folder / "data.json").read_text())
    both = [("human", "First <image> then <image>: what are they?"), ("gpt", "noise and more noise")]
    rows += [row(f"two-{i}", both, image=[f"{i}.png", f"{i + 1}.png"]) for i in range(3)]
    rows.append(row("missing", [("human", "<image>\nWhat?"), ("gpt", "nothing")], image="nowhere.png"))
    rows.append(row("cut", [("human", "Count."), ("gpt", "one two three four " * 40)]))
    (folder / "data.json").write_text(json.dumps(rows))
    make_tiny_parts(folder)
    make_tiny_llava(folder / "start")
    return folder


def recipe_of(home: Path, batch: dict[str, Any], **stage: Any) -> Recipe:
    shared = {"batch": batch, "max_length": 128, "max_steps": 4, "seed": 3} | stage
    return harness.make_recipe(home, **dict.fromkeys(STAGES, shared))


def gradients_of_step(recipe: Recipe, stage: StageName, home: Path, *, num_ranks: int) -> tuple[Any, dict[str, Tensor]]:
    """Return the first step's losses by sample and gradients, added up over ranks that run one after the other."""
    losses: dict[str, tuple[int, float]] = {}
    total: dict[str, Tensor] = {}
    num_rows = set()
    for rank in range(num_ranks):
        parts = build_stage(
            recipe,
            stage,
            start=home / "start",
            weights=home / "start",
            rank=rank,
            num_ranks=num_ranks,
            chat_template=None,
        )
        prepare_pool_and_head(parts, recipe, stage, stopped_at=None, device="cpu")
        weight = torch.tensor(0.1)
        batches = parts.loader[0]
        num_rows.add(len(batches))
        for batch in batches:
            loss, sums = parts.module(batch, token_weight=weight, image_weight=weight)
            loss.backward()
            own = zip(batch.trained_tokens_by_sample(), sums.caption_by_sample.tolist(), strict=True)
            losses |= dict(zip(batch.sample_ids, own, strict=True))
        for name, parameter in parts.module.named_parameters():
            if parameter.grad is not None:
                total[name] = total.get(name, torch.zeros(())) + parameter.grad
    assert len(num_rows) == 1  # all ranks have as many micro-batches
    return losses, total


@pytest.mark.parametrize("stage", STAGES)
def test_losses_and_gradients_of_a_step_are_those_of_the_unpacked_run(home: Path, stage: StageName) -> None:
    plain, expected = gradients_of_step(recipe_of(home, PLAIN), stage, home, num_ranks=1)
    assert len(plain) == GLOBAL_SIZE
    for num_ranks in (1, 2):
        losses, found = gradients_of_step(recipe_of(home, PACKED), stage, home, num_ranks=num_ranks)
        assert losses.keys() == plain.keys()
        for name, (tokens, loss) in losses.items():
            assert tokens == plain[name][0]
            assert loss == pytest.approx(plain[name][1], **SAME)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def held_out(recipe: Recipe) -> Recipe:
    values = recipe.model_dump(mode="json")
    for stage in STAGES:
        values["data"][stage]["held_out"] = 4
    return Recipe.model_validate(values)


def figures(stage_dir: StageDir) -> list[dict[str, Any]]:
    """Return what metrics.jsonl says of each step that packing must not change, flat."""

    def flat(value: Any, key: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return {name: one for part, inner in value.items() for name, one in flat(inner, f"{key}/{part}").items()}
        return {key: value}

    rows = harness.metrics(stage_dir)
    found = [flat({key: value for key, value in row.items() if key not in ABOUT_ROWS}, "") for row in rows]
    return [{key: one for key, one in row.items() if "seconds" not in key and "time_share" not in key} for row in found]


def samples_of(stage_dir: StageDir) -> dict[tuple[int, str], tuple[int, float]]:
    lines = [json.loads(line) for file in stage_dir.samples_files() for line in file.read_text().splitlines()]
    return {
        (line["step"], name): (tokens, loss)
        for line in lines
        for name, tokens, loss in zip(line["ids"], line["tokens"], line["losses"], strict=True)
    }


def assert_same_run(found: StageDir, expected: StageDir) -> None:
    for ours, theirs in zip(figures(found), figures(expected), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            close = pytest.approx(value, rel=1e-3 if "gradient" in key else 1e-4, abs=1e-5) if value else value
            assert ours[key] == close, key
    ours, theirs = samples_of(found), samples_of(expected)
    assert ours.keys() == theirs.keys()
    for key, (tokens, loss) in theirs.items():
        assert ours[key][0] == tokens
        assert ours[key][1] == pytest.approx(loss, abs=2e-4)


def test_a_packed_run_has_the_figures_of_an_unpacked_one_and_hardly_any_padding(home: Path, tmp_path: Path) -> None:
    extras = {"log_gradient_shares_every": 2, "validate_every": 2, "max_steps": 3}
    runs = []
    for batch in (PLAIN, PACKED):
        recipe = recipe_of(home, batch)
        values = held_out(recipe).model_dump(mode="json")
        values["reconstruct"] |= extras | {"zero_stage": 2}
        runs.append(
            harness.train(Recipe.model_validate(values), "reconstruct", tmp_path / str(len(runs)), start=home / "start")
        )
    assert_same_run(runs[1], runs[0])
    shares = [[row["padding_share"] for row in harness.metrics(run)] for run in runs]
    assert max(shares[1]) <= 0.02 < max(shares[0])
    assert "attention kernel: sdpa (auto: packed mixed attention on a CPU)" in harness.events(runs[1])


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_packed_run_resumes_to_the_very_same_weights(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero_stage: int
) -> None:
    recipe = recipe_of(home, PACKED, zero_stage=zero_stage)
    unbroken = harness.train(recipe, "reconstruct", tmp_path / "unbroken", start=home / "start")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            harness.train(recipe, "reconstruct", tmp_path / "broken", start=home / "start")
    resumed = harness.train(recipe, "reconstruct", tmp_path / "broken", start=home / "start")
    expected, found = harness.weights(unbroken), harness.weights(resumed)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    plain = harness.train(
        recipe_of(home, PLAIN, zero_stage=zero_stage), "reconstruct", tmp_path / "plain", start=home / "start"
    )
    assert_same_run(resumed, plain)


@pytest.mark.slow
def test_a_stopped_run_resumes_with_packing_switched_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, packed = (recipe_of(home, batch, zero_stage=2) for batch in (PLAIN, PACKED))
    unbroken = harness.train(plain, "reconstruct", tmp_path / "unbroken", start=home / "start")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            harness.train(plain, "reconstruct", tmp_path / "broken", start=home / "start")
    assert differing_keys(packed, StageDir(tmp_path / "broken" / "reconstruct")) == []
    resumed = harness.train(packed, "reconstruct", tmp_path / "broken", start=home / "start")
    assert_same_run(resumed, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_two_ranks_train_packed_as_one_does_unpacked_through_the_command(
    home: Path, tmp_path: Path, zero_stage: int
) -> None:
    from croc_cli.recipe.load import dump_recipe

    runs = []
    for batch, ranks, zero in ((PLAIN, 1, 0), (PACKED, 2, zero_stage)):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        file = folder / "recipe.yaml"
        file.write_text(dump_recipe(recipe_of(home, batch)))
        command = [sys.executable, "-m", "croc_cli", "reconstruct", str(file), "--from", str(home / "start")]
        command += ["--run-dir", str(folder / "run"), "--ranks", str(ranks), "--set", f"reconstruct.zero_stage={zero}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        runs.append(StageDir(folder / "run" / "reconstruct"))
    assert_same_run(runs[1], runs[0])


@pytest.mark.slow
def test_a_row_too_short_for_a_sample_names_it_through_the_command(home: Path, tmp_path: Path) -> None:
    from croc_cli.recipe.load import dump_recipe

    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe_of(home, PACKED | {"row_tokens": 100})))
    command = [sys.executable, "-m", "croc_cli", "reconstruct", str(file), "--from", str(home / "start")]
    done = subprocess.run([*command, "--run-dir", str(tmp_path / "run")], capture_output=True, text=True, timeout=240)
    assert done.returncode in (1, 2)
    assert "tokens, more than a row of reconstruct.batch.row_tokens = 100" in done.stderr
    assert "hint: --set reconstruct.batch.row_tokens=" in done.stderr
    assert "Traceback" not in done.stderr
