"""The only place that turns a recipe into objects; everything it builds takes plain arguments."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor

from croc_cli.checkpoint.metadata import LLM_TEMPLATE_KEY, read_metadata
from croc_cli.data.collate import StepLoader
from croc_cli.data.conversation import ConversationEncoder
from croc_cli.data.dataset import HINT_TOKENS_PER_IMAGE, Dataset, LlavaJsonDataset, MixDataset
from croc_cli.data.image import build_image_processor
from croc_cli.data.lengths import tokenizer_key
from croc_cli.data.masking import Masking
from croc_cli.data.processor_template import with_pictures
from croc_cli.data.sampler import StepSampler
from croc_cli.data.subset import Subset
from croc_cli.demo.dataset import SceneDataset
from croc_cli.errors import UsageError
from croc_cli.model.attention_kernel import KERNEL_NAMES, AttentionChoice, choose_attention
from croc_cli.model.attention_mask import check_takes_packing
from croc_cli.model.build import generation_config, load_llava, stock_processor
from croc_cli.model.lmm import MultimodalModel, find_layer
from croc_cli.model.recompute import enable_recomputation
from croc_cli.model.reconstruction import build_head
from croc_cli.model.token_pool import TokenPool
from croc_cli.model.vision_tower import num_visual_tokens
from croc_cli.names import StageName
from croc_cli.objectives.settings import ObjectiveSettings
from croc_cli.recipe.paths import data_path
from croc_cli.recipe.schema import AspectName, LlavaJsonData, MixData, Recipe, ResamplingName
from croc_cli.recipe.stages import STAGE_TABLE
from croc_cli.sources.mix.lengths import find_lengths
from croc_cli.sources.mix.recipe_mix import mix_folder
from croc_cli.train.stage_module import StageModule
from croc_cli.train.state import TrainerSettings
from croc_cli.worker.device import solver_threads
from croc_cli.worker.held_out import row_limit, trained_part

GPU_LENGTH_MULTIPLE = 128
"""Tokens that lengths are rounded up to on a GPU: attention kernels plan anew for every length (0.3 s with cuDNN), and
flex_attention works in blocks of 128."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass
class StageParts:
    """What a stage's run is made of, before any engine wraps it.

    Args:
        module: Model and objectives.
        processor: Stock processor that makes the same pictures and prompts as the training.
        loader: Yields whole optimizer steps of this rank.
        settings: What the training loop needs to know.
        num_visual_tokens: n, visual tokens of an image.
        attention: The LLM's attention kernel, and why.
    """

    module: StageModule
    processor: LlavaProcessor
    loader: StepLoader
    settings: TrainerSettings
    num_visual_tokens: int
    attention: AttentionChoice


def build_dataset(
    recipe: Recipe, stage: StageName, *, tokenizer: Any = None, num_visual_tokens: int = HINT_TOKENS_PER_IMAGE
) -> Dataset:
    """Return the samples that a recipe's data section names for a stage.

    Args:
        recipe: The resolved recipe.
        stage: Which stage.
        tokenizer: The stage's; with it a mix tells the lengths that were counted with its like, else estimates.
        num_visual_tokens: Tokens of an image.

    Raises:
        UsageError: It names none, or they are not what they should be.
    """
    source = recipe.data.source(stage)
    seed = recipe.stage(stage).seed
    if source is None:
        raise UsageError(
            f"data.{stage} is missing, and {stage} is enabled", hint=f"name its samples under data.{stage}"
        )
    if isinstance(source, LlavaJsonData):
        rows = LlavaJsonDataset(
            data_path(recipe.data.root, source.path),
            data_path(recipe.data.root, source.image_folder),
            num_samples=source.num_samples,
            seed=seed,
            reading=recipe.data.image_reading,
        )
        return trained_part(rows, recipe, stage)
    if isinstance(source, MixData):
        folder = mix_folder(recipe, stage)
        section = recipe.stage(stage)
        key = None if tokenizer is None else tokenizer_key(tokenizer, section.template, section.template_options)
        lengths = None if key is None else find_lengths(folder, key)
        mix = MixDataset(
            folder, lengths=lengths, num_visual_tokens=num_visual_tokens, reading=recipe.data.image_reading
        )
        return trained_part(mix, recipe, stage)
    return SceneDataset(
        source.task,
        num_samples=source.num_samples,
        seed=seed,
        split="train",
        text_only_share=source.text_only_share,
        brief=source.brief,
    )


