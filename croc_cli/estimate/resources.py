"""What a recipe will take before anything runs: memory by part, disk, steps, operations, hours, and what to change.

Letters as in `croc_cli.estimate.memory`.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from croc_cli.errors import UsageError
from croc_cli.estimate.memory import Choices, MemoryParts, choices_of, stage_memory, with_changes
from croc_cli.estimate.speed import StageSpeed, samples_per_pass, stage_case
from croc_cli.launch.plan import count_samples, count_steps
from croc_cli.names import STAGES, StageName
from croc_cli.recipe.facts import ModelFacts, model_facts
from croc_cli.recipe.parameters import parameter_counts, trained_counts
from croc_cli.recipe.paths import data_path
from croc_cli.recipe.recomputation import RECOMPUTATIONS, Recomputation, num_recomputed
from croc_cli.recipe.schema import LlavaJsonData, Recipe, ScenesData, StageRecipe
from croc_cli.sources.mix.recipe_mix import listed_rows

GPU_PEAK_FLOPS = {"bf16": 312e12, "fp32": 19.5e12}
"""An A100's, by NVIDIA's data sheet; float32 without TF32."""
CPU_PEAK_FLOPS = 60e9
"""A core's in float32: eight numbers a cycle, twice, at some 3.8 GHz; what its matrix products reach."""
PLANNED_MEMORY = 80 * 10**9
"""Bytes of a GPU that is planned for where there is none: the paper's A100s."""
UTILISATION = 0.4
"""Share of a GPU's peak that training reaches where nothing was measured."""
GPU_RESERVE = 2 * 2**30
"""Bytes of a GPU for its context, its libraries and what fragments."""
AUTO_SHARE = 0.9
"""Share of a rank's usable memory that `gradient_checkpointing: auto` fills at most."""
TEXT_TOKENS = 200
"""Text tokens of a sample where the data is not here: a detailed caption with its request."""
SCENE_TEXT_TOKENS = {"brief_captions": 18, "detailed_captions": 105, "questions": 127}
"""The same of drawn scenes by task, as runs of nano counted them."""
_CHARACTERS_OF_TOKEN = 4.0
"""Characters of a token of English text, about, whatever the tokenizer."""
_SAMPLED_BYTES = 1 << 20
_TEXT_VALUE = re.compile(rb'"value"\s*:\s*"((?:[^"\\]|\\.)*)"')
PAPER_SAMPLES = {"align": 558_128, "reconstruct": 1_547_901, "finetune": 665_298}
"""Samples of each stage in the paper, for recipes whose data is not here."""
_RESUME_BYTES = 16
"""Bytes a trained parameter in what a checkpoint keeps to go on from."""
_MOST_GPUS = 1024

TotalBytes = Callable[[Choices], int]
"""A rank's memory under given choices."""


@dataclass(frozen=True)
class Hardware:
    """What a plan is made for.

    Args:
        num_ranks: R.
        on_gpu: GPUs, or processes on CPU cores.
        memory_bytes: Of one rank.
        threads: CPU threads of one rank.
        utilisation: Share of the peak that training reaches.
        speeds: What was measured on this machine, by stage; None for operations by the peak and the utilisation.
    """

    num_ranks: int
    on_gpu: bool
    memory_bytes: int
    threads: int
    utilisation: float
    speeds: Mapping[StageName, StageSpeed] | None = None

    @property
    def usable_bytes(self) -> int:
        """Bytes of a rank that training may fill."""
        return self.memory_bytes - (GPU_RESERVE if self.on_gpu else 0)

    def peak_flops(self, precision: str) -> float:
        """Operations a second of one rank at best."""
        return GPU_PEAK_FLOPS[precision] if self.on_gpu else CPU_PEAK_FLOPS * self.threads


