"""How often the held-out loss is measured where the recipe does not say it."""

import math

from croc_cli.recipe.schema import StageRecipe

_SHARE = 0.02
"""Of the time of a stage that measuring takes at most, by the figures below."""
_PASSES = 2
"""Forward passes of a held-out sample: with its own picture, and with another one's."""
_PASS_COST = 0.5
"""Of a trained sample's time that a forward pass takes: half where the LLM is frozen, less where it is trained."""


def steps_between_measurements(section: StageRecipe, num_samples: int) -> int:
    """Return the steps from one measurement of the held-out loss to the next; the last step is always measured.

    Args:
        section: Of the stage.
        num_samples: Held-out samples.
    """
    if section.validate_every is not None:
        return section.validate_every
    return math.ceil(_PASSES * _PASS_COST * num_samples / (_SHARE * section.batch.global_size))
