"""Names that several rooms share, each defined once."""

from typing import Final, Literal, get_args

StageName = Literal["align", "reconstruct", "finetune"]
STAGES: Final[tuple[StageName, ...]] = get_args(StageName)


def stage_name(text: str) -> StageName:
    """Return the training stage of a name.

    Raises:
        ValueError: There is no such stage.
    """
    return STAGES[STAGES.index(text)]


IMAGE_TOKEN: Final = "<image>"
"""The placeholder that an image's visual tokens replace, as LLaVA's data files write it."""

IGNORE_INDEX: Final = -100
"""Label of a token that is not trained, as torch's cross-entropy expects it."""

DEFAULT_RECIPE: Final = "croc-7b"
RUNS_FOLDER: Final = "runs"

JUDGE_KEY_VARIABLE: Final = "CROC_JUDGE_API_KEY"
"""Environment variable that holds the key of the judge's endpoint, and the only place for it."""
PARENT_VARIABLE: Final = "CROC_PARENT"
"""Environment variable that tells ranks which process launched them, as JSON."""
HOLDS_LOCK_VARIABLE: Final = "CROC_HOLDS_LOCK"
"""Environment variable that tells rank 0 of a joined launch that the run folder's lock is its own."""
NO_RECIPE_KEYS: Final = frozenset({JUDGE_KEY_VARIABLE, PARENT_VARIABLE, HOLDS_LOCK_VARIABLE})
"""Variables with the prefix of recipe keys that are none."""