@dataclass(frozen=True)
class StageResources:
    """What one stage takes.

    Args:
        stage: Which one.
        choices: The recipe's.
        length: Tokens of the longest row.
        is_packed: Whether rows hold several samples.
        memory: ZeRO stage → a rank's memory, all other choices as in the recipe.
        samples: Samples of the whole stage.
        samples_are_known: Whether the data is here; otherwise they are the catalogue's, or the paper's.
        steps: Optimizer steps.
        tokens: Tokens of the whole stage, about.
        flops: Operations of the whole stage.
        hours: By what was measured, or at the utilisation that was asked for.
        checkpoint_bytes: Disk of one checkpoint.
        disk_bytes: Disk of all that are kept, and of the one being written.
        feature_bytes: Disk of `data.cache_features` at most; 0 where it is off.
        recomputation: Way of computing layers again → a rank's memory with it, and a sample's operations against none.
        fits: Whether the recipe's own choices fit.
        changes: `key=value` of what to set so that it fits; empty where it does, None where nothing helps.
    """

    stage: StageName
    choices: Choices
    length: int
    is_packed: bool
    memory: dict[int, MemoryParts]
    samples: int
    samples_are_known: bool
    steps: int
    tokens: int
    flops: float
    hours: float
    checkpoint_bytes: int
    disk_bytes: int
    feature_bytes: int
    recomputation: dict[Recomputation, tuple[int, float]]
    fits: bool
    changes: tuple[str, ...] | None


def recipe_resources(recipe: Recipe, hardware: Hardware) -> list[StageResources]:
    """Return what each enabled stage of a recipe takes.

    Raises:
        UsageError: The sizes of its tower or LLM are not known here.
    """
    facts = model_facts(recipe.model)
    for part, known in (("vision_tower", facts.tower is not None), ("llm", "llm" in parameter_counts(recipe, "align"))):
        if not known:
            raise UsageError(
                f"model.{part}: the sizes of {getattr(recipe.model, part)} are not known here",
                hint="give a folder with its config.json, or download it once; nothing else of it is read",
            )
    return [stage_resources(recipe, stage, facts, hardware) for stage in STAGES if recipe.stage(stage).enabled]


