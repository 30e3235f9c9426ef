"""Names that several rooms share, each defined once."""

from typing import Final, Literal, get_args

StageName = Literal["align", "reconstruct", "finetune"]
STAGES: Final[tuple[StageName, ...]] = get_args(StageName)

IMAGE_TOKEN: Final = "<image>"
"""The placeholder that an image's visual tokens replace, as LLaVA's data files write it."""

IGNORE_INDEX: Final = -100
"""Label of a token that is not trained, as torch's cross-entropy expects it."""

DEFAULT_RECIPE: Final = "croc-7b"
RUNS_FOLDER: Final = "runs"
