"""What a training stage needs of a rank's memory, from sizes alone: pure arithmetic, nothing is loaded.

Letters: B rows of a micro-batch, T tokens of the longest row, n visual tokens of an image, D hidden size of the
LLM, I its intermediate size, L its layers, V its vocabulary, R ranks, e bytes of a number.

State follows mixed-precision AdamW (Rajbhandari et al., ZeRO, arXiv:1910.02054, section 3.1); activations are what
autograd keeps of transformers' Llama, counted operation by operation.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from croc_cli.names import StageName
from croc_cli.recipe.deepspeed_block import gradient_dtype, layer_bucket
from croc_cli.recipe.facts import LlmFacts, ModelFacts, TowerFacts, num_used_layers
from croc_cli.recipe.parameters import trained_counts
from croc_cli.recipe.recomputation import Recomputation, num_recomputed
from croc_cli.recipe.schema import Recipe, StageRecipe

REDUCE_BUCKET = 500_000_000
"""Numbers that DeepSpeed's gradient buckets hold (its default, which croc leaves but under ZeRO-3)."""
LIVE_PARAMETERS = 1_000_000_000
"""Parameters that ZeRO-3 keeps gathered at most (DeepSpeed's default)."""
WHOLE_GROUPS = ("vision_tower", "projector", "token_pool")
"""What ZeRO-3 keeps whole on each rank."""
_NUMBER = {"bf16": 2, "fp32": 4}
_MASTER_AND_MOMENTS = 12
"""Bytes a parameter: float32 weight and AdamW's two moments."""
_MOMENTS = 8


@dataclass(frozen=True)
class Choices:
    """What decides a stage's memory beside the model.

    Args:
        zero_stage: 0 to 3.
        num_ranks: R, of the whole run.
        micro_size: B.
        checkpointing: Which layers are computed again in the backward pass.
        offload: `none`, `optimizer` or `all`.
        on_gpu: Whether ranks compute on GPUs: there DeepSpeed's buckets take their whole size at once.
        gradient_bytes: Of a number in which gradients are added up.
    """

    zero_stage: int
    num_ranks: int
    micro_size: int
    checkpointing: Recomputation
    offload: str
    on_gpu: bool
    gradient_bytes: int


@dataclass(frozen=True)
class MemoryParts:
    """Bytes of one rank.

    Args:
        weights: Of all parts, trained and frozen.
        gradients: Of trained weights, where they are kept beside activations.
        optimizer: float32 copies and moments.
        activations: What the longest micro-batch keeps for its backward pass, and works with.
        logits: Of the tokens that are trained, with their softmax and gradient.
        buffers: DeepSpeed's buckets, and gathered weights under ZeRO-3.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int

    @property
    def total(self) -> int:
        """Bytes of the rank."""
        return sum(asdict(self).values())


def choices_of(section: StageRecipe, *, num_ranks: int, on_gpu: bool) -> Choices:
    """Return what a recipe's stage chooses; recomputation that is `auto` counts as full."""
    setting = section.gradient_checkpointing
    return Choices(
        zero_stage=section.zero_stage,
        num_ranks=num_ranks,
        micro_size=section.batch.micro_size,
        checkpointing="full" if setting == "auto" else setting,
        offload=section.offload,
        on_gpu=on_gpu,
        gradient_bytes=_NUMBER[gradient_dtype(section)],
    )


def stage_memory(
    recipe: Recipe,
    stage: StageName,
    facts: ModelFacts,
    counts: dict[str, int],
    choices: Choices,
    *,
    length: int,
    images_per_row: int = 1,
) -> MemoryParts:
    """Return a rank's memory at its peak, within a step.

    Args:
        recipe: The recipe.
        stage: The stage.
        facts: Of its tower and LLM; both known.
        counts: Parameters of each group.
        choices: What else decides.
        length: T.
        images_per_row: More than one where samples are packed.
    """
    section = recipe.stage(stage)
    trained = trained_counts(recipe, stage, counts)
    number = _NUMBER[section.precision]
    assert facts.llm is not None
    weights, gradients, optimizer, buffers = _state(
        sum(counts.values()),
        sum(trained.values()),
        number,
        choices,
        whole=sum(counts.get(group, 0) for group in WHOLE_GROUPS),
        bucket=layer_bucket(facts.llm.hidden_size or 0) if choices.zero_stage == 3 else REDUCE_BUCKET,
    )
    assert facts.tower is not None
    images = choices.micro_size * images_per_row
    pool_stage = recipe.pool_stage(stage)
    mixed = pool_stage is not None and pool_stage.attention != "causal"
    text = max(1, length - images_per_row * facts.tower.num_visual_tokens)
    # logits, their softmax and gradient in float32; in bf16 the logits themselves and their gradient beside them
    logits = choices.micro_size * text * (facts.llm.vocab_size or 0) * (12 if number == 4 else 12 + 2 * number)
    kept, working = _llm_activations(
        facts.llm,
        rows=choices.micro_size,
        length=length,
        number=number,
        trained="llm" in trained,
        checkpointing=choices.checkpointing,
        dense_mask=mixed or (section.batch.packing and not choices.on_gpu),
        eager=recipe.model.attention == "eager",
    )
    # logits are gone by the time the backward pass works on the last layer
    activations = kept + max(0, working - logits)
    activations += _visual_activations(facts.tower, facts.llm, images=images, number=number)
    if "vision_tower" in trained:
        used = num_used_layers(recipe.model.vision_feature_layer, facts.tower.num_layers)
        activations += _tower_activations(
            facts.tower, used, images=images, number=number, checkpointing=choices.checkpointing
        )
    if pool_stage is not None:
        masked = pool_stage.mask.num_masked(facts.tower.num_visual_tokens)
        activations += images * masked * pool_stage.pool.size * 4  # costs, float32
    if choices.zero_stage <= 1 and section.batch.global_size == choices.micro_size * choices.num_ranks:
        # with one micro-batch a step, gradients grow into the place of activations that are done with
        gradients = max(0, gradients - activations - logits)
    return MemoryParts(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        logits=logits,
        buffers=buffers,
    )


