"""The table of the stages: what trains, what is added, how attention goes, and what each starts from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from croc_cli.names import StageName


@dataclass(frozen=True)
class StageSpec:
    """One row of the table (METHOD: the stages; paper, section 3.4).

    Args:
        trains: Parameter groups that the stage may train; a learning rate of 0 freezes one all the same.
        has_pool: Whether masked visual tokens are replaced from a token pool and reconstructed.
        attention: `causal`, or `recipe` where the recipe's `attention` decides.
    """

    trains: tuple[str, ...]
    has_pool: bool
    attention: Literal["causal", "recipe"]


STAGE_TABLE: Mapping[StageName, StageSpec] = {
    "align": StageSpec(trains=("projector",), has_pool=False, attention="causal"),
    "reconstruct": StageSpec(trains=("projector", "llm", "token_pool", "head"), has_pool=True, attention="recipe"),
    "finetune": StageSpec(trains=("projector", "llm"), has_pool=False, attention="causal"),
}
