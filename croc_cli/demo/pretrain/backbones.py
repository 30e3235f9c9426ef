"""Makes the nano backbones from nothing: tokenizer, vision tower, LLM, and the figures that the LLM alone reaches.

Example: python -m croc_cli.demo.pretrain.backbones --out croc_cli/demo/backbones
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from croc_cli.demo.pretrain.gates import GATE, measure_gates
from croc_cli.demo.pretrain.llm import LlmTraining, train_llm
from croc_cli.demo.pretrain.tokenizer import train_tokenizer
from croc_cli.demo.pretrain.tower import TowerTraining, image_processor, train_tower

logger = logging.getLogger(__name__)

BACKBONES = Path(__file__).parent.parent / "backbones"
"""The backbones that the package ships."""
VISION_TOWER = BACKBONES / "vision_tower"
LLM = BACKBONES / "llm"

_GATE_SCENES = 200


def save_half(model: Any, folder: Path) -> None:
    """Save a model's weights as float16, marked to be loaded as float32.

    Half the bytes keep the package small, and the figures in gates.json are those of the saved weights; float32 is what
    the CPU computes in.
    """
    model.half().save_pretrained(folder)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text())
    config["dtype"] = "float32"
    config_file.write_text(json.dumps(config, indent=2) + "\n")
    (folder / "model.safetensors").chmod(0o644)


def pretrain(out: Path, *, seed: int) -> dict[str, dict[str, float]]:
    """Train and save both backbones and measure the LLM.

    Args:
        out: Gets `vision_tower/`, `llm/` and `gates.json`.
        seed: Of everything.

    Returns:
        The content of gates.json: form → question type → share of right answers.
    """
    tower = train_tower(TowerTraining(seed=seed))
    save_half(tower, out / "vision_tower")
    image_processor().save_pretrained(out / "vision_tower")
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(out / "llm")

    def log_gates(step: int, model: LlamaForCausalLM) -> None:
        logger.info("llm step %d, gates so far: %s", step, measure_gates(model, tokenizer, num_scenes=50))

    save_half(train_llm(tokenizer, LlmTraining(seed=seed), on_progress=log_gates), out / "llm")
    gates = measure_saved_llm(out / "llm", num_scenes=_GATE_SCENES)
    (out / "gates.json").write_text(json.dumps(gates, indent=2) + "\n")
    return gates


def measure_saved_llm(folder: Path, *, num_scenes: int) -> dict[str, dict[str, float]]:
    """Measure the gates of a saved LLM, loaded as anybody else would load it."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return measure_gates(model, AutoTokenizer.from_pretrained(folder), num_scenes=num_scenes)


def main() -> int:
    """Run from the command line.

    Returns:
        Exit code: 0 when every gate is reached, 1 otherwise.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for vision_tower/, llm/ and gates.json")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, weights and draws (default 0)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    gates = pretrain(arguments.out, seed=arguments.seed)
    print(json.dumps(gates, indent=2))
    lowest = min(share for shares in gates.values() for share in shares.values())
    if lowest < GATE:
        logger.error("a gate is not reached: %.3f, expected at least %.2f", lowest, GATE)
    return int(lowest < GATE)


if __name__ == "__main__":
    sys.exit(main())