def stage_resources(recipe: Recipe, stage: StageName, facts: ModelFacts, hardware: Hardware) -> StageResources:
    """Return what one stage takes."""
    assert facts.tower is not None
    assert facts.llm is not None
    section = recipe.stage(stage)
    counts = parameter_counts(recipe, stage)
    choices = choices_of(section, num_ranks=hardware.num_ranks, on_gpu=hardware.on_gpu)
    longest = min(section.max_length, facts.llm.max_positions or section.max_length)
    sample_tokens = min(longest, tokens_of_sample(recipe, stage, facts))
    length = section.row_tokens or longest
    images = 1 if section.row_tokens is None else -(-length // sample_tokens)

    def memory(chosen: Choices) -> MemoryParts:
        return stage_memory(recipe, stage, facts, counts, chosen, length=length, images_per_row=images)

    sizes = {name: memory(with_changes(choices, checkpointing=name)).total for name in RECOMPUTATIONS}
    if section.gradient_checkpointing == "auto":
        choices = with_changes(choices, checkpointing=first_that_fits(sizes, hardware))
        section = section.model_copy(update={"gradient_checkpointing": choices.checkpointing})
    known = count_samples(recipe, stage)
    steps = count_steps(section, known or listed_rows(recipe, stage) or PAPER_SAMPLES[stage])
    assert steps is not None
    samples = steps * section.batch.global_size

    def cost_of(name: Recomputation) -> float:
        chosen = section.model_copy(update={"gradient_checkpointing": name})
        return sample_flops(chosen, facts, counts, tokens=sample_tokens)

    flops = samples * cost_of(choices.checkpointing)
    trained = sum(trained_counts(recipe, stage, counts).values())
    number = 2 if section.precision == "bf16" else 4
    checkpoint = sum(counts.values()) * number + trained * _RESUME_BYTES
    picture = facts.tower.num_visual_tokens * facts.tower.hidden_size * number
    fits = memory(choices).total <= hardware.usable_bytes
    return StageResources(
        stage=stage,
        choices=choices,
        length=length,
        is_packed=section.batch.packing,
        memory={zero: memory(with_changes(choices, zero_stage=zero)) for zero in range(4)},
        samples=samples,
        samples_are_known=known is not None or section.max_steps is not None,
        steps=steps,
        tokens=samples * sample_tokens,
        flops=flops,
        hours=_hours(recipe, stage, hardware, flops=flops, steps=steps, epoch=known, tokens=sample_tokens),
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint * (section.keep_checkpoints + 1),
        feature_bytes=picture * min(samples, known or samples) if recipe.data.cache_features else 0,
        recomputation={name: (size, cost_of(name) / cost_of("none")) for name, size in sizes.items()},
        fits=fits,
        changes=() if fits else changes_that_fit(stage, section, choices, hardware, lambda one: memory(one).total),
    )


def first_that_fits(sizes: Mapping[Recomputation, int], hardware: Hardware) -> Recomputation:
    """Return the fastest way of recomputation whose memory leaves a tenth free, as an estimate may be off by that.

    Args:
        sizes: Way → bytes of a rank.
        hardware: What a rank has.
    """
    room = AUTO_SHARE * hardware.usable_bytes
    return next((name for name in RECOMPUTATIONS if sizes[name] <= room), "full")


def tokens_of_sample(recipe: Recipe, stage: StageName, facts: ModelFacts) -> int:
    """Return the tokens of a sample on average, visual ones included; an estimate from the text where it is here."""
    assert facts.tower is not None
    source = recipe.data.source(stage)
    visual, text = facts.tower.num_visual_tokens, TEXT_TOKENS
    if isinstance(source, ScenesData):
        text = SCENE_TEXT_TOKENS["brief_captions" if source.brief else source.task]
        visual = round(visual * (1 - source.text_only_share))
    elif isinstance(source, LlavaJsonData) and (path := data_path(recipe.data.root, source.path)).is_file():
        with path.open("rb") as stream:
            sampled = stream.read(_SAMPLED_BYTES)
        if rows := sampled.count(b'"conversations"'):
            text = round(sum(len(value) for value in _TEXT_VALUE.findall(sampled)) / rows / _CHARACTERS_OF_TOKEN) or 1
    return visual + text


def speed_cases(recipe: Recipe, *, device: str) -> dict[StageName, dict[str, Any]]:
    """Return what `measured_speeds` is to measure for a recipe's stages; none where sizes are not known.

    Args:
        recipe: The recipe.
        device: `cpu` or `cuda`.
    """
    facts = model_facts(recipe.model)
    if facts.tower is None or facts.llm is None or "llm" not in parameter_counts(recipe, "align"):
        return {}
    cases = {}
    for stage in (name for name in STAGES if recipe.stage(name).enabled):
        length = min(recipe.stage(stage).max_length, facts.llm.max_positions or sys.maxsize)
        tokens = min(length, tokens_of_sample(recipe, stage, facts))
        cases[stage] = stage_case(recipe, stage, facts, tokens=tokens, device=device)
    return cases


def _hours(
    recipe: Recipe, stage: StageName, hardware: Hardware, *, flops: float, steps: int, epoch: int | None, tokens: int
) -> float:
    """Return the hours of a stage: what was measured, by its micro-batches, or operations by speed."""
    section = recipe.stage(stage)
    speed = hardware.speeds.get(stage) if hardware.speeds else None
    if speed is None:
        return flops / (hardware.num_ranks * hardware.peak_flops(section.precision) * hardware.utilisation) / 3600
    samples_of_rank = steps * section.batch.global_size / hardware.num_ranks
    pictures = samples_of_rank
    if recipe.data.cache_features is not None and epoch is not None:
        pictures = min(pictures, epoch / hardware.num_ranks)  # later epochs read what the first one kept
    passes = samples_of_rank / samples_per_pass(section, tokens=tokens)
    seconds = passes * speed.micro_seconds + steps * speed.update_seconds
    return (seconds + pictures * speed.picture_seconds + speed.start_seconds) / 3600


def sample_flops(section: StageRecipe, facts: ModelFacts, counts: dict[str, int], *, tokens: int) -> float:
    """Return the operations of one sample: 2 a parameter and token forwards, as many for each gradient.

    A frozen LLM needs gradients of its inputs alone, a frozen tower none; a layer that is computed again costs another
    forward pass.
    """
    assert facts.tower is not None
    assert facts.llm is not None
    trained = section.learning_rate.trained()
    layers = facts.llm.num_layers or 1
    again = num_recomputed(section.gradient_checkpointing, layers) / layers
    passes = (3 if "llm" in trained else 2) + again
    embeddings = (facts.llm.vocab_size or 0) * (facts.llm.hidden_size or 0)  # looked up, not multiplied
    matrices = 2 * (counts["llm"] - embeddings) * tokens
    attention = 4 * tokens**2 * (facts.llm.num_heads or 0) * (facts.llm.head_size or 0) * (facts.llm.num_layers or 0)
    # the few layers behind the projected one, which only run forwards, count as the others
    tower_passes = 3 + again if "vision_tower" in trained else 1
    tower = tower_passes * 2 * counts["vision_tower"] * (facts.tower.num_visual_tokens + 1)
    projector = 3 * 2 * counts["projector"] * facts.tower.num_visual_tokens
    return float(passes * (matrices + attention) + tower + projector)


def changes_that_fit(
    stage: StageName, section: StageRecipe, choices: Choices, hardware: Hardware, total: TotalBytes
) -> tuple[str, ...] | None:
    """Return the first changes, in the order in which they cost least, with which a stage fits; None if none does."""
    for chosen in _tries(choices):
        divides = _divides(section, chosen)
        if not divides or total(chosen) > hardware.usable_bytes:
            continue
        changed = _without_needless(choices, chosen, section, hardware, total)
        return tuple(_as_settings(stage, choices, changed))
    return None


def _divides(section: StageRecipe, choices: Choices) -> bool:
    """Tell whether a step is whole micro-batches on every rank; packed rows always are."""
    per_pass = choices.micro_size * choices.num_ranks
    return section.batch.packing or section.batch.global_size % per_pass == 0


def _tries(choices: Choices) -> Iterator[Choices]:
    """Yield choices that need less and less memory: what costs time only, then communication, then machines."""
    chosen = choices
    for recomputation in RECOMPUTATIONS[RECOMPUTATIONS.index(choices.checkpointing) :]:
        chosen = with_changes(chosen, checkpointing=recomputation)
        yield chosen
    while chosen.micro_size > 1:
        chosen = with_changes(chosen, micro_size=chosen.micro_size // 2)
        yield chosen
    for zero in range(chosen.zero_stage + 1, 4):
        chosen = with_changes(chosen, zero_stage=zero)
        yield chosen
    if chosen.on_gpu:
        for offload in ("optimizer", "all"):
            yield with_changes(chosen, offload=offload)
        while chosen.num_ranks < _MOST_GPUS:
            chosen = with_changes(chosen, num_ranks=2 * chosen.num_ranks)
            yield chosen


def _without_needless(
    before: Choices, chosen: Choices, section: StageRecipe, hardware: Hardware, total: TotalBytes
) -> Choices:
    """Take back each change that is not needed once the others are made."""
    for name in ("checkpointing", "micro_size", "zero_stage"):
        back = with_changes(chosen, **{name: getattr(before, name)})
        divides = _divides(section, back)
        if divides and total(back) <= hardware.usable_bytes:
            chosen = back
    return chosen


def _as_settings(stage: StageName, before: Choices, after: Choices) -> Iterator[str]:
    keys = {
        "checkpointing": f"{stage}.gradient_checkpointing",
        "micro_size": f"{stage}.batch.micro_size",
        "zero_stage": f"{stage}.zero_stage",
        "offload": f"{stage}.offload",
        "num_ranks": "launch.num_ranks",
    }
    for name, key in keys.items():
        value = getattr(after, name)
        if value != getattr(before, name):
            yield f"{key}={value}"


MOST_MEMORY = 10**15


def parse_memory(text: str) -> int:
    """Return the bytes of `80GB`, `24 GiB` or a plain number of bytes.

    Raises:
        UsageError: It is none of these.
    """
    units = {
        "": 1,
        "b": 1,
        "mb": 10**6,
        "mib": 2**20,
        "gb": 10**9,
        "gib": 2**30,
        "g": 10**9,
        "tb": 10**12,
        "pb": 10**15,
    }
    digits = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text.strip()[len(digits) :].strip().lower()
    try:
        number = float(digits) * units[unit]
    except (ValueError, KeyError):
        number = 0.0
    if not 1 <= number <= MOST_MEMORY:
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise UsageError(
            f"--gpu-memory {shown}: no amount of memory of one GPU", hint="such as 80GB or 24GiB; 1PB is the most"
        )
    return int(number)
