"""Settings that a recipe leaves to croc, settled by what the plan knows of memory."""

from croc_cli.estimate.resources import Hardware, stage_resources
from croc_cli.names import STAGES
from croc_cli.recipe.facts import model_facts
from croc_cli.recipe.parameters import parameter_counts
from croc_cli.recipe.schema import Recipe, StageRecipe


def settled(recipe: Recipe, hardware: Hardware) -> Recipe:
    """Return a recipe whose `gradient_checkpointing: auto` is what fits the hardware; full where sizes are unknown.

    Args:
        recipe: The recipe; it stays as it is.
        hardware: What its stages run on.
    """
    stages = [name for name in STAGES if recipe.stage(name).enabled]
    open_stages = [name for name in stages if recipe.stage(name).gradient_checkpointing == "auto"]
    if not open_stages:
        return recipe
    facts = model_facts(recipe.model)
    is_known = facts.tower is not None and facts.llm is not None and "llm" in parameter_counts(recipe, "align")
    changed: dict[str, StageRecipe] = {}
    for name in open_stages:
        choice = stage_resources(recipe, name, facts, hardware).choices.checkpointing if is_known else "full"
        changed[name] = recipe.stage(name).model_copy(update={"gradient_checkpointing": choice})
    return recipe.model_copy(update=changed)
