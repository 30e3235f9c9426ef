"""`croc reconstruct` on one GPU as a user starts it: a random LLM of 1.1B parameters (2048 × 20), a random CLIP-L/336.

Everything is made here, so no network is needed. Half of the pictures are noise, half of one colour. The figures are
medians of the run's own metrics after its first steps.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from croc_cli.demo.pretrain.backbones import LLM
from tests.bench.gpu.card import describe, device, matrix_peak

STEPS, WARM_UP = 20, 8
WORDS = "the red circle is left of the large blue square . "


@dataclass(frozen=True)
class Sizes:
    """Of the model and the step."""

    image: int = 336
    patch: int = 14
    tower: int = 1024
    tower_layers: int = 24
    width: int = 2048
    layers: int = 20
    pool: int = 2048
    samples: int = 256
    global_size: int = 32
    micro_size: int = 8
    steps: int = STEPS


TINY = Sizes(28, 7, 64, 2, 64, 2, 32, 16, 4, 2, 10)


def main(*, tiny: bool = False) -> None:
    """Print a row for ZeRO-2 and ZeRO-3, unpacked and packed."""
    place = device(tiny=tiny)
    print(describe(place, matrix_peak(place, side=512 if tiny else 8192)))
    titles = f"{'waits for assignment':>21} {'for data':>9} {'padding':>8} {'GB':>6}"
    print(f"{'run':24} {'tokens/s':>9} {'step ms':>8} {titles}")
    sizes = TINY if tiny else Sizes()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_parts(home, sizes)
        for zero in (2, 3):
            for packing in (False, True):
                settings: dict[str, Any] = {"reconstruct.zero_stage": zero}
                if packing:
                    settings |= {"reconstruct.batch.packing": True, "reconstruct.batch.row_tokens": 8 * 1024}
                    settings |= {"reconstruct.batch.micro_size": 1}
                name = f"ZeRO-{zero}{', packed' if packing else ''}"
                rows = run(home, home / name.replace(", ", "-"), sizes, settings, device=place.type)
                show(name, rows[min(WARM_UP, len(rows) // 2) :])


def run(home: Path, folder: Path, sizes: Sizes, settings: dict[str, Any], *, device: str) -> list[dict[str, Any]]:
    """Run reconstruct with some settings, and return the rows of its metrics.

    Raises:
        SystemExit: It failed; with its own words.
    """
    values = common(home, sizes, device=device) | settings
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    flags = [word for key, text in texts.items() for word in ("--set", f"{key}={text}")]
    command = [sys.executable, "-m", "croc_cli", "reconstruct", "nano", "--run-dir", str(folder), *flags]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise SystemExit(answer.stderr[-2000:])
    return [json.loads(line) for line in (folder / "reconstruct" / "metrics.jsonl").read_text().splitlines()]


def common(home: Path, sizes: Sizes, *, device: str) -> dict[str, Any]:
    """Return the recipe keys of every run."""
    return {
        "model.vision_tower": str(home / "tower"),
        "model.llm": str(home / "llm"),
        "align.enabled": False,
        "finetune.enabled": False,
        "data.reconstruct": {
            "kind": "llava_json",
            "path": str(home / "data.json"),
            "image_folder": str(home / "images"),
        },
        "reconstruct.template": "vicuna_v1",
        "reconstruct.max_length": 1024,
        "reconstruct.max_steps": sizes.steps,
        "reconstruct.batch.global_size": sizes.global_size,
        "reconstruct.batch.micro_size": sizes.micro_size,
        "reconstruct.pool.size": sizes.pool,
        "reconstruct.precision": "bf16" if device == "cuda" else "fp32",
        "launch.num_ranks": 1,
        "launch.device": device,
        "launch.preflight": "never",
    }


def make_parts(home: Path, sizes: Sizes) -> None:
    """Write a random tower, a random LLM with nano's tokenizer, and samples."""
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=sizes.tower,
            intermediate_size=4 * sizes.tower,
            num_hidden_layers=sizes.tower_layers,
            num_attention_heads=max(1, sizes.tower // 64),
            image_size=sizes.image,
            patch_size=sizes.patch,
        )
    ).save_pretrained(home / "tower")
    side = {"height": sizes.image, "width": sizes.image}
    CLIPImageProcessor(size={"shortest_edge": sizes.image}, crop_size=side).save_pretrained(home / "tower")
    tokenizer = AutoTokenizer.from_pretrained(LLM)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        intermediate_size=sizes.width * 8 // 3,
        num_hidden_layers=sizes.layers,
        num_attention_heads=max(1, sizes.width // 64),
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(home / "llm")
    tokenizer.save_pretrained(home / "llm")
    (home / "images").mkdir()
    rows = []
    random = np.random.default_rng(0)
    for index in range(sizes.samples):
        pixels = random.integers(0, 255, (sizes.image, sizes.image, 3) if index % 2 else (1, 1, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((sizes.image, sizes.image)).save(home / "images" / f"{index}.jpg")
        words = WORDS * int(random.integers(14, 22))
        turns = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": words}]
        rows.append({"id": str(index), "image": f"{index}.jpg", "conversations": turns})
    (home / "data.json").write_text(json.dumps(rows))


def show(name: str, rows: list[dict[str, Any]]) -> None:
    """Print the medians of a run's rows."""

    def middle(key: str) -> float:
        return statistics.median(float(row[key] or 0) for row in rows)

    data = statistics.median(row["data_seconds"] / row["step_seconds"] for row in rows)
    print(
        f"{name:24} {middle('tokens_per_second'):9,.0f} {1000 * middle('step_seconds'):8.0f}"
        f" {middle('assignment_wait_share'):21.1%} {data:9.1%} {middle('padding_share'):8.1%}"
        f" {middle('peak_memory_bytes') / 1e9:6.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
