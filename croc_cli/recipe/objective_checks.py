"""Cross-checks of stage 1.5's masks and objectives."""

from collections.abc import Iterator

from croc_cli.recipe.facts import ModelFacts
from croc_cli.recipe.issues import Issue, KeyPath, dotted
from croc_cli.recipe.reconstruct_schema import MaskRecipe, ReconstructionRecipe
from croc_cli.recipe.schema import Recipe, ReconstructStage

_MASK: KeyPath = ("reconstruct", "mask")
_RECONSTRUCTION: KeyPath = ("reconstruct", "reconstruction")


def objective_issues(recipe: Recipe, facts: ModelFacts) -> Iterator[Issue]:
    """Find what does not fit together in masks, objectives and the way reconstruction is measured."""
    stage = recipe.reconstruct
    if not stage.enabled:
        return
    weight: KeyPath = ("reconstruct", "objectives", "reconstruction_weight")
    caption: KeyPath = ("reconstruct", "objectives", "caption_weight")
    if not stage.objectives.reconstruction_weight and not stage.objectives.caption_weight:
        yield Issue(weight, f"both objectives have weight 0; set this or {dotted(caption)} above 0", related=(caption,))
    visual = facts.num_visual_tokens
    mask, settings = stage.mask, stage.reconstruction
    masks_none = mask.num_masked(visual) == 0 if visual is not None else mask.largest_ratio == 0
    if stage.objectives.reconstruction_weight and masks_none and settings.scope == "masked":
        message = f"{mask.largest_ratio:g} masks no token, so there is nothing to reconstruct"
        if visual:
            message += f"; the next that fits is {_next_ratio(visual):g}"
        message += f" (or {dotted(weight)}: 0, or scope: all)"
        key: KeyPath = (*_MASK, "range" if mask.range is not None else "ratio")
        yield Issue(key, message, related=(weight, (*_RECONSTRUCTION, "scope")))
    if settings.head == "none" and stage.learning_rate.head:
        head: KeyPath = (*_RECONSTRUCTION, "head")
        message = f"there is no head to train, as {dotted(head)} is none; leave it out, or choose linear or bert"
        yield Issue(("reconstruct", "learning_rate", "head"), message, related=(head,))
    yield from _masks_fit(mask)
    yield from _layer_fits(settings, facts, recipe.model.llm)


def objective_notes(stage: ReconstructStage, facts: ModelFacts) -> list[str]:
    """Return what is allowed in the enabled stage's masks and objectives, yet perhaps not meant; one line each."""
    found: list[str] = []
    settings, mask = stage.reconstruction, stage.mask
    if facts.num_visual_tokens is not None and stage.matching == "hungarian":
        masked = mask.num_masked(facts.num_visual_tokens)
        if stage.pool.size < masked:
            uses = -(-masked // stage.pool.size)
            found.append(
                f"reconstruct.pool.size: {stage.pool.size} is smaller than the {masked} masked tokens of an image,"
                f" so each pool token may be used {uses} times in it"
            )
    if mask.shape == "random":
        found += [
            f"reconstruct.mask.{key}: has no effect, as shape is random"
            for key in ("block_scale", "block_aspect")
            if getattr(mask, key) != type(mask).model_fields[key].default
        ]
    if settings.loss != "smooth_l1" and settings.smooth_l1_beta != _default(settings, "smooth_l1_beta"):
        found.append(f"reconstruct.reconstruction.smooth_l1_beta: has no effect, as loss is {settings.loss}")
    if settings.loss == "cosine" and not settings.per_dimension:
        found.append("reconstruct.reconstruction.per_dimension: has no effect, as loss is cosine")
    if settings.layer != -1 and settings.head == "none" and settings.loss != "cosine":
        found.append(
            "reconstruct.reconstruction.layer: only the last hidden state has the length of a norm, which loss"
            f" {settings.loss} measures; head linear, or loss cosine, does without it"
        )
    if settings.head != "none" and stage.learning_rate.head == 0:
        found.append("reconstruct.learning_rate.head: is 0, so the head keeps its random weights")
    if settings.head == "bert" and facts.num_visual_tokens is None:
        found.append(
            "reconstruct.reconstruction.head: bert learns one position for each visual token, and only the tower's"
            " config, which is not at hand, tells how many there are"
        )
    return found


def _masks_fit(mask: MaskRecipe) -> Iterator[Issue]:
    for key in ("range", "block_scale", "block_aspect"):
        ends = getattr(mask, key)
        if ends is not None and ends[0] > ends[1]:
            message = f"{list(ends)} begins with the higher end; write [{ends[1]:g}, {ends[0]:g}]"
            yield Issue((*_MASK, key), message)
    schedule: KeyPath = (*_MASK, "schedule")
    if mask.range is not None and mask.schedule == "cosine":
        message = "a share that each sample draws follows no schedule; leave it out, or set schedule: constant"
        yield Issue((*_MASK, "range"), message, related=(schedule,))
    if mask.start is not None and mask.schedule == "constant":
        message = "has no effect with a constant schedule; set schedule: cosine, or leave it out"
        yield Issue((*_MASK, "start"), message, related=(schedule,))


def _layer_fits(settings: ReconstructionRecipe, facts: ModelFacts, llm: str) -> Iterator[Issue]:
    depth = facts.llm.num_layers if facts.llm is not None else None
    if settings.layer == 0:
        message = "0 is what enters the LLM, before any layer; 1 is the first layer's, -1 the last"
        yield Issue((*_RECONSTRUCTION, "layer"), message)
    elif depth is not None and not -depth <= settings.layer <= depth:
        message = (
            f"{settings.layer} is none of the {depth} hidden states of {llm}'s layers; it must be from 1 to {depth}, or"
            f" from {-depth} to -1"
        )
        yield Issue((*_RECONSTRUCTION, "layer"), message, related=(("model", "llm"),))


def _default(section: ReconstructionRecipe, key: str) -> object:
    return type(section).model_fields[key].default


def _next_ratio(num_visual_tokens: int) -> float:
    """Return the least share, in hundredths, that masks a token."""
    return next(step / 100 for step in range(1, 101) if round(step / 100 * num_visual_tokens) > 0)
