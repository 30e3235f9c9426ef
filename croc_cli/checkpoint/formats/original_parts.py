"""Finds what an original checkpoint names instead of holding it: its vision tower, its base LLM, its tokenizer."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, CLIPVisionConfig

from croc_cli.checkpoint.metadata import DAMAGED
from croc_cli.data.image import build_image_processor
from croc_cli.data.sentencepiece_merges import repair_merges
from croc_cli.errors import UsageError
from croc_cli.files import own_path
from croc_cli.model.find import ModelNotFound, find_model
from croc_cli.model.opening import opening
from croc_cli.model.vision_tower import load_tower
from croc_cli.model.vocabulary import set_up_tokenizer
from croc_cli.recipe.schema import AspectName

_CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}
_KNOWN_TOWERS = {"clip-vit-large-patch14-336": 336, "clip-vit-large-patch14": 224}
"""Side in pixels of the towers that LLaVA-1.5 and Croc were trained with, so that weights that lie inside a checkpoint
need no second download; sizes as in their config.json on the hub."""

TOWER_FOLDER = "vision_tower"
"""Where `croc convert --to llava` puts the tower, in the checkpoint's folder."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


@dataclass(frozen=True)
class TowerSource:
    """A vision tower's config and image processor, and where its weights are.

    Args:
        config: Its config.
        image_processor: The stock LLaVA processor of its pictures.
        folder: Its folder; None where only the config is at hand, from the table above.
    """

    config: Any
    image_processor: Any
    folder: Path | None

    def weights(self) -> dict[str, Tensor]:
        """Return its weights by original names, in float32, from its folder."""
        assert self.folder is not None, "asked for the weights of a tower that is only named"
        prefix = "model.vision_tower.vision_tower.vision_model."
        state = load_tower(self.folder, torch.float32).state_dict()
        return {prefix + name.removeprefix("vision_model."): tensor for name, tensor in state.items()}


def find_tower(
    name: str, checkpoint: Path, *, aspect: AspectName, needs_weights: bool, say: Callable[[str], None]
) -> TowerSource:
    """Return the vision tower that an original config names.

    Args:
        name: Folder or hub id; a folder may be given relative to the checkpoint or to the folder that holds it. A tower
            that croc wrote into the checkpoint is found wherever that was moved.
        checkpoint: Folder of the checkpoint.
        aspect: How pictures are made square.
        needs_weights: The checkpoint does not hold the tower's weights.
        say: Told where a name was read as another.

    Raises:
        UsageError: It is not there, or not what it should be.
    """
    folders = [checkpoint / name, checkpoint.parent / name, own_path(name)]
    if Path(name).name == TOWER_FOLDER:
        folders.append(checkpoint / TOWER_FOLDER)
    found = next((folder for folder in folders if (folder / "config.json").is_file()), None)
    short = Path(name).name
    if found is None and not needs_weights and short in _KNOWN_TOWERS:
        return _known_tower(short, aspect)
    if found is None and name != f"openai/{short}" and short in _KNOWN_TOWERS:
        say(f"note: the vision tower {name} is not here; openai/{short} is taken")
        name = f"openai/{short}"
    if found is None:
        try:
            found = find_model(name, part="vision_tower")
        except ModelNotFound as error:
            raise UsageError(
                f"{checkpoint} names the vision tower {name!r}, which is not here: {error.message}",
                hint="--vision-tower DIR of croc convert takes it from a folder",
            ) from error
    hint = "it takes a folder with config.json, weights and preprocessor_config.json"
    with opening(f"the vision tower in {found}", hint=hint):
        config = AutoConfig.from_pretrained(found, trust_remote_code=False)
        processor = build_image_processor(found, aspect)
    return TowerSource(getattr(config, "vision_config", config), processor, found)


def find_tokenizer(folders: list[Path], *, trust_remote_code: bool) -> Any:
    """Return the tokenizer of the first folder that has one, with an image token and padding on the right.

    Raises:
        UsageError: None has one, or it cannot be opened.
    """
    folder = next((folder for folder in folders if any((folder / name).is_file() for name in _TOKENIZER_FILES)), None)
    if folder is None:
        raise UsageError(
            f"{folders[0]} has no tokenizer: none of {', '.join(_TOKENIZER_FILES)} is there",
            hint="--base names the LLM that it was trained from; its tokenizer is taken",
        )
    with opening(f"the tokenizer in {folder}", hint=DAMAGED), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # on keys of the original config.json, which lies there too
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        repair_merges(tokenizer)
        set_up_tokenizer(tokenizer)
    return tokenizer


def find_base(name: str, *, needed_by: Path) -> Path:
    """Return the folder of the model that a projector or an adapter was trained on.

    Raises:
        UsageError: It is not there.
    """
    try:
        return find_model(name, part="llm")
    except ModelNotFound as error:
        raise UsageError(
            f"{needed_by} was trained on {name!r}, which is not here: {error.message}",
            hint="--base DIR of croc convert takes it from a folder",
        ) from error


def _known_tower(name: str, aspect: AspectName) -> TowerSource:
    side = _KNOWN_TOWERS[name]
    config = CLIPVisionConfig(**_CLIP_LARGE, image_size=side)
    processor = build_image_processor(
        {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}, aspect
    )
    return TowerSource(config, processor, None)
