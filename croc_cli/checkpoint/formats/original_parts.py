"""Finds what an original checkpoint names instead of holding it: its vision tower, its base LLM, its tokenizer."""

import copy
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, CLIPVisionConfig, SiglipVisionConfig

from croc_cli.checkpoint.metadata import DAMAGED
from croc_cli.data.image import build_image_processor
from croc_cli.data.sentencepiece_merges import repair_merges
from croc_cli.errors import UsageError
from croc_cli.files import own_path
from croc_cli.model.find import ModelNotFound, find_model
from croc_cli.model.opening import opening
from croc_cli.model.vision_tower import has_class_token, load_tower
from croc_cli.model.vocabulary import set_up_tokenizer
from croc_cli.recipe.schema import AspectName, ResamplingName

_CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}
_SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
_KNOWN_TOWERS = {
    "clip-vit-large-patch14-336": ("openai", 336),
    "clip-vit-large-patch14": ("openai", 224),
    "siglip2-so400m-patch14-384": ("google", 384),
    "siglip-so400m-patch14-384": ("google", 384),
}
"""Owner on the hub and side in pixels of the towers that LLaVA-1.5, Croc and ViCToR were trained with, so that weights
that lie inside a checkpoint need no second download; sizes as in their config.json on the hub."""

TOWER_PREFIX = "model.vision_tower.vision_tower.vision_model."

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
        """Return its weights by original names, in float32, from its folder, as far as the config has layers."""
        assert self.folder is not None, "asked for the weights of a tower that is only named"
        state = load_tower(self.folder, torch.float32).state_dict()
        own = {TOWER_PREFIX + name.removeprefix("vision_model."): tensor for name, tensor in state.items()}
        return {name: tensor for name, tensor in own.items() if not is_left_out(name, self.config)}

    def as_victor(self, names: Collection[str], *, aspect: AspectName, resampling: ResamplingName) -> "TowerSource":
        """Return a SigLIP tower as ViCToR's code has it, and a CLIP tower as it is.

        That code deletes the last layer and the pooling head as it opens SigLIP, takes the output of the layer that is
        then last, without the final norm, and prepares pictures by a processor of its own.

        Args:
            names: Of the checkpoint's weights; where the tower's are among them, they tell how many layers it has.
            aspect: How pictures are made square.
            resampling: How they are resized.
        """
        if has_class_token(self.config):
            return self
        layers = {name.split(".")[6] for name in names if name.startswith(f"{TOWER_PREFIX}encoder.layers.")}
        config = copy.deepcopy(self.config)
        config.num_hidden_layers = len(layers) or config.num_hidden_layers - 1
        config.vision_use_head = False
        spread = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        pictures = build_image_processor(self.image_processor.to_dict() | spread, aspect, resampling=resampling)
        return replace(self, config=config, image_processor=pictures)


def is_left_out(name: str, config: Any) -> bool:
    """Tell whether a weight of the tower, by its original name, lies in a layer or a head that the config lacks."""
    if has_class_token(config) or not name.startswith(TOWER_PREFIX):
        return False
    level, *rest = name.removeprefix(TOWER_PREFIX).split(".")
    if level == "encoder":
        return bool(int(rest[1]) >= config.num_hidden_layers)
    return level == "head" and not config.vision_use_head


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
    if found is None and short in _KNOWN_TOWERS and name != (known := f"{_KNOWN_TOWERS[short][0]}/{short}"):
        say(f"note: the vision tower {name} is not here; {known} is taken")
        name = known
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
    owner, side = _KNOWN_TOWERS[name]
    config: Any = CLIPVisionConfig(**_CLIP_LARGE, image_size=side)
    if owner == "google":
        config = SiglipVisionConfig(**_SIGLIP_SO400M, image_size=side)
    processor = build_image_processor(
        {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}, aspect
    )
    return TowerSource(config, processor, None)
