"""Cross-checks: what single keys cannot say, each with the next value that fits."""

from collections.abc import Callable, Iterator
from math import isqrt

from croc_cli.errors import RecipeError
from croc_cli.names import STAGES, StageName
from croc_cli.recipe.deepspeed_block import block_issues
from croc_cli.recipe.facts import ModelFacts, local_folder, model_facts
from croc_cli.recipe.issues import Issue, KeyPath, dotted
from croc_cli.recipe.objective_checks import objective_issues, objective_notes
from croc_cli.recipe.schema import Recipe, ScenesData
from croc_cli.recipe.stages import STAGE_TABLE
from croc_cli.recipe.template_checks import matching_issues, preparation_notes, template_issues


def cross_check(recipe: Recipe) -> list[Issue]:
    """Return all that does not fit together in a recipe whose single values are right; without origins."""
    facts = model_facts(recipe.model)
    alone = (issue for check in _CHECKS for issue in check(recipe))
    with_facts = (issue for check in _CHECKS_WITH_FACTS for issue in check(recipe, facts))
    return [*alone, *with_facts]


def check_batches(recipe: Recipe, stages: tuple[StageName, ...], *, num_ranks: int) -> None:
    """Raise RecipeError unless each stage's global batch is whole micro-batches on every rank.

    Args:
        recipe: The checked recipe.
        stages: Stages that are about to run.
        num_ranks: Ranks of the whole run, once the devices are counted.
    """
    issues = [issue for stage in stages if (issue := _batch_issue(recipe, stage, num_ranks)) is not None]
    if issues:
        raise RecipeError("\n".join(str(issue) for issue in issues))


def known_ranks(recipe: Recipe) -> int | None:
    """Return the ranks of the whole run as far as the recipe alone tells, or None."""
    launch = recipe.launch
    if launch.num_ranks == "auto" or launch.hostfile is not None:
        return None
    return launch.num_ranks * (launch.slurm.num_nodes if launch.slurm is not None else 1)


def notes(recipe: Recipe) -> tuple[str, ...]:
    """Return what is allowed in a recipe, yet perhaps not meant; one line each."""
    found: list[str] = []
    facts = model_facts(recipe.model)
    stage = recipe.reconstruct
    if recipe.data.cache_features is not None:
        found += preparation_notes({name: recipe.stage(name).image_aspect for name in _enabled(recipe)})
    if not stage.enabled:
        return tuple(found)
    found += objective_notes(stage, facts)
    return tuple(found)


def _batches(recipe: Recipe) -> Iterator[Issue]:
    for stage in _enabled(recipe):
        issue = _batch_issue(recipe, stage, known_ranks(recipe))
        if issue is not None:
            yield issue


def _batch_issue(recipe: Recipe, stage: StageName, num_ranks: int | None) -> Issue | None:
    batch = recipe.stage(stage).batch
    if batch.packing:  # samples go into rows, of which every rank gets as many
        return None
    per_pass = batch.micro_size * (num_ranks or 1)
    rest = batch.global_size % per_pass
    if not rest:
        return None
    product = (
        f"micro_size × ranks = {batch.micro_size} × {num_ranks} = {per_pass}" if num_ranks else f"micro_size {per_pass}"
    )
    above = batch.global_size - rest + per_pass
    fitting = f"{above - per_pass} or {above}" if above > per_pass else str(above)
    message = f"{batch.global_size} is not a multiple of {product}; the next that fits is {fitting}"
    if smaller := _fitting_micro_size(batch.global_size, batch.micro_size, num_ranks or 1):
        message += f", or micro_size {smaller}"
    related: list[KeyPath] = [(stage, "batch", "micro_size")]
    if num_ranks is not None:
        related += [("launch", "num_ranks"), ("launch", "slurm", "num_nodes")]
    return Issue((stage, "batch", "global_size"), message, related=tuple(related))


def _tower_fits(recipe: Recipe, facts: ModelFacts) -> Iterator[Issue]:
    tower = facts.tower
    if tower is None:
        return
    # SigLIP so400m/14 has 384 pixels: its convolution leaves out what is over.
    if (rest := tower.image_size % tower.patch_size) and tower.has_class_token:
        message = (
            f"its image size {tower.image_size} is not a multiple of its patch size {tower.patch_size};"
            f" the next that fits is {tower.image_size - rest + tower.patch_size}"
        )
        yield Issue(("model", "vision_tower"), message)
    depth = tower.num_layers + 1  # hidden states: the embeddings and one for each layer
    layer = recipe.model.vision_feature_layer
    if not -depth <= layer < depth:
        message = f"{layer} is none of the tower's {depth} hidden states; it must be from {-depth} to {depth - 1}"
        yield Issue(("model", "vision_feature_layer"), message, related=(("model", "vision_tower"),))


