"""A stage's `deepspeed` block: keys of DeepSpeed's own config, as long as none says what the recipe's keys decide."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from croc_cli.names import StageName
from croc_cli.recipe.issues import Issue, KeyPath, dotted
from croc_cli.recipe.schema import Recipe, StageRecipe

AUTO = "auto"
"""What configs written for transformers' Trainer have in place of values; it counts as left out."""

SMALLEST_BUCKET = 50_000_000
"""Numbers of a bucket at least (DeepSpeed's default for what it gathers ahead): smaller ones are many messages."""

_Value = Callable[[Recipe, StageRecipe], Any]
_NEVER = object()

_DECIDED: Mapping[KeyPath, tuple[str, _Value]] = {
    ("train_batch_size",): (
        "batch.global_size",
        lambda _, stage: _NEVER if stage.batch.packing else stage.batch.global_size,
    ),
    ("train_micro_batch_size_per_gpu",): ("batch.micro_size", lambda _, stage: stage.batch.micro_size),
    ("gradient_clipping",): ("optimizer.clip_norm", lambda _, stage: stage.optimizer.clip_norm),
    ("bf16", "enabled"): ("precision", lambda _, stage: stage.precision == "bf16"),
    ("bfloat16", "enabled"): ("precision", lambda _, stage: stage.precision == "bf16"),
    ("fp16", "enabled"): ("precision", lambda _, _stage: False),
    ("amp", "enabled"): ("precision", lambda _, _stage: False),
    ("data_types", "grad_accum_dtype"): ("gradient_dtype", lambda _, stage: gradient_dtype(stage)),
    ("zero_optimization", "stage"): ("zero_stage", lambda _, stage: stage.zero_stage),
    ("zero_optimization", "offload_optimizer", "device"): ("offload", lambda _, stage: _device(stage, "optimizer")),
    ("zero_optimization", "offload_param", "device"): ("offload", lambda _, stage: _device(stage, "all")),
    ("zero_optimization", "cpu_offload"): ("offload", lambda _, stage: stage.offload != "none"),
    ("zero_optimization", "stage3_gather_16bit_weights_on_model_save"): ("zero_stage", lambda *_: True),
    ("tensorboard", "enabled"): ("monitor", lambda recipe, _: "tensorboard" in recipe.monitor),
    ("wandb", "enabled"): ("monitor", lambda recipe, _: "wandb" in recipe.monitor),
    ("optimizer",): ("optimizer", lambda *_: _NEVER),
    ("scheduler",): ("optimizer.schedule", lambda *_: _NEVER),
}
"""Key of DeepSpeed's config → the recipe's own key for it, below the stage (or `monitor`), and its value."""


def gradient_dtype(stage: StageRecipe) -> str:
    """Return the type in which a stage adds up gradients."""
    if stage.precision == "fp32":
        return "fp32"
    # DeepSpeed cannot mix types without ZeRO.
    return stage.gradient_dtype or ("fp32" if stage.zero_stage >= 1 else "bf16")


def layer_bucket(hidden_size: int) -> int:
    """Return how many numbers DeepSpeed moves at once under ZeRO-3: those of a decoder layer, which is gathered whole.

    A layer has about 12 · D² of them: 201 million at 7B, 315 million at 13B.
    """
    return max(SMALLEST_BUCKET, 12 * hidden_size**2)


def block_issues(recipe: Recipe, stage: StageName, section: StageRecipe) -> Iterator[Issue]:
    """Yield what a stage's `deepspeed` block says that contradicts the recipe's own keys."""
    block = section.deepspeed
    for path, (key, value) in _DECIDED.items():
        given = _at(block, path)
        if given is None or given == AUTO:
            continue
        decided = value(recipe, section)
        if (given == decided and type(given) is type(decided)) or (_is_number(given, decided) and given == decided):
            continue
        own: KeyPath = (key,) if key == "monitor" else (stage, *key.split("."))
        if decided is _NEVER:
            message = f"{dotted(own)} is where this recipe says it; leave it out here"
        else:
            shown = {True: "true", False: "false"}.get(decided, decided) if isinstance(decided, bool) else decided
            message = f"{given!r} contradicts {dotted(own)}, which makes it {shown}; leave it out here"
        yield Issue((stage, "deepspeed", *path), message, related=(own,))
    rounds = _at(block, ("gradient_accumulation_steps",))
    if rounds not in (None, AUTO):
        message = (
            f"follows from {stage}.batch and the number of ranks; leave it out here, and set {stage}.batch.micro_size"
        )
        yield Issue((stage, "deepspeed", "gradient_accumulation_steps"), message, related=((stage, "batch"),))


def lay_over(config: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with a block laid over it, mappings key by key; what is `auto` stays as it was."""
    merged = dict(config)
    for key, value in block.items():
        if value == AUTO:
            continue
        present = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = lay_over(present if isinstance(present, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def _at(block: Mapping[str, Any], path: KeyPath) -> Any:
    inside: Any = block
    for key in path:
        inside = inside.get(key) if isinstance(inside, Mapping) else None
    return inside


def _is_number(*values: object) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _device(stage: StageRecipe, what: str) -> str:
    """Return where DeepSpeed keeps `what`, the `optimizer` or `all`, by the stage's `offload`."""
    kept = {"none": (), "optimizer": ("optimizer",), "all": ("optimizer", "all")}[stage.offload]
    return "cpu" if what in kept else "none"
