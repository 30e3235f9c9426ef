"""A stage's own encoder, so that data can be looked at as training will see it."""

from typing import TYPE_CHECKING, Any

from croc_cli.console import say
from croc_cli.files import own_path

if TYPE_CHECKING:
    from croc_cli.data.conversation import ConversationEncoder
    from croc_cli.recipe.schema import Recipe
    from croc_cli.sources.verify.verify import RowTokens

NO_LIMIT = 1 << 40
"""A length that no conversation is cut to."""


def stage_encoder(recipe: "Recipe", stage: str, *, max_length: int | None = None) -> "ConversationEncoder | None":
    """Return the encoder of a recipe's stage, or None where the LLM's tokenizer is not on this machine.

    Args:
        recipe: The recipe.
        stage: Which stage's template.
        max_length: In tokens; default: the stage's.
    """
    from croc_cli.data.local_encoder import local_encoder
    from croc_cli.recipe.facts import builtin_folder, model_facts

    section = recipe.stage(stage)
    folder = builtin_folder(recipe.model.llm, "llm") or own_path(recipe.model.llm)
    return local_encoder(
        folder if folder.exists() else recipe.model.llm,
        revision=recipe.model.llm_revision,
        template=section.template,
        num_visual_tokens=model_facts(recipe.model).num_visual_tokens or 576,
        max_length=section.max_length if max_length is None else max_length,
        options=section.template_options,
    )


def row_tokens(recipe: "Recipe", stage: str) -> "RowTokens | None":
    """Return what counts a row's tokens and the labels left of it, or None, said on stderr, without a tokenizer."""
    from croc_cli.data.conversation import SampleError
    from croc_cli.names import IGNORE_INDEX

    encoder = stage_encoder(recipe, stage, max_length=NO_LIMIT)
    if encoder is None:
        say(f"note: the tokenizer of {recipe.model.llm} is not on this machine, so lengths in tokens are not checked")
        return None
    max_length = recipe.stage(stage).max_length

    def tokens(row: Any) -> tuple[int, int]:
        try:
            encoded = encoder.encode(row_turns(row), num_images=count_images(row))
        except SampleError:
            return 0, 0
        return len(encoded.input_ids), sum(label != IGNORE_INDEX for label in encoded.labels[1:max_length])

    return tokens


def row_turns(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return a good row's turns, without a leading gpt turn."""
    from croc_cli.data.sample import Turn

    turns = row["conversations"]
    return tuple(Turn(turn["from"], turn["value"]) for turn in turns[turns[0]["from"] == "gpt" :])


def count_images(row: dict[str, Any]) -> int:
    """Return how many images a good row shows."""
    image = row.get("image")
    return 0 if image is None else len(image) if isinstance(image, list) else 1
