"""Which setting to turn when a stage runs out of memory: the next one that costs least, ready to be typed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from croc_cli.errors import CrocError
from croc_cli.recipe.recomputation import RECOMPUTATIONS
from croc_cli.recipe.yaml_file import read_yaml


def less_memory(stage: str, section: Mapping[str, Any]) -> str:
    """Return the flag that makes a stage take less memory: recomputation first, then the batch, ZeRO, offload.

    Args:
        stage: The stage's name.
        section: Its section of a resolved recipe, as plain values.
    """
    recomputed = section.get("gradient_checkpointing")
    batch = section.get("batch")
    size = batch.get("micro_size") if isinstance(batch, Mapping) else None
    zero = section.get("zero_stage")
    if recomputed in RECOMPUTATIONS and recomputed != "full":
        return f"--set {stage}.gradient_checkpointing={RECOMPUTATIONS[RECOMPUTATIONS.index(recomputed) + 1]}"
    if isinstance(size, int) and size > 1:
        return f"--set {stage}.batch.micro_size={size // 2}"
    if isinstance(zero, int) and zero < 3:
        return f"--set {stage}.zero_stage={zero + 1}"
    return f"--set {stage}.offload={'all' if section.get('offload') == 'optimizer' else 'optimizer'}"


def memory_hint(stage: str, recipe_file: Path) -> str:
    """Return the hint of a launch that ran out of a GPU's memory; without its recipe, the settings by name."""
    try:
        section = read_yaml(recipe_file, label=str(recipe_file)).values.get(stage)
    except CrocError:
        section = None
    if not isinstance(section, Mapping):
        return f"the GPU's memory was too small: lower {stage}.batch.micro_size, or raise {stage}.zero_stage"
    return f"the GPU's memory was too small: {less_memory(stage, section)} takes less; `croc plan` shows how much"
