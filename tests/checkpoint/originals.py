"""Tiny checkpoints of the original LLaVA and Croc code, in every form that users have on disk.

`golden/` holds random weights in both formats, with logits that the original code gave for them (float32, CPU,
transformers 4.37). Of the Croc checkpoint's 2,048 pool tokens 32 are kept; none of them enters at inference.
`golden/llava_qwen` is a checkpoint of ViCToR's stage 1.5 with what its code (deepglint/Victor, commit ecd1a30, float32,
one CPU thread, transformers 4.53.1, eager attention) computed in its stages and at inference; tolerance 1e-5.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.tiny import make_tiny_tokenizer

GOLDEN = Path(__file__).parent / "golden"
KINDS = ("llava_llama", "croc_llama")
VICTOR = "llava_qwen"
QWEN_TOKENIZER = Path(__file__).parent.parent / "data" / "golden" / "victor"
IN_CHECKPOINT = "model.vision_tower.vision_tower."


def golden_weights(kind: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / kind / "model.safetensors")


def make_original(
    folder: Path,
    kind: str = "llava_llama",
    *,
    weights: dict[str, Tensor] | None = None,
    form: str = "safetensors",
    has_tower: bool = True,
    **config: Any,
) -> Path:
    """Write a golden checkpoint with its tower's folder and a tokenizer, and return its folder.

    Args:
        folder: Where.
        kind: One of KINDS.
        weights: Instead of the golden ones.
        form: safetensors, bin, or shards (two .bin files and an index).
        has_tower: Leave the tower's weights inside.
        config: Keys of config.json to change.
    """
    folder.mkdir(parents=True)
    weights = golden_weights(kind) if weights is None else weights
    make_tower(folder / "vision_tower", weights)
    if not has_tower:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(IN_CHECKPOINT)}
    values = json.loads((GOLDEN / kind / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(values))
    make_tiny_tokenizer(vocab_size=320, image_token=False).save_pretrained(folder)
    if form == "safetensors":
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    elif form == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_shards(weights, folder)
    return folder


def make_victor(folder: Path, *, weights: dict[str, Tensor] | None = None, **config: Any) -> Path:
    """Write ViCToR's golden checkpoint with its tokenizer, its tower's config beside it, and return its folder.

    Args:
        folder: Where.
        weights: Instead of the golden ones.
        config: Keys of config.json to change; None leaves one out.
    """
    folder.mkdir(parents=True)
    tower = folder.parent / "siglip_54px"
    if not tower.exists():
        shutil.copytree(GOLDEN / "siglip", tower)
    values = json.loads((GOLDEN / VICTOR / "config.json").read_text()) | config
    kept = {key: value for key, value in values.items() if value is not None or key not in config}
    (folder / "config.json").write_text(json.dumps(kept))
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(QWEN_TOKENIZER / file, folder / file)
    save_file(golden_weights(VICTOR) if weights is None else weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def save_shards(weights: dict[str, Tensor], folder: Path) -> None:
    names = sorted(weights)
    parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, own in parts.items():
        torch.save({name: weights[name] for name in own}, folder / file)
    weight_map = {name: file for file, own in parts.items() for name in own}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def make_tower(folder: Path, weights: dict[str, Tensor]) -> None:
    """Write the tower that lies inside `weights` as a folder of its own."""
    shutil.copytree(GOLDEN / "vision_tower", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    inner = {name.removeprefix(IN_CHECKPOINT): t for name, t in weights.items() if name.startswith(IN_CHECKPOINT)}
    save_file(inner, folder / "model.safetensors", {"format": "pt"})


def make_base(folder: Path, kind: str = "llava_llama") -> Path:
    """Write the LLM inside a golden checkpoint as a Llama of its own, with its tokenizer, and return the folder."""
    folder.mkdir()
    own = ("model.embed", "model.layers", "model.norm", "lm_head")
    weights = {name: tensor for name, tensor in golden_weights(kind).items() if name.startswith(own)}
    torch.save(weights, folder / "pytorch_model.bin")
    config = json.loads((GOLDEN / kind / "config.json").read_text())
    config = {key: value for key, value in config.items() if not key.startswith("mm_")} | {"model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(config))
    make_tiny_tokenizer(vocab_size=320, image_token=False).save_pretrained(folder)
    return folder


def largest_difference(llava: Any, kind: str, number: int) -> float:
    """Return the largest difference of a model's logits from those of the original code, padding left out."""
    case = load_file(GOLDEN / kind / f"inference_{number}.safetensors")
    n, image_token_id = llava.config.image_seq_length, llava.config.image_token_id
    rows = []
    for ids, keep in zip(case["input_ids"], case["attention_mask"].bool(), strict=True):
        counts = torch.where(ids[keep] == -200, n, 1)
        rows.append(torch.where(ids[keep] == -200, image_token_id, ids[keep]).repeat_interleave(counts))
    mask = case["expanded_attention_mask"]
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    with torch.no_grad():
        logits = llava(input_ids=input_ids, attention_mask=mask, pixel_values=case["pixel_values"]).logits
    return float((logits[..., :320] - case["logits"])[mask.bool()].abs().max())
