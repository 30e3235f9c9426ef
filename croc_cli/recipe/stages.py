"""The table of the stages: what trains and what is added (paper, section 3.4). Every room reads it here."""

from collections.abc import Container, Mapping
from dataclasses import dataclass

from croc_cli.names import StageName


@dataclass(frozen=True)
class StageSpec:
    """One row of the table.

    Args:
        trains: Parameter groups that the stage may train; a learning rate of 0 freezes one all the same.
        has_pool: Whether masked visual tokens are replaced from a token pool and reconstructed, under an attention of
            the recipe's choice.
        text: What its samples say of a picture.
    """

    trains: tuple[str, ...]
    has_pool: bool
    text: str


STAGE_TABLE: Mapping[StageName, StageSpec] = {
    "align": StageSpec(trains=("projector",), has_pool=False, text="captions"),
    "reconstruct": StageSpec(
        trains=("vision_tower", "projector", "llm", "token_pool", "head"), has_pool=True, text="captions"
    ),
    "finetune": StageSpec(trains=("vision_tower", "projector", "llm"), has_pool=False, text="answers"),
}

GROUP_WORDS: Mapping[str, str] = {
    "vision_tower": "tower",
    "projector": "projector",
    "llm": "LLM",
    "token_pool": "pool",
    "head": "head",
}
"""Each parameter group in a word, in the order in which an image passes them."""


def group_words(groups: Container[str]) -> str:
    """Return parameter groups in words, such as `projector, LLM`."""
    return ", ".join(word for group, word in GROUP_WORDS.items() if group in groups)
