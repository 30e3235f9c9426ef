"""LoRA adapters of the original LLaVA code, added to the weights they were trained on (arXiv:2106.09685, section 4.1).

Letters: r rank of an adapter, in/out the dimensions of the layer it belongs to.
"""

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from croc_cli.checkpoint.weights import ADAPTER_FILES, EXTRA_FILE, first_file, read_file
from croc_cli.errors import UsageError
from croc_cli.reading import parse_json

CONFIG_FILE = "adapter_config.json"
_PREFIX = "base_model.model."
_REFUSED = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "megatron_config")
"""Settings of PEFT that change what is added; none of LLaVA's own adapters has them."""


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return adapter_config.json.

    Raises:
        UsageError: It cannot be read, or it is more than plain LoRA.
    """
    file = folder / CONFIG_FILE
    try:
        config = parse_json(file.read_bytes())
        kind = str(config["peft_type"])
        complete = config["r"] > 0 and config["lora_alpha"] is not None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read: {error}", hint="PEFT writes it beside the adapter") from error
    odd = [key for key in _REFUSED if config.get(key)]
    if kind != "LORA" or not complete or odd or config.get("bias", "none") != "none":
        what = f"{odd[0]} {config[odd[0]]!r}" if odd else f"{kind}, bias {config.get('bias')!r}"
        raise UsageError(
            f"{file}: only plain LoRA is read, not {what}",
            hint="merge it with PEFT's merge_and_unload and convert that",
        )
    return dict(config)


def merge_lora(weights: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Return the base's weights with the adapter added, and with what was trained beside it.

    Args:
        weights: The base's, by original names; not changed.
        folder: Of the adapter.

    Raises:
        UsageError: An adapter has no layer of its shape in the base, or the files are not whole.
    """
    config = read_adapter_config(folder)
    file = first_file(folder, ADAPTER_FILES)
    if file is None:
        raise UsageError(f"{folder} has no adapter: none of {', '.join(ADAPTER_FILES)} is there")
    adapter = {name.removeprefix(_PREFIX): tensor for name, tensor in read_file(file).items()}
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    merged = dict(weights)
    for name in sorted(name for name in adapter if ".lora_A." in name):
        layer = name.split(".lora_A.")[0]
        merged[f"{layer}.weight"] = _added(merged, adapter, layer, name, scale=scale, file=file)
    if unknown := [name for name in adapter if ".lora_A." not in name and ".lora_B." not in name]:
        raise UsageError(f"{file}: {unknown[0]} is not part of a LoRA", hint="merge it with PEFT and convert that")
    if (folder / EXTRA_FILE).is_file():
        merged |= {_plain_name(name): tensor for name, tensor in read_file(folder / EXTRA_FILE).items()}
    return merged


def _added(
    weights: dict[str, Tensor], adapter: dict[str, Tensor], layer: str, name: str, *, scale: float, file: Path
) -> Tensor:
    """Return a layer's weight [out, in] with B·A·scale added, computed in float32."""
    down, up = adapter[name], adapter.get(name.replace(".lora_A.", ".lora_B."))
    base = weights.get(f"{layer}.weight")
    if base is None or up is None:
        missing = f"{layer}.weight in the base" if base is None else f"{layer}'s lora_B"
        raise UsageError(f"{file}: there is no {missing}", hint="--base names another model than it was trained on")
    if (up.shape[0], down.shape[1]) != tuple(base.shape):
        raise UsageError(
            f"{file}: {layer} adds {up.shape[0]} × {down.shape[1]}, and in the base it is {tuple(base.shape)}",
            hint="--base names another model than it was trained on",
        )
    return (base.float() + scale * (up.float() @ down.float())).to(base.dtype)


def _plain_name(name: str) -> str:
    """Return the name of a weight trained beside LoRA, without the levels that wrappers put before it."""
    name = name.removeprefix(_PREFIX).removeprefix("base_model.")
    return name.removeprefix("model.") if name.startswith("model.model.") else name