def is_grouped(recipe: Recipe, stage: StageName) -> bool:
    """Tell whether a stage's steps are to hold one modality each."""
    source = recipe.data.source(stage)
    return isinstance(source, MixData) and source.order == "grouped"


def build_processor(
    start: Path, *, aspect: AspectName, resampling: ResamplingName, config: Any, chat_template: str | None
) -> LlavaProcessor:
    """Return the stock processor of a stage: the start's tokenizer, and pictures prepared as `aspect` says.

    A checkpoint's tokenizer carries the template of the stage that saved it, so the LLM's own comes from croc.json.
    """
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.padding_side = "right"
    tokenizer.chat_template = read_metadata(start).extra.get(LLM_TEMPLATE_KEY, tokenizer.chat_template)
    own = with_pictures(tokenizer.chat_template)
    pictures = build_image_processor(start, aspect, resampling=resampling)
    return stock_processor(tokenizer, pictures, config, chat_template=chat_template or own)


def build_objectives(recipe: Recipe, stage: StageName) -> ObjectiveSettings:
    """Return what a stage minimises."""
    section = recipe.pool_stage(stage)
    if section is None:
        return ObjectiveSettings()
    measured = section.reconstruction.model_dump(exclude={"head", "head_dropout"})
    return ObjectiveSettings(**section.objectives.model_dump(), **measured)


def build_model(
    recipe: Recipe, stage: StageName, llava: LlavaForConditionalGeneration, *, on_gpu: bool = False
) -> MultimodalModel:
    """Return `llava` with what the stage adds: pool, head, attention. Pool weights are not initialised yet."""
    section = recipe.pool_stage(stage)
    n = num_visual_tokens(llava.config)
    dim = llava.config.text_config.hidden_size
    pool = head = None
    if section is not None:
        if section.mask.largest_ratio > 0:
            pool = TokenPool(section.pool.size, dim, solver_threads=solver_threads(on_gpu=on_gpu))
        if section.objectives.reconstruction_weight > 0:
            head = build_head(section.reconstruction.head, dim, n, section.reconstruction.head_dropout)
    layer = section.reconstruction.layer if section is not None else -1
    try:
        find_layer(llava.model.language_model, layer)
    except ValueError as error:
        key = "reconstruct.reconstruction.layer"
        raise UsageError(f"{key}: {error}", hint=f"--set {key}=-1 takes the last") from error
    return MultimodalModel(
        llava,
        num_visual_tokens=n,
        pool=pool,
        head=head,
        matching=section.matching if section is not None else "hungarian",
        shares_assignment=section is not None and section.matching_scope == "sample",
        attention_kind=section.attention if section is not None else "causal",
        visual_norm=recipe.model.visual_norm,
        reconstruction_layer=layer,
    )


def build_masking(recipe: Recipe, stage: StageName, *, num_steps: int) -> Masking | None:
    """Return which visual tokens a stage masks; None for a stage without a pool."""
    section = recipe.pool_stage(stage)
    if section is None:
        return None
    return Masking(**section.mask.model_dump() | {"start": section.mask.start or 0.0}, num_steps=num_steps)


def learning_rates(recipe: Recipe, stage: StageName, module: StageModule) -> dict[str, float]:
    """Return the peak rate of each group that this stage trains.

    Raises:
        UsageError: Where the recipe gives a rate to a group that the stage may not train, or to none at all.
    """
    given = recipe.stage(stage).learning_rate.trained()
    if wrong := sorted(set(given) - set(STAGE_TABLE[stage].trains)):
        raise UsageError(
            f"{stage} does not train {', '.join(wrong)}", hint=f"set {stage}.learning_rate.{wrong[0]} to 0"
        )
    present = {"vision_tower", "projector", "llm"}
    if module.model.pool is not None:
        present.add("token_pool")
    if module.model.head is not None and any(True for _ in module.model.head.parameters()):
        present.add("head")
    rates = {name: rate for name, rate in given.items() if name in present}
    if not rates:
        raise UsageError(f"{stage} trains nothing", hint=f"give {stage}.learning_rate a rate above 0")
    return rates


