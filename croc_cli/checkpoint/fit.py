"""Do weights fit the config that lies beside them? Names, shapes and types, before anything is loaded."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

from croc_cli.checkpoint.formats.stock import repaired_name, stock_model_name
from croc_cli.checkpoint.headers import SavedTensor
from croc_cli.checkpoint.metadata import DAMAGED
from croc_cli.errors import UsageError, one_line

_NAMED = 3
"""Weights that a message names; the rest is counted."""


def model_weights(config: LlavaConfig, config_file: Path, *, num_saved: int) -> dict[str, Tensor]:
    """Return the weights of a config's model by name, without memory; the head only where it is not the embeddings.

    Args:
        config: The config.
        config_file: Where it comes from.
        num_saved: Weights that there are; a config of more layers is damaged, and building it could take for ever.

    Raises:
        UsageError: No model can be made by the config.
    """
    for part in (config.text_config, config.vision_config):
        if (layers := getattr(part, "num_hidden_layers", 0)) > num_saved:
            raise UsageError(
                f"{config_file}: {part.model_type} has {layers:,} layers, and {num_saved:,} weights are there",
                hint=DAMAGED,
            )
    try:
        with torch.device("meta"):
            own: dict[str, Tensor] = LlavaForConditionalGeneration(config).state_dict()
    except Exception as error:  # a size of zero, a head that does not divide, an unknown activation
        raise UsageError(f"{config_file} describes no model: {one_line(error)}", hint=DAMAGED) from error
    if config.text_config.tie_word_embeddings:
        own.pop("lm_head.weight", None)
    return own


def check_saved(folder: Path, saved: Mapping[str, SavedTensor], own: Mapping[str, Tensor], config: LlavaConfig) -> None:
    """Check what a stock folder's headers list against the weights of its model.

    Raises:
        UsageError: A weight is missing, unexpected, of another shape or type; it and its file are named.
    """
    found = {stock_model_name(name): tensor for name, tensor in saved.items()}
    if config.text_config.tie_word_embeddings:
        found.pop("lm_head.weight", None)
    missing, unexpected = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    hint = f"{DAMAGED}, or take what is there: croc convert SRC DST --allow-partial"
    if missing and own.keys() <= {repaired_name(name) for name in saved}:
        hint = f"it was saved with wrong names, which croc repairs: croc convert {folder} DST"
    if missing:
        raise UsageError(f"{folder} is incomplete: {_counted(missing)} missing, such as {missing[0]}", hint=hint)
    if unexpected:
        file = found[unexpected[0]].file
        raise UsageError(
            f"{file} holds more than a LLaVA: {_counted(unexpected)} unexpected, such as {unexpected[0]}", hint=hint
        )
    for name, tensor in own.items():
        _check_one(name, found[name].shape, found[name].is_float, tensor, config, found[name].file)


def checked_weights(
    weights: dict[str, Tensor],
    config: LlavaConfig,
    folder: Path,
    *,
    allow_partial: bool,
    say: Callable[[str], None],
) -> dict[str, Tensor]:
    """Return exactly the weights that the model has.

    Raises:
        UsageError: Some have another shape or type, or some are missing or unexpected and `allow_partial` is off.
    """
    own = model_weights(config, folder / "config.json", num_saved=len(weights))
    if config.text_config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    for name in sorted(own.keys() & weights.keys()):
        tensor = weights[name]
        _check_one(name, tuple(tensor.shape), tensor.is_floating_point(), own[name], config, folder)
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    problems = [
        f"{_counted(names)} {what} ({_listed(names)})"
        for what, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if problems and not allow_partial:
        raise UsageError(
            f"{folder}: {'; '.join(problems)}",
            hint="croc convert with --allow-partial leaves out unexpected ones and draws missing ones at random",
        )
    for problem in problems:
        say(f"warning: {problem}, and --allow-partial lets that pass")
    drawn = {name: _drawn(own[name], name, config) for name in missing}
    return {name: weights[name] for name in own if name in weights} | drawn


def _check_one(
    name: str, shape: tuple[int, ...], is_float: bool, own: Tensor, config: LlavaConfig, where: Path
) -> None:
    if shape != tuple(own.shape):
        empty = "; a weight of no entries is what a broken save under ZeRO-3 leaves" if 0 in shape else ""
        raise UsageError(
            f"{where}: {name} is {shape}, expected {tuple(own.shape)} by config.json, whose vision tower is"
            f" {config.vision_config.hidden_size} wide and whose LLM {config.text_config.hidden_size}{empty}",
            hint="the weights belong to another config.json or vision tower (--vision-tower), or are damaged",
        )
    if is_float != own.is_floating_point():
        kinds = ["floats", "integers"] if own.is_floating_point() else ["integers", "floats"]
        raise UsageError(f"{where}: {name} holds {kinds[1]}, expected {kinds[0]}", hint=DAMAGED)


def _drawn(like: Tensor, name: str, config: LlavaConfig) -> Tensor:
    """Return first weights for a weight that a checkpoint lacks: normal for matrices, else ones or zeros."""
    if like.ndim > 1:
        seed = torch.Generator().manual_seed(0)
        spread = float(getattr(config.text_config, "initializer_range", 0.02))
        return (torch.randn(like.shape, generator=seed) * spread).to(config.dtype)
    return torch.full(like.shape, 0.0 if name.endswith("bias") else 1.0, dtype=config.dtype)


def _counted(names: Collection[str]) -> str:
    return "1 weight is" if len(names) == 1 else f"{len(names)} weights are"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
