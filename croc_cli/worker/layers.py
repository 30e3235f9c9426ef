"""How the element-wise work of the LLM's layers is fused: by torch.compile, by Liger's kernels, or not at all."""

from collections.abc import Callable
from typing import Any

from croc_cli.names import StageName
from croc_cli.recipe.schema import Recipe


def compiles(recipe: Recipe, stage: StageName, *, device: str) -> bool:
    """Tell whether a stage compiles the LLM's layers.

    Under ZeRO-3, whose hooks run around the layers, compiled layers train to the same losses on a CPU. What they take
    on a GPU has not been measured, so `auto` leaves them alone there; and Liger's kernels leave little to fuse.
    """
    if isinstance(recipe.launch.compile, bool):
        return recipe.launch.compile
    return device == "cuda" and recipe.stage(stage).zero_stage < 3 and recipe.launch.kernels != "liger"


def uses_liger(recipe: Recipe, stage: StageName, *, device: str, model_type: str) -> bool:
    """Tell whether a stage runs Liger's kernels; `auto` does on a GPU where layers are not compiled, if it can."""
    if recipe.launch.kernels != "auto":
        return recipe.launch.kernels == "liger"
    if device != "cuda" or compiles(recipe, stage, device=device):
        return False
    from croc_cli.model.liger import takes_liger

    return takes_liger(model_type)


def fuse_layers(recipe: Recipe, stage: StageName, llm: Any, *, device: str, say: Callable[[str], None]) -> None:
    """Do to a stage's LLM what the recipe says, and say what it is.

    Args:
        recipe: The resolved recipe.
        stage: The stage.
        llm: Stock, without its head.
        device: Where it computes.
        say: Takes a line for people.
    """
    if uses_liger(recipe, stage, device=device, model_type=llm.config.model_type):
        from croc_cli.model.liger import apply_liger

        apply_liger(llm)
        say(f"the LLM's layers run Liger's kernels (launch.kernels: {recipe.launch.kernels})")
    if compiles(recipe, stage, device=device):
        # imported here: torch's compiler takes a second to import, and most CPU runs need none of it
        from croc_cli.model.compile_layers import compile_layers

        compile_layers(llm.layers, say=say)
        say("the LLM's layers are compiled as they first run, so the first steps take longer")