def build_stage(
    recipe: Recipe,
    stage: StageName,
    *,
    start: Path,
    weights: Path,
    rank: int,
    num_ranks: int,
    chat_template: str | None,
    device: str = "cpu",
    on_gpu: bool = False,
) -> StageParts:
    """Build everything of a stage but the engine.

    Args:
        recipe: The resolved recipe.
        stage: Which stage.
        start: Checkpoint that tokenizer, processor and config come from.
        weights: Checkpoint that weights come from: `start`, or where the stage stopped.
        rank: This process.
        num_ranks: All of them.
        chat_template: Jinja template that the saved processor gets; None keeps the tokenizer's own.
        device: Where weights are read to; `cpu` under ZeRO-3, which places them itself.
        on_gpu: Whether the stage computes on a GPU: attention kernel and lengths of micro-batches are chosen for it.
    """
    section = recipe.stage(stage)
    named = KERNEL_NAMES.get(recipe.model.attention, recipe.model.attention)
    llava = load_llava(weights, dtype=DTYPES[section.precision], attention=named, device=device)
    llava.train()  # from_pretrained leaves eval mode, in which transformers keeps every activation after all
    llava.model.vision_tower.train("vision_tower" in section.learning_rate.trained())
    enable_recomputation(llava, section.gradient_checkpointing)
    module = StageModule(build_model(recipe, stage, llava, on_gpu=on_gpu), build_objectives(recipe, stage))
    attention = choose_attention(
        recipe.model.attention,
        kind=module.model.attention_kind,
        on_gpu=on_gpu,
        config=llava.config.text_config,
        packed=section.batch.packing,
    )
    if section.batch.packing:
        check_takes_packing(llava.model.language_model, longest=section.max_length)
    if attention.kernel != named:
        llava.model.language_model.set_attn_implementation(attention.kernel)
    n = num_visual_tokens(llava.config)
    processor = build_processor(
        start,
        aspect=section.image_aspect,
        resampling=recipe.model.image_resampling,
        config=llava.config,
        chat_template=chat_template,
    )
    dataset = build_dataset(recipe, stage, tokenizer=processor.tokenizer, num_visual_tokens=n)
    sampler = StepSampler(
        len(dataset),
        global_size=section.batch.global_size,
        micro_size=section.batch.micro_size,
        rank=rank,
        num_ranks=num_ranks,
        seed=section.seed,
        epochs=section.epochs,
        max_steps=section.max_steps,
        shows_images=dataset.shows_images
        if isinstance(dataset, MixDataset | Subset) and is_grouped(recipe, stage)
        else None,
        packed=section.batch.packing,
    )
    encoder = ConversationEncoder(
        processor.tokenizer,
        template=section.template,
        image_token_id=llava.config.image_token_id,
        num_visual_tokens=n,
        max_length=section.max_length,
        options=section.template_options,
    )
    own = llava.generation_config.eos_token_id
    llava.generation_config = generation_config(processor.tokenizer, own, trained=encoder.end_ids)
    pool_stage = recipe.pool_stage(stage)
    masking = build_masking(recipe, stage, num_steps=sampler.num_steps)
    replaces_or_reconstructs = module.model.pool is not None or module.objectives.reconstruction_weight > 0
    loader = StepLoader(
        dataset,
        encoder,
        processor.image_processor,
        sampler,
        masking=masking if replaces_or_reconstructs else None,
        num_visual_tokens=n,
        pad_token_id=processor.tokenizer.pad_token_id,
        seed=section.seed,
        length_multiple=GPU_LENGTH_MULTIPLE if on_gpu else 1,
        packing=row_limit(recipe, stage),
    )
    settings = TrainerSettings(
        num_steps=sampler.num_steps,
        learning_rates=learning_rates(recipe, stage, module),
        save_every=section.save_every,
        max_bad_images=recipe.data.max_bad_images,
        gradient_shares_every=pool_stage.log_gradient_shares_every if pool_stage is not None else None,
        seed=section.seed,
        means_per_micro_batch=section.loss_mean == "micro_batch",
        sources=dataset.source_names,
    )
    return StageParts(module, processor, loader, settings, n, attention)