def _state(
    total: int, trained: int, number: int, choices: Choices, *, whole: int, bucket: int
) -> tuple[int, int, int, int]:
    """Return the bytes of weights, gradients, optimizer and buffers.

    Args:
        total, trained: Parameters.
        number: e.
        choices: What else decides.
        whole: Parameters that ZeRO-3 keeps whole on each rank.
        bucket: Numbers of a gradient bucket.
    """
    ranks, zero = choices.num_ranks, choices.zero_stage
    master = _MASTER_AND_MOMENTS if number == 2 or zero >= 1 else _MOMENTS
    weights = ((total - whole) // ranks + whole if zero == 3 else total) * number
    gradients = trained * choices.gradient_bytes // (ranks if zero >= 2 else 1)
    optimizer = trained * master // (ranks if zero >= 1 else 1)
    buffers = 0
    if zero >= 1:
        buffers = (2 * bucket if choices.on_gpu else min(bucket, trained)) * number  # two with overlapped communication
    if zero == 3 and ranks > 1:
        buffers += min(LIVE_PARAMETERS, total) * number
    if zero == 0 and number == 2:
        optimizer += trained * 4  # gradients are added up in float32
    if choices.on_gpu and choices.offload != "none":
        optimizer = 0
        if choices.offload == "all":
            weights = 0
            buffers += min(LIVE_PARAMETERS, total) * number
    return weights, gradients, optimizer, buffers


def _llm_activations(
    llm: LlmFacts,
    *,
    rows: int,
    length: int,
    number: int,
    trained: bool,
    checkpointing: Recomputation,
    dense_mask: bool,
    eager: bool,
) -> tuple[int, int]:
    """Return what is kept for the backward pass, and what the backward pass of one layer works with."""
    tokens = rows * length
    hidden, inner, layers = llm.hidden_size or 0, llm.intermediate_size or 0, llm.num_layers or 0
    heads, size = llm.num_heads or 0, llm.head_size or 0
    queries, keys = heads * size, (llm.num_kv_heads or heads) * size
    # of each layer: what two norms keep (float32), and with trained weights the inputs of its seven matrices
    kept = 2 * 4 * hidden + number * (queries + 2 * keys + queries) + number * 3 * inner
    if trained:
        kept += number * (2 * hidden + hidden + queries + hidden + inner)
    attention = 3 * number * heads * length if eager else 4 * heads  # of a token: its row of the matrix, or one sum
    layer = tokens * (kept + attention)
    working = tokens * number * (2 * inner + 2 * hidden)  # of the layer whose backward pass runs
    again = num_recomputed(checkpointing, layers)
    whole = tokens * number * hidden * again + (layers - again) * layer
    mask = rows * length * length * (1 + number) if dense_mask else 0
    ends = tokens * number * hidden * 3 + tokens * 4 * hidden * 2  # embeddings with visual tokens put in; the last norm
    return whole + mask + ends, working + (layer if again else 0)


def _visual_activations(tower: TowerFacts, llm: LlmFacts, *, images: int, number: int) -> int:
    """Return what the tower works with, the hidden states that it returns, and what the projector keeps."""
    patches = tower.num_visual_tokens
    pixels = images * tower.num_channels * tower.image_size**2 * (4 + number)
    working = images * (patches + 1) * number * (4 * tower.hidden_size + 2 * tower.intermediate_size)
    states = (
        images * (patches + 1) * number * tower.hidden_size * (tower.num_layers + 1)
    )  # all hidden states are returned
    kept = images * patches * number * (tower.hidden_size + 4 * (llm.hidden_size or 0))
    return pixels + max(working, 0) + states + kept


def _tower_activations(
    tower: TowerFacts, layers: int, *, images: int, number: int, checkpointing: Recomputation
) -> int:
    """Return what a trained tower keeps for its backward pass beside its hidden states, which count already.

    Of each layer: the outputs of two norms, queries, keys, values, the output of attention and the state after it; and
    at the MLP's inner width the activation's input and output, between which CLIP's quick GELU keeps a sigmoid.
    """
    tokens = images * (tower.num_visual_tokens + (1 if tower.has_class_token else 0))
    layer = tokens * number * (7 * tower.hidden_size + (3 if tower.has_class_token else 2) * tower.intermediate_size)
    again = num_recomputed(checkpointing, layers)
    return layer * (layers - again + (1 if again else 0))


def with_changes(choices: Choices, **changes: Any) -> Choices:
    """Return choices with some of them changed."""
    return replace(choices, **changes)