def _lengths_fit(recipe: Recipe, facts: ModelFacts) -> Iterator[Issue]:
    positions = facts.llm.max_positions if facts.llm is not None else None
    visual = facts.num_visual_tokens
    for stage in _enabled(recipe):
        length = recipe.stage(stage).max_length
        path = (stage, "max_length")
        if positions is not None and length > positions:
            message = f"{length} is more than the {positions} positions of {recipe.model.llm}; at most {positions} fits"
            yield Issue(path, message, related=(("model", "llm"),))
        if visual is not None and length <= visual:
            message = (
                f"{length} leaves no room for text beside the {visual} visual tokens of an image; it must be above that"
            )
            yield Issue(path, message, related=(("model", "vision_tower"),))


def _packing_fits(recipe: Recipe, facts: ModelFacts) -> Iterator[Issue]:
    visual, llm = facts.num_visual_tokens, facts.llm
    for stage in _enabled(recipe):
        section = recipe.stage(stage)
        packing, row_tokens = (stage, "batch", "packing"), (stage, "batch", "row_tokens")
        given = section.batch.row_tokens
        if not section.batch.packing:
            if given is not None:
                message = f"has no effect without packing; set {dotted(packing)}: true, or leave it out"
                yield Issue(row_tokens, message, related=(packing,))
            continue
        if given is not None and visual is not None and given <= visual:
            message = (
                f"{given} leaves no room for text beside the {visual} visual tokens of an image; it must be at least"
                f" the tokens of the longest sample: {section.max_length} (max_length) always is"
            )
            yield Issue(row_tokens, message, related=((stage, "max_length"),))
        window = llm.window if llm is not None else None
        if window is not None and window < section.max_length:
            message = (
                f"packing needs an LLM whose layers attend to a whole sample; {recipe.model.llm} looks back {window}"
                f" tokens, and {stage}.max_length is {section.max_length}; leave packing out"
            )
            yield Issue(packing, message, related=(("model", "llm"), (stage, "max_length")))


def _data_fits(recipe: Recipe) -> Iterator[Issue]:
    if recipe.reconstruct.enabled and recipe.data.reconstruct is None:
        yield Issue(
            ("data", "reconstruct"),
            "is missing, though the reconstruct stage is enabled; give its data, or set reconstruct.enabled: false",
            related=(("reconstruct", "enabled"),),
        )
    for stage in _enabled(recipe):
        if recipe.data.cache_features is not None and isinstance(recipe.data.source(stage), ScenesData):
            message = f"data.{stage} draws its pictures on the fly, so there is nothing to keep; leave it out"
            yield Issue(("data", "cache_features"), message, related=(("data", stage, "kind"),))
    for stage in _enabled(recipe):
        if recipe.data.cache_features is not None and "vision_tower" in recipe.stage(stage).learning_rate.trained():
            rate: KeyPath = (stage, "learning_rate", "vision_tower")
            message = (
                f"keeps what a frozen tower computes, and the {stage} stage trains it; leave this out, or"
                f" {dotted(rate)}"
            )
            yield Issue(("data", "cache_features"), message, related=(rate,))
    for stage in _enabled(recipe):
        source = recipe.data.source(stage)
        if recipe.stage(stage).template != "plain" or not isinstance(source, ScenesData):
            continue
        if source.task == "questions":
            message = f"plain takes an image and its caption, but data.{stage}.task is questions; use vicuna_v1"
            yield Issue((stage, "template"), message, related=(("data", stage, "task"),))


def _held_out_fits(recipe: Recipe) -> Iterator[Issue]:
    for stage in _enabled(recipe):
        source = recipe.data.source(stage)
        held, path = source.held_out if source is not None else None, ("data", stage, "held_out")
        if held is None:
            continue
        if (held.count is None) == (held.path is None):
            both = "has both a count and a path" if held.count else "has neither a count nor a path"
            yield Issue(path, f"{both}; give a number, or a file: {{path: FILE, image_folder: DIR}}")
        elif held.path is not None and held.image_folder is None:
            yield Issue((*path, "image_folder"), "is missing; give the folder that the image paths of path start from")


def _stages_enabled(recipe: Recipe) -> Iterator[Issue]:
    if not _enabled(recipe):
        paths: tuple[KeyPath, ...] = tuple((stage, "enabled") for stage in STAGES)
        yield Issue(
            paths[-1], "no stage is enabled; set at least one of align, reconstruct and finetune", related=paths[:-1]
        )


