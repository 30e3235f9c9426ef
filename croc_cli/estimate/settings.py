"""A stage's own settings in words, as `--dry-run` shows them: what it trains on, with what objective, at what cost."""

from collections.abc import Iterator

from croc_cli.errors import CrocError
from croc_cli.estimate.resources import Hardware, StageResources, recipe_resources
from croc_cli.names import StageName
from croc_cli.recipe.facts import ModelFacts, model_facts
from croc_cli.recipe.load import argument_of
from croc_cli.recipe.reconstruct_schema import MaskRecipe
from croc_cli.recipe.schema import LlavaJsonData, MixData, Recipe, ReconstructStage, ScenesData
from croc_cli.words import counted

_MATCHING = {
    "hungarian": "Hungarian, each pool token at most once in an image",
    "nearest": "nearest pool token, any number of times",
}
_ATTENTION = {
    "mixed": "mixed: visual tokens are visible to all, text is causal",
    "causal": "causal, as in LLaVA",
    "prefix": "prefix: all before the first trained token see each other",
}
_TARGETS = {"raw": "raw", "layer_norm": "layer-normalised", "l2": "of length 1"}
_LOSSES = {"l2": "L2", "smooth_l1": "smooth L1", "cosine": "1 - cosine"}
_RECOMPUTED = {"none": "no layer", "alternate": "every second layer", "full": "every layer"}
_WIDTH = 12


def describe_settings(recipe: Recipe, stage: StageName, hardware: Hardware | None) -> str:
    """Return a stage's settings, one a line.

    Args:
        recipe: The recipe.
        stage: The stage.
        hardware: What memory and hours are planned for; None leaves them out.
    """
    lines = list(_settings(recipe, stage))
    if hardware is not None:
        lines += _costs(recipe, stage, hardware)
    return "\n".join(f"{name:<{_WIDTH}} {text}" for name, text in lines)


def _settings(recipe: Recipe, stage: StageName) -> Iterator[tuple[str, str]]:
    section = recipe.stage(stage)
    yield "data", _data(recipe, stage)
    yield "template", f"{section.template}, images as {section.image_aspect}, {section.max_length:,} tokens at most"
    if (with_pool := recipe.pool_stage(stage)) is not None:
        yield from _reconstruction(with_pool, model_facts(recipe.model))
    rates = {name.replace("_", " "): rate for name, rate in section.learning_rate.trained().items()}
    schedule = f"{section.optimizer.schedule}, warm-up {section.optimizer.warmup_ratio:.0%} of the steps"
    yield "rates", ", ".join(f"{name} {rate:g}" for name, rate in rates.items()) + f"; {schedule}"
    saves = f"every {counted(section.save_every, 'step')}" if section.save_every else "after the last step"
    yield "precision", f"{section.precision}, ZeRO-{section.zero_stage}, seed {section.seed}; saves {saves}"


def _data(recipe: Recipe, stage: StageName) -> str:
    source = recipe.data.source(stage)
    if isinstance(source, ScenesData):
        return f"drawn scenes, {source.task.replace('_', ' ')}"
    if isinstance(source, LlavaJsonData):
        return f"{source.path}, images in {source.image_folder}"
    if isinstance(source, MixData):
        return f"a mix of {source.preset or counted(len(source.sources), 'source')}"
    return "none"


def _reconstruction(stage: ReconstructStage, facts: ModelFacts) -> Iterator[tuple[str, str]]:
    settings = stage.reconstruction
    width = facts.llm.hidden_size if facts.llm is not None else None
    size = f"{stage.pool.size:,}" + (f" × {width:,}" if width else " tokens")
    yield "pool", f"{size}, started from {stage.pool.initialisation}"
    visual = facts.num_visual_tokens
    yield "masked", _masked(stage.mask, visual)
    yield "matching", _MATCHING[stage.matching]
    yield "attention", _ATTENTION[stage.attention]
    weights = stage.objectives
    yield "objective", f"α {weights.reconstruction_weight:g} × reconstruction + {weights.caption_weight:g} × caption"
    detached = ", no gradient through them" if settings.stop_gradient else ""
    head = "" if settings.head == "none" else f", head {settings.head}"
    over = "masked tokens" if settings.scope == "masked" else "all visual tokens"
    scale = " / √D" if settings.per_dimension and settings.loss == "l2" else ""
    if settings.layer != -1:
        head += f", from hidden state {settings.layer} of the LLM"
    targets = f"visual tokens, {_TARGETS[settings.target]}{detached}"
    yield "targets", f"{targets}; {_LOSSES[settings.loss]}{scale}, {settings.reduction} over the {over}{head}"


def _masked(mask: MaskRecipe, visual: int | None) -> str:
    """Return how many visual tokens are masked, and how they lie; visual: n, where it is known."""
    first, last = mask.range or (mask.start or 0.0, mask.ratio)
    if visual is None:
        share = f"{first:.0%} to {last:.0%}" if mask.varies else f"{mask.ratio:.0%}"
        text = f"{share} of the visual tokens"
    else:
        ends = [f"{mask.masked_at(ratio, visual):,}" for ratio in ((first, last) if mask.varies else (last,))]
        ratios = f"{first:g} to {last:g}" if mask.varies else f"{mask.ratio:g}"
        text = f"{' to '.join(ends)} of {visual:,} visual tokens of an image ({ratios})"
    how = ", drawn for each sample" if mask.range is not None else ", a cosine over the stage" if mask.varies else ""
    return text + how + (", in blocks" if mask.shape == "block" else "")


def _costs(recipe: Recipe, stage: StageName, hardware: Hardware) -> Iterator[tuple[str, str]]:
    try:
        found = next(one for one in recipe_resources(recipe, hardware) if one.stage == stage)
    except CrocError as error:
        yield "memory", error.message
        return
    yield "memory", _memory(found, hardware)
    yield "recomputed", _RECOMPUTED[found.choices.checkpointing]
    source = "as measured on this machine" if hardware.speeds else f"at {hardware.utilisation:.0%} of the peak"
    hours = f"{found.hours:,.1f} hours" if found.hours >= 1 else counted(max(1, round(found.hours * 60)), "minute")
    yield "time", f"{hours}, {source}; `croc plan {argument_of(recipe)}` says more"


def _memory(found: StageResources, hardware: Hardware) -> str:
    parts = found.memory[found.choices.zero_stage]
    of = f" of {hardware.memory_bytes / 1e9:,.0f} GB" if hardware.memory_bytes else ""
    unit = "GPU" if hardware.on_gpu else "rank"
    state = parts.weights + parts.gradients + parts.optimizer + parts.buffers
    working = parts.activations + parts.logits
    shown = f"{parts.total / 1e9:,.1f} GB{of} per {unit}"
    return f"{shown}: {state / 1e9:,.1f} weights and optimizer, {working / 1e9:,.1f} activations" + (
        "" if found.fits else "; does not fit"
    )
