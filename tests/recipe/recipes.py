"""Recipe files for the tests of this room."""

import textwrap
from pathlib import Path

import pytest

from croc_cli.recipe.issues import InvalidRecipe
from croc_cli.recipe.load import load_recipe

SMALL = """\
model: {vision_tower: openai/clip-vit-base-patch16, llm: HuggingFaceTB/SmolLM2-135M-Instruct}
data:
  align: {kind: scenes, task: brief_captions, num_samples: 8}
  reconstruct: {kind: scenes, task: detailed_captions, num_samples: 8}
  finetune: {kind: scenes, task: questions, num_samples: 8}
align:
  batch: {global_size: 8, micro_size: 4}
  learning_rate: {projector: 1e-3}
  template: plain
reconstruct:
  batch: {global_size: 8, micro_size: 4}
  learning_rate: {llm: 2e-5, projector: 1.5e-4, token_pool: 1.5e-4}
  template: vicuna_v1
finetune:
  batch: {global_size: 8, micro_size: 4}
  learning_rate: {llm: 2e-5, projector: 2e-5}
  template: vicuna_v1
"""


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    """Write a recipe file."""
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def child(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    """Write a recipe that extends a small sound one; its own text begins in line 2."""
    write(folder, SMALL, "base.yaml")
    return write(folder, "extends: base.yaml\n" + textwrap.dedent(text), name)


def errors_of(path: Path, **kwargs: object) -> list[str]:
    """Return what is wrong with a recipe, one line each, without the folder."""
    with pytest.raises(InvalidRecipe) as caught:
        load_recipe(str(path), **{"environ": {}, **kwargs})  # type: ignore[arg-type]
    return [str(issue).replace(f"{path.parent}/", "") for issue in caught.value.issues]
