"""What a recipe may say of stage 1.5's own parts: pool, masks, objectives, and how reconstruction is measured."""

from typing import Annotated, Literal

from pydantic import Field

from croc_cli.recipe.data_schema import Share
from croc_cli.recipe.values import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class PoolRecipe(Section):
    """The token pool of stage 1.5 (paper, section 3.2)."""

    size: PositiveInt = Field(2048, description="N, tokens in the pool")
    initialisation: Literal["sampled", "normal", "moments", "covariance"] = Field(
        "sampled",
        description="sampled = real visual tokens; normal = N(0, 1); moments, covariance = drawn like real ones",
    )


class MaskRecipe(Section):
    """Which visual tokens are replaced (paper, section 4.2)."""

    ratio: Share = Field(0.75, description="γ, share of an image's visual tokens replaced from the pool")
    shape: Literal["random", "block"] = Field(
        "random", description="random = any positions; block = rectangles, as I-JEPA (arXiv:2301.08243) draws them"
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine = from start to ratio over the stage, along half a cosine"
    )
    start: Share | None = Field(None, description="Share that the cosine schedule starts from; default: 0")
    range: tuple[Share, Share] | None = Field(
        None, description="Lowest and highest share, between which each sample draws its own in place of ratio"
    )
    block_scale: tuple[Share, Share] = Field(
        (0.15, 0.2), description="Lowest and highest share of an image that a block takes"
    )
    block_aspect: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.75, 1.5), description="Lowest and highest height of a block over its width"
    )

    @property
    def largest_ratio(self) -> float:
        """The largest share that is masked at any step of any sample."""
        if self.range is not None:
            return max(self.range)
        return max(self.ratio, self.start or 0.0) if self.schedule == "cosine" else self.ratio

    @property
    def varies(self) -> bool:
        """Whether samples or steps mask different shares."""
        return self.range is not None or self.schedule == "cosine"

    def num_masked(self, num_visual_tokens: int) -> int:
        """Return m = round(γ · n), the masked ones of an image's n visual tokens; the largest, where m varies."""
        return self.masked_at(self.largest_ratio, num_visual_tokens)

    def masked_at(self, ratio: float, num_visual_tokens: int) -> int:
        """Return m at a share of n; where m varies it is at least 1."""
        return max(int(self.varies and self.largest_ratio > 0), round(ratio * num_visual_tokens))


class ObjectivesRecipe(Section):
    """Weights of the two objectives (paper, Eq. 5)."""

    reconstruction_weight: NonNegativeFloat = Field(10.0, description="α; 0 leaves the objective out")
    caption_weight: NonNegativeFloat = Field(1.0, description="0 leaves the objective out")


class ReconstructionRecipe(Section):
    """How reconstruction is measured (paper, Eq. 3, made exact)."""

    target: Literal["raw", "layer_norm", "l2"] = "layer_norm"
    stop_gradient: bool = Field(True, description="Keep the projector from shrinking its own targets")
    layer: Annotated[int, Field(ge=-1000, le=1000)] = Field(
        -1, description="Hidden state of the LLM that predicts; -1 = the last, after its norm; 1 = of the first layer"
    )
    loss: Literal["l2", "smooth_l1", "cosine"] = Field(
        "l2", description="Norm of the difference; smooth L1; or 1 - cosine of the angle, for which lengths are nothing"
    )
    smooth_l1_beta: PositiveFloat = 0.01
    per_dimension: bool = Field(True, description="Divide the L2 norm by √D")
    reduction: Literal["mean", "sum"] = Field("mean", description="Over the positions of an image; images are averaged")
    scope: Literal["masked", "all"] = Field("masked", description="Positions that count")
    head: Literal["none", "linear", "bert"] = "none"
    head_dropout: Share = 0.1
