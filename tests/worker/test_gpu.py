"""The commands on a GPU beside the same commands on the CPU: nano for a few steps, in fp32 unless it says bf16."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from croc_cli.demo.draw import draw_scene
from croc_cli.demo.scenes import sample_scene
from croc_cli.launch.failure import hint_from
from croc_cli.run_dir import StageDir

pytestmark = pytest.mark.gpu
STEPS = 4


def croc(*words: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "croc_cli", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CROC_LAUNCH__PREFLIGHT": "never"},
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return answer.stdout


def stage(name: str, folder: Path, *settings: str, device: str = "cuda", start: Path | None = None) -> StageDir:
    """Run a stage of nano for a few steps at a constant rate, so that more steps continue the same run."""
    settings = (
        f"launch.device={device}",
        "launch.num_ranks=1",
        f"{name}.optimizer.schedule=constant",
        f"{name}.optimizer.warmup_ratio=0",
        *settings,
    )
    flags = [word for setting in settings for word in ("--set", setting)]
    steps = () if any("max_steps" in setting for setting in settings) else ("--steps", str(STEPS))
    croc(name, "nano", "--run-dir", str(folder), *flags, *steps, *(("--from", str(start)) if start else ()))
    return StageDir(folder / name)


def losses(stage_dir: StageDir) -> list[float]:
    return [json.loads(line)["loss"] for line in stage_dir.metrics_file.read_text().splitlines()]


def checkpoint(stage_dir: StageDir) -> Path:
    found = stage_dir.latest_checkpoint()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(stage("align", tmp_path_factory.mktemp("aligned")))


@pytest.fixture(scope="module")
def on_the_cpu(aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(stage("reconstruct", tmp_path_factory.mktemp("cpu"), device="cpu", start=aligned))


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("packing", ["false", "true"])
def test_the_losses_of_stage_1_5_are_those_of_the_cpu(
    zero_stage: int, packing: str, aligned: Path, on_the_cpu: list[float], tmp_path: Path
) -> None:
    settings = (f"reconstruct.zero_stage={zero_stage}", f"reconstruct.batch.packing={packing}")
    assert losses(stage("reconstruct", tmp_path, *settings, start=aligned)) == pytest.approx(on_the_cpu, rel=1e-2)


@pytest.mark.parametrize("kernel", ["sdpa", "eager", "flex"])
def test_each_kernel_gives_the_losses_of_the_cpu(
    kernel: str, aligned: Path, on_the_cpu: list[float], tmp_path: Path
) -> None:
    found = losses(stage("reconstruct", tmp_path, f"model.attention={kernel}", start=aligned))
    assert found == pytest.approx(on_the_cpu, rel=1e-2)


@pytest.mark.parametrize("compiled", ["true", "false"])
def test_bf16_stays_near_the_losses_of_fp32(
    compiled: str, aligned: Path, on_the_cpu: list[float], tmp_path: Path
) -> None:
    settings = ("reconstruct.precision=bf16", "reconstruct.zero_stage=2", f"launch.compile={compiled}")
    found = losses(stage("reconstruct", tmp_path, *settings, start=aligned))
    assert found == pytest.approx(on_the_cpu, rel=5e-2)


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(aligned: Path, tmp_path: Path) -> None:
    whole = stage("finetune", tmp_path / "whole", start=aligned)
    stage("finetune", tmp_path / "parts", f"finetune.max_steps={STEPS // 2}", start=aligned)
    parts = stage("finetune", tmp_path / "parts", start=aligned)
    expected, found = (load_file(checkpoint(one) / "model.safetensors") for one in (whole, parts))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_chat_and_eval_answer_as_on_the_cpu(aligned: Path, tmp_path: Path) -> None:
    picture = tmp_path / "scene.png"
    draw_scene(sample_scene(1, "test", 0)).save(picture)
    question = ("chat", str(picture), "What is this?", "--model", str(aligned))
    assert croc(*question, "--device", "cuda") == croc(*question, "--device", "cpu")
    answers = {}
    for device in ("cuda", "cpu"):
        folder = tmp_path / device
        settings = ("--set", "eval.num_scenes=2", "--set", f"launch.device={device}", "--set", "launch.num_ranks=1")
        croc("eval", "nano", "--model", str(aligned), "--benchmark", "scenes", "--run-dir", str(folder), *settings)
        [file] = folder.rglob("predictions/scenes.jsonl")
        answers[device] = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    same = sum(one == other for one, other in zip(answers["cuda"], answers["cpu"], strict=True))
    assert same >= 0.95 * len(answers["cpu"])


def test_memory_that_runs_out_names_the_setting_to_turn(tmp_path: Path) -> None:
    stage_dir = StageDir(tmp_path / "finetune")
    stage_dir.root.mkdir()
    stage_dir.recipe_file.write_text("finetune: {gradient_checkpointing: none}\n")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2**50, device="cuda")
    hint = hint_from(f"{type(caught.value).__name__}: {caught.value}", stage_dir) or ""
    assert "--set finetune.gradient_checkpointing=alternate takes less" in hint
