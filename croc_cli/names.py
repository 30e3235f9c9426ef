"""Names that several rooms share, each defined once."""

import re
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

BENCHMARKS: Final = "benchmarks"
"""The folder of a run in which answers and scores lie."""

AttentionName = Literal["auto", "sdpa", "flex", "flex_attention", "eager", "flash_attention_2", "flash_attention_3"]
MASKING_KERNELS: Final = ("sdpa", "flex_attention", "eager")
"""Attention kernels that take any mask; all come with torch."""
FLASH_PACKAGES: Final = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
"""Attention kernels for causal stages on a GPU, and the module that each needs."""

LIGER_PACKAGE: Final = "liger_kernel"
"""Module of the extra `liger`: fused kernels for an LLM's layers on a GPU."""

DEFAULT_RECIPE: Final = "croc-7b"
RUNS_FOLDER: Final = "runs"
METADATA_FILE: Final = "croc.json"
"""What a checkpoint says about itself, beside the stock files."""
TRAINING_STATE_FILE: Final = "croc_training_state.safetensors"
"""Token pool and reconstruction head of a checkpoint."""
POOL_PREFIX: Final = "pool."
HEAD_PREFIX: Final = "head."
"""What the names of the pool's and the head's weights begin with, in that file and in the training model."""
HEALTH_KEYS: Final = (
    "pool_used_share",
    "pool_window_share",
    "pool_entropy",
    "explained_share",
    "assignment_solver_share",
    "assignment_wait_share",
)
"""Figures of metrics.jsonl that summary.json and croc.json keep of the last step, as `health`."""
EARLIER_WAIT_SHARE: Final = "assignment_share"
"""`assignment_wait_share` by its name in earlier runs, whose steps waited for the whole assignment."""
RESUME_FOLDER: Final = "resume"
"""DeepSpeed's state in a checkpoint, from which a stage resumes."""
RECIPE_FILE: Final = "mine.yaml"
"""Recipe that `croc init` writes where no other name is given."""

JUDGE_KEY_VARIABLE: Final = "CROC_JUDGE_API_KEY"
"""Environment variable that holds the key of the judge's endpoint, and the only place for it."""
EVAL_KEY_VARIABLE: Final = "CROC_EVAL_API_KEY"
"""Environment variable that holds the key of the server that `croc eval --url` scores."""
SERVE_KEY_VARIABLE: Final = "CROC_SERVE_API_KEY"
"""Environment variable that holds the key that clients of `croc serve` send."""
EVALUATION_PROMPT: Final = ("X-Croc-Prompt", "evaluation")
"""Header and value that ask `croc serve` for the prompts of `croc eval` where those of conversations differ."""
PARENT_VARIABLE: Final = "CROC_PARENT"
"""Environment variable that tells ranks which process launched them, as JSON."""
HOLDS_LOCK_VARIABLE: Final = "CROC_HOLDS_LOCK"
"""Environment variable that tells rank 0 of a joined launch that the run folder's lock is its own."""
NO_RECIPE_KEYS: Final = frozenset(
    {JUDGE_KEY_VARIABLE, EVAL_KEY_VARIABLE, SERVE_KEY_VARIABLE, PARENT_VARIABLE, HOLDS_LOCK_VARIABLE}
)
"""Variables with the prefix of recipe keys that are none."""


ABLATIONS_FOLDER: Final = "ablations"
"""Part of the shipped recipes whose names have a slash."""
_ENDING = re.compile(r"\.(jsonl?|csv|tsv|parquet|arrow|xlsx|tar|t?gz|zip|txt|ya?ml|jpe?g|png|html|db)$", re.IGNORECASE)
"""Endings of files that commands take; a name may have a dot too, as llava-1.5-7b has."""


def looks_like_path(text: str) -> bool:
    """Tell whether an argument is written like a path rather than a name: with a folder, or the ending of a file."""
    folder, slash, _ = text.partition("/")
    return (slash != "" and folder != ABLATIONS_FOLDER) or text in (".", "..", "~") or _ENDING.search(text) is not None
