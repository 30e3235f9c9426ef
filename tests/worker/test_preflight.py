"""The rehearsal of a stage: what would fail after hours fails at once, and the run itself is not disturbed."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from croc_cli.data.conversation import ConversationEncoder
from croc_cli.data.sample import Turn
from croc_cli.errors import RunError
from croc_cli.pipeline.preflight import rehearsal_recipe
from croc_cli.recipe.load import dump_recipe
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import read_json
from croc_cli.worker.preflight import check_end_tokens, end_tokens_saved
from tests.data.tiny_tokenizers import CHATML, byte_level_tokenizer
from tests.mounts import small_disk
from tests.tiny import make_tiny_llava, make_tiny_parts
from tests.worker import harness
from tests.worker.faults import NO_FAULT, Fault
from tests.worker.ranks import Ended, run_ranks

SECONDS = 240
NO_END = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preflight")
    harness.make_data(folder)
    rows = json.loads((folder / "data.json").read_text())
    rows[5]["conversations"][1]["value"] = "noise " * 60
    (folder / "data.json").write_text(json.dumps(rows))
    make_tiny_parts(folder)
    make_tiny_llava(folder / "start")
    return folder


def recipe_of(home: Path, **changes: object) -> Recipe:
    return harness.make_recipe(home, reconstruct={"batch": {"global_size": 4, "micro_size": 1}, **changes})


def croc(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "croc_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)


def rehearse(home: Path, root: Path, *, num_ranks: int = 1, fault: Fault = NO_FAULT, **changes: object) -> Ended:
    recipe = rehearsal_recipe(recipe_of(home, **changes), "reconstruct", num_ranks=num_ranks)
    options = {"start": home / "start", "num_ranks": num_ranks, "fault": fault, "preflight": True}
    return run_ranks(recipe, "reconstruct", root, **options)[1]  # type: ignore[arg-type]


def test_a_stage_that_is_in_order_passes_and_leaves_a_note_alone(home: Path, tmp_path: Path) -> None:
    rates = {"vision_tower": 1e-4, "projector": 1e-3, "llm": 1e-3, "token_pool": 1e-3}
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe_of(home, zero_stage=2, learning_rate=rates)))
    arguments = ["reconstruct", str(tmp_path / "recipe.yaml"), "--from", str(home / "start"), "--ranks", "2"]
    done = croc(*arguments, "--run-dir", str(tmp_path / "run"), "--preflight")
    assert done.returncode == 0, done.stderr
    assert "preflight of reconstruct: passed in" in done.stderr
    assert "image-5#5" in done.stderr  # the longest sample
    assert {file.name for file in (tmp_path / "run").iterdir()} == {".croc.json", "preflight.json"}
    note = read_json(tmp_path / "run" / "preflight.json")["reconstruct"]
    assert isinstance(note["answer"], str)
    assert note["peak_memory_bytes"] > 10**8
    assert note["checkpoint_bytes"] > 10**5


@pytest.mark.slow
def test_a_run_after_a_rehearsal_is_the_run_without_one_bit_for_bit(home: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe_of(home)))
    arguments = ["reconstruct", str(tmp_path / "recipe.yaml"), "--from", str(home / "start")]
    for name, wanted in (("with", "always"), ("without", "never")):
        done = croc(*arguments, "--run-dir", str(tmp_path / name), "--set", f"launch.preflight={wanted}")
        assert done.returncode == 0, done.stderr
        assert ("passed in" in done.stderr) == (wanted == "always")
    ours, theirs = (harness.StageDir(tmp_path / name / "reconstruct") for name in ("with", "without"))
    assert [row["loss"] for row in harness.metrics(ours)] == [row["loss"] for row in harness.metrics(theirs)]
    first, second = harness.weights(ours), harness.weights(theirs)
    assert all(torch.equal(first[name], second[name]) for name in second)


@pytest.mark.slow
def test_a_disk_too_small_for_the_checkpoints_to_come_ends_it(home: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe_of(home, keep_checkpoints=40, save_every=1)))
    arguments = ["reconstruct", str(tmp_path / "recipe.yaml"), "--from", str(home / "start"), "--preflight"]
    with small_disk(tmp_path / "disk", mebibytes=24) as disk:
        done = croc(*arguments, "--run-dir", str(disk / "run"))
        assert done.returncode == 1, done.stderr
        assert "is too small for reconstruct: 41 checkpoints of" in done.stderr
        assert not list((disk / "run").rglob("step-*"))


def test_ranks_that_run_different_modules_are_named_with_the_module(home: Path, tmp_path: Path) -> None:
    ended = rehearse(home, tmp_path, num_ranks=2, fault=Fault(at_step=((1, 0, "skip"),)), zero_stage=2)
    message = next(message for message in ended.messages if message)
    assert message.startswith(
        "ranks run different modules: rank 0 ran model.llava.model.multi_modal_projector.linear_1 1"
    )
    assert "rank 1 0 times" in message


def test_memory_that_runs_out_is_said_with_the_longest_sample(home: Path, tmp_path: Path) -> None:
    ended = rehearse(home, tmp_path, fault=Fault(at_step=((0, 0, "allocate"),)))
    assert ended.codes == [1]
    assert ended.messages[0].startswith("memory runs out on the longest samples: 1 of up to ")
    assert "image-5#5" in ended.messages[0]


def test_samples_of_which_nothing_is_trained_end_it(home: Path, tmp_path: Path) -> None:
    ended = rehearse(home, tmp_path, max_length=30)
    assert ended.messages[0].startswith("no token of the longest samples is trained, such as of ")


def test_a_template_without_an_end_token_ends_it(home: Path, tmp_path: Path) -> None:
    start = make_tiny_llava(tmp_path / "start")
    (start / "chat_template.jinja").write_text(NO_END)
    recipe = rehearsal_recipe(recipe_of(home, template="chat_template"), "reconstruct", num_ranks=1)
    ended = run_ranks(recipe, "reconstruct", tmp_path, start=start, preflight=True)[1]
    assert ended.messages[0].startswith("no answer ends with an end token: template chat_template ends them with ")


def test_the_end_tokens_of_the_file_that_is_saved_are_those_that_count() -> None:
    tokenizer = byte_level_tokenizer(CHATML)
    encoder = ConversationEncoder(
        tokenizer, template="chat_template", image_token_id=3, num_visual_tokens=1, max_length=99
    )
    sample = SimpleNamespace(turns=(Turn("human", "a"), Turn("gpt", "b")), images=())
    loader = SimpleNamespace(dataset=[sample], encoder=encoder)
    parts: Any = SimpleNamespace(loader=loader, processor=SimpleNamespace(tokenizer=tokenizer))
    ends = end_tokens_saved(GenerationConfig(eos_token_id=[*encoder.end_ids, 2]))
    check_end_tokens(parts, ends, template="chat_template")
    with pytest.raises(RunError, match=r"ends them with '<\|im_end\|>', and generation ends at '</s>'"):
        check_end_tokens(parts, end_tokens_saved(GenerationConfig(eos_token_id=2)), template="chat_template")
    check_end_tokens(parts, [], template="plain")
