"""Counts a model's parameters from its config alone, for `--dry-run`.

Letters: D hidden size of the LLM, V of the vision tower, I intermediate size, n visual tokens of an image, N pool size.
"""

from collections.abc import Mapping
from dataclasses import replace

from croc_cli.names import StageName
from croc_cli.recipe.facts import LlmFacts, TowerFacts, is_counted, model_facts, num_used_layers
from croc_cli.recipe.schema import Recipe


def parameter_counts(recipe: Recipe, stage: StageName) -> dict[str, int]:
    """Return the parameters of each group that the stage holds, trained or not.

    Args:
        recipe: Its model, and what stage 1.5 adds.
        stage: Only `reconstruct` has a token pool and a head.

    Returns:
        Counts under "vision_tower", "projector", "llm", "token_pool" and "head". A group whose sizes are not at hand is
        left out. The LLM is counted as its config says, without the row that `<image>` may add to its embeddings.
    """
    facts = model_facts(recipe.model)
    hidden = facts.llm.hidden_size if facts.llm is not None else None
    counts: dict[str, int] = {}
    if facts.tower is not None:
        counts["vision_tower"] = tower_parameters(facts.tower)
        if hidden is not None:
            counts["projector"] = projector_parameters(facts.tower.hidden_size, hidden)
    if facts.llm is not None and (llm := llm_parameters(facts.llm)) is not None:
        counts["llm"] = llm
    if (section := recipe.pool_stage(stage)) is not None and hidden is not None:
        counts["token_pool"] = section.pool.size * hidden
        head = section.reconstruction.head
        if head == "linear":
            counts["head"] = _linear(hidden, hidden)
        elif head == "bert" and facts.num_visual_tokens is not None:
            counts["head"] = bert_head_parameters(hidden, facts.num_visual_tokens)
    return counts


def trained_counts(recipe: Recipe, stage: StageName, counts: Mapping[str, int]) -> dict[str, int]:
    """Return the parameters of each group that the stage trains, without those of the tower that nothing depends on.

    Args:
        recipe: Its learning rates, its tower and the hidden state of it that is projected.
        stage: The stage.
        counts: What `parameter_counts` returned, or a part of it.
    """
    trained = {group: counts[group] for group in recipe.stage(stage).learning_rate.trained() if group in counts}
    tower = model_facts(recipe.model).tower
    if "vision_tower" in trained and tower is not None:
        trained["vision_tower"] -= unused_tower_parameters(tower, recipe.model.vision_feature_layer)
    return trained


def unused_tower_parameters(tower: TowerFacts, feature_layer: int) -> int:
    """Return the parameters behind the projected hidden state: later layers, the last norm, SigLIP's pooling head."""
    used = num_used_layers(feature_layer, tower.num_layers)
    kept = replace(tower, num_layers=used)
    behind = tower_parameters(tower) - tower_parameters(kept) + _norm(tower.hidden_size)
    return behind if tower.has_class_token else behind + _pooling_head(tower)


def tower_parameters(tower: TowerFacts) -> int:
    """Return the parameters of `transformers.CLIPVisionModel`, or of `SiglipVisionModel` with its pooling head."""
    width = tower.hidden_size
    patches = tower.num_channels * tower.patch_size**2 * width
    mlp = _linear(width, tower.intermediate_size) + _linear(tower.intermediate_size, width)
    layer = 4 * _linear(width, width) + mlp + 2 * _norm(width)
    positions = tower.num_visual_tokens * width
    if tower.has_class_token:
        return 2 * width + patches + positions + tower.num_layers * layer + 2 * _norm(width)
    return width + patches + positions + tower.num_layers * layer + _norm(width) + _pooling_head(tower)


def _pooling_head(tower: TowerFacts) -> int:
    """Return the parameters of SigLIP's pooling head: a probe, attention, a norm and an MLP."""
    width, inner = tower.hidden_size, tower.intermediate_size
    return width + 4 * _linear(width, width) + _norm(width) + _linear(width, inner) + _linear(inner, width)


def projector_parameters(tower_hidden: int, llm_hidden: int) -> int:
    """Return the parameters of LLaVA's projector: V → D, GELU, D → D."""
    return _linear(tower_hidden, llm_hidden) + _linear(llm_hidden, llm_hidden)


def llm_parameters(llm: LlmFacts) -> int | None:
    """Return the parameters of a Llama-shaped causal LLM, or None where its sizes or its shape are not known."""
    sizes = (llm.hidden_size, llm.num_layers, llm.num_heads, llm.num_kv_heads, llm.head_size, llm.intermediate_size)
    if not is_counted(llm) or llm.vocab_size is None or None in sizes:
        return None
    hidden, layers, heads, kv_heads, head_size, intermediate = (size or 0 for size in sizes)
    has_output_bias = llm.attention_bias and llm.model_type != "qwen2"
    attention = (
        _linear(hidden, heads * head_size, bias=llm.attention_bias)
        + 2 * _linear(hidden, kv_heads * head_size, bias=llm.attention_bias)
        + _linear(heads * head_size, hidden, bias=has_output_bias)
    )
    mlp = 2 * _linear(hidden, intermediate, bias=llm.mlp_bias) + _linear(intermediate, hidden, bias=llm.mlp_bias)
    embeddings = llm.vocab_size * hidden * (1 if llm.tied_embeddings else 2)
    return embeddings + layers * (attention + mlp + 2 * hidden) + hidden


def bert_head_parameters(hidden: int, num_visual_tokens: int) -> int:
    """Return the parameters of the released code's head: positions, one BERT layer of 4 D inside, one linear layer."""
    mlp = _linear(hidden, 4 * hidden) + _linear(4 * hidden, hidden)
    layer = 4 * _linear(hidden, hidden) + mlp + 2 * _norm(hidden)
    return num_visual_tokens * hidden + layer + _linear(hidden, hidden)


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    return inputs * outputs + (outputs if bias else 0)


def _norm(width: int) -> int:
    return 2 * width
