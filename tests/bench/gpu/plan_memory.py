"""What `croc plan` says of a GPU's memory, beside torch's peak: the 1.1B run of `command_1b`.

Measured is the peak of memory that torch gave out, without CUDA's own context, for which the plan keeps 2 GiB free.
"""

import tempfile
from pathlib import Path
from typing import Any

from croc_cli.estimate.memory import choices_of, stage_memory
from croc_cli.recipe.facts import model_facts
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.parameters import parameter_counts
from tests.bench.gpu.card import describe, device, matrix_peak
from tests.bench.gpu.command_1b import TINY, Sizes, common, make_parts, run

CASES: dict[str, dict[str, Any]] = {
    "ZeRO-2, nothing recomputed": {"zero_stage": 2, "gradient_checkpointing": "none"},
    "ZeRO-2, every second layer": {"zero_stage": 2, "gradient_checkpointing": "alternate"},
    "ZeRO-2, every layer": {"zero_stage": 2, "gradient_checkpointing": "full"},
    "ZeRO-3, every layer": {"zero_stage": 3, "gradient_checkpointing": "full"},
}
STEPS = 3


def main(*, tiny: bool = False) -> None:
    """Print a row a case."""
    place = device(tiny=tiny)
    print(describe(place, matrix_peak(place, side=512 if tiny else 8192)))
    print(f"{'case':<30}{'planned':>10}{'measured':>10}{'ratio':>7}")
    sizes = TINY if tiny else Sizes()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_parts(home, sizes)
        for number, (name, case) in enumerate(CASES.items()):
            settings = {f"reconstruct.{key}": value for key, value in case.items()} | {"reconstruct.max_steps": STEPS}
            rows = run(home, home / f"run-{number}", sizes, settings, device=place.type)
            taken = max(int(row["peak_memory_bytes"]) for row in rows)
            planned = predicted(common(home, sizes, device=place.type) | settings, on_gpu=place.type == "cuda")
            print(f"{name:<30}{planned / 1e9:>7.2f} GB{taken / 1e9:>7.2f} GB{planned / taken:>7.2f}", flush=True)


def predicted(settings: dict[str, Any], *, on_gpu: bool) -> int:
    """Return the bytes that the plan's arithmetic gives."""
    overrides: dict[str, tuple[Any, str]] = {key: (value, "bench") for key, value in settings.items()}
    recipe = load_recipe("nano", overrides=overrides, environ={}).recipe
    choices = choices_of(recipe.reconstruct, num_ranks=1, on_gpu=on_gpu)
    counts = parameter_counts(recipe, "reconstruct")
    length = recipe.reconstruct.max_length
    return stage_memory(recipe, "reconstruct", model_facts(recipe.model), counts, choices, length=length).total


if __name__ == "__main__":
    main()
