"""What `croc plan` says of a rank's memory, beside what the real worker takes on a CPU.

Measured is the process's peak in two steps, before anything is saved, less the peak of the same worker with a model of
some hundred thousand weights: interpreter, libraries and DeepSpeed. Every sample fills the longest sequence, so both
sides speak of the same tokens.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from croc_cli.estimate.memory import choices_of, stage_memory
from croc_cli.names import StageName
from croc_cli.recipe.facts import model_facts
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.parameters import parameter_counts

NUM_SAMPLES = 16
PROMPT_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_ARENA_MAX": "1"}
"""Makes glibc give large blocks back at once, so that the peak is of what lives, not of what it keeps for later."""
WORDS = "the red circle is left of the large blue square . "


@dataclass(frozen=True)
class Case:
    """One row: a stage of nano with another LLM, ranks and settings."""

    name: str
    stage: StageName
    width: int = 192
    layers: int = 4
    ranks: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


BATCH = {"batch.global_size": 16, "batch.micro_size": 8, "max_length": 512}
CASES = (
    Case("nano, align", "align", settings=BATCH | {"batch.micro_size": 16}),
    Case("nano, reconstruct", "reconstruct", settings=BATCH | {"batch.micro_size": 16}),
    Case("nano, finetune", "finetune", settings=BATCH | {"batch.micro_size": 16}),
    Case("27M, finetune", "finetune", 512, 8, settings=BATCH | {"batch.global_size": 8}),
    Case("27M, align", "align", 512, 8, settings=BATCH | {"batch.global_size": 8}),
    Case("27M, finetune, checkpointing", "finetune", 512, 8, settings=BATCH | {"gradient_checkpointing": True}),
    Case("27M, finetune, ZeRO-2", "finetune", 512, 8, settings=BATCH | {"zero_stage": 2}),
    Case("27M, finetune, ZeRO-2, 2 ranks", "finetune", 512, 8, ranks=2, settings=BATCH | {"zero_stage": 2}),
    Case("27M, finetune, ZeRO-3, 2 ranks", "finetune", 512, 8, ranks=2, settings=BATCH | {"zero_stage": 3}),
    Case("86M, finetune", "finetune", 768, 12, settings=BATCH | {"batch.global_size": 4, "batch.micro_size": 4}),
    Case("86M, reconstruct", "reconstruct", 768, 12, settings=BATCH | {"batch.global_size": 4, "batch.micro_size": 4}),
)
SMALLEST = Case("baseline", "finetune", 32, 1, settings=BATCH | {"batch.micro_size": 1, "max_length": 64})


def make_llm(folder: Path, *, width: int, layers: int) -> Path:
    """Save a random Llama of a width and depth, with nano's tokenizer."""
    from croc_cli.demo.pretrain.backbones import LLM

    tokenizer = AutoTokenizer.from_pretrained(LLM)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_data(folder: Path) -> None:
    """Write samples whose answers fill any sequence."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for index in range(NUM_SAMPLES):
        pixels = np.random.default_rng(index).integers(0, 255, (72, 72, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        turns = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": WORDS * 100}]
        rows.append({"id": str(index), "image": f"{index}.png", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(rows))


def settings_of(case: Case, home: Path) -> dict[str, Any]:
    """Return the recipe keys of a case."""
    llm = home / f"llm-{case.width}-{case.layers}"
    if not llm.exists() and not case.name.startswith("nano"):
        make_llm(llm, width=case.width, layers=case.layers)
    source = {"kind": "llava_json", "path": str(home / "data.json"), "image_folder": str(home / "images")}
    values = {f"data.{case.stage}.{key}": value for key, value in source.items()}
    values |= {f"{case.stage}.{key}": value for key, value in case.settings.items()}
    for other in {"align", "reconstruct", "finetune"} - {case.stage}:
        values |= {f"{other}.batch.global_size": case.ranks, f"{other}.batch.micro_size": 1}
    values |= {f"{case.stage}.max_steps": 3, f"{case.stage}.template": "vicuna_v1", "data.num_workers": 0}
    values |= {"launch.num_ranks": case.ranks, "launch.threads_per_rank": 1, "launch.preflight": "never"}
    return values if case.name.startswith("nano") else values | {"model.llm": str(llm)}


def predicted(case: Case, home: Path) -> int:
    """Return the bytes that the plan's arithmetic gives."""
    overrides: dict[str, tuple[Any, str]] = {key: (value, "bench") for key, value in settings_of(case, home).items()}
    recipe = load_recipe("nano", overrides=overrides, environ={}).recipe
    section = getattr(recipe, case.stage)
    choices = choices_of(section, num_ranks=case.ranks, on_gpu=False)
    counts = parameter_counts(recipe, case.stage)
    parts = stage_memory(recipe, case.stage, model_facts(recipe.model), counts, choices, length=section.max_length)
    return parts.total


def measured(case: Case, home: Path, run: Path) -> int:
    """Return the peak of rank 0's memory in its first two steps, in bytes."""
    flags = [word for key, value in settings_of(case, home).items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "croc_cli", case.stage, "nano", "--run-dir", str(run), *flags]
    if case.stage != "align":
        command += ["--from", str(start_of(case, home, run))]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | PROMPT_ALLOCATOR)
    lines = (run / case.stage / "metrics.jsonl").read_text().splitlines()
    return max(int(json.loads(line)["peak_memory_bytes"]) for line in lines[:2])


def start_of(case: Case, home: Path, run: Path) -> Path:
    """Return an assembled model that a later stage can start from."""
    folder = home / f"start-{case.width}-{case.layers}"
    if not folder.exists():
        align = Case(
            case.name, "align", case.width, case.layers, settings={"batch.global_size": 1, "batch.micro_size": 1}
        )
        flags = [word for key, value in settings_of(align, home).items() for word in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "croc_cli", "align", "nano", "--run-dir", str(run / "start"), *flags]
        subprocess.run([*command, "--steps", "1"], check=True, capture_output=True)
        (run / "start" / "align" / "checkpoints" / "step-00000001").rename(folder)
    return folder


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_data(home)
        baseline = measured(SMALLEST, home, home / "run-baseline")
        print(f"baseline: {baseline / 1e6:.0f} MB of interpreter, libraries and DeepSpeed")
        print(f"{'case':<34}{'planned':>10}{'measured':>10}{'ratio':>7}")
        for number, case in enumerate(CASES):
            taken = measured(case, home, home / f"run-{number}") - baseline
            planned = predicted(case, home)
            print(f"{case.name:<34}{planned / 1e6:>7.0f} MB{taken / 1e6:>7.0f} MB{planned / taken:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