def _rates_fit(recipe: Recipe) -> Iterator[Issue]:
    for stage in _enabled(recipe):
        trained = STAGE_TABLE[stage].trains
        rates: dict[str, float | None] = recipe.stage(stage).learning_rate.model_dump()
        for group in (group for group, rate in rates.items() if rate and group not in trained):
            yield Issue((stage, "learning_rate", group), f"the {stage} stage trains {_and(trained)} only; leave it out")
        if not any(rates[group] for group in trained):
            yield Issue(
                (stage, "learning_rate"),
                f"trains nothing; set at least one of {', '.join(trained)} above 0",
                related=tuple((stage, "learning_rate", group) for group in rates),
            )


def _optimizer_fits(recipe: Recipe) -> Iterator[Issue]:
    for stage in _enabled(recipe):
        section = recipe.stage(stage)
        if max(section.optimizer.betas) >= 1:
            message = f"both must be below 1, not {list(section.optimizer.betas)}"
            yield Issue((stage, "optimizer", "betas"), message)
        least = {"none": 0, "optimizer": 1, "all": 3}[section.offload]
        if section.zero_stage < least:
            takes = f"zero_stage {least}" if least == 3 else f"zero_stage {least} or more"
            message = f"{section.offload} needs {takes}, not {section.zero_stage}"
            yield Issue((stage, "offload"), message, related=((stage, "zero_stage"),))


def _deepspeed_fits(recipe: Recipe) -> Iterator[Issue]:
    for stage in _enabled(recipe):
        section = recipe.stage(stage)
        if section.precision == "bf16" and section.gradient_dtype == "fp32" and section.zero_stage == 0:
            message = "fp32 needs ZeRO for a bf16 stage: zero_stage 1 or more, not 0"
            yield Issue((stage, "gradient_dtype"), message, related=((stage, "zero_stage"),))
        if section.precision == "fp32" and section.gradient_dtype == "bf16":
            message = "bf16 is for bf16 stages; this one has precision fp32"
            yield Issue((stage, "gradient_dtype"), message, related=((stage, "precision"),))
        yield from block_issues(recipe, stage, section)


def _templates_fit(recipe: Recipe) -> Iterator[Issue]:
    llm = local_folder(recipe.model.llm, "llm", recipe.model.llm_revision)
    for stage in _enabled(recipe):
        yield from template_issues(stage, recipe.stage(stage), llm=llm)
    if recipe.reconstruct.enabled:
        yield from matching_issues(recipe.reconstruct)


def _launch_fits(recipe: Recipe) -> Iterator[Issue]:
    if recipe.launch.hostfile is not None and recipe.launch.slurm is not None:
        message = "a run is started through a hostfile or through slurm, not both; leave one out"
        yield Issue(("launch", "hostfile"), message, related=(("launch", "slurm"),))
    if recipe.launch.kernels == "liger" and recipe.launch.compile is True:
        message = "liger fuses what torch.compile would; set launch.compile: auto or false, or leave kernels out"
        yield Issue(("launch", "kernels"), message, related=(("launch", "compile"),))


def _best_is_measured(recipe: Recipe) -> Iterator[Issue]:
    during = recipe.eval.during
    if during.keep_best is not None and during.keep_best not in during.benchmarks:
        message = f"{during.keep_best!r} is not among eval.during.benchmarks: {', '.join(during.benchmarks) or 'none'}"
        yield Issue(("eval", "during", "keep_best"), message, related=(("eval", "during", "benchmarks"),))


_CHECKS: tuple[Callable[[Recipe], Iterator[Issue]], ...] = (
    _stages_enabled,
    _batches,
    _data_fits,
    _held_out_fits,
    _rates_fit,
    _optimizer_fits,
    _deepspeed_fits,
    _templates_fit,
    _launch_fits,
    _best_is_measured,
)
_CHECKS_WITH_FACTS: tuple[Callable[[Recipe, ModelFacts], Iterator[Issue]], ...] = (
    _tower_fits,
    _lengths_fit,
    _packing_fits,
    objective_issues,
)


def _enabled(recipe: Recipe) -> list[StageName]:
    return [stage for stage in STAGES if recipe.stage(stage).enabled]


def _fitting_micro_size(global_size: int, micro_size: int, num_ranks: int) -> int | None:
    """Return the largest micro-batch, at most the present one, that divides the global batch on every rank."""
    if global_size % num_ranks:
        return None
    per_rank = global_size // num_ranks
    small = [size for size in range(1, isqrt(per_rank) + 1) if per_rank % size == 0]
    return max(size for divisor in small for size in (divisor, per_rank // divisor) if size <= micro_size)


def _and(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
