"""What a checkpoint says about itself: croc.json, beside the stock files, and the hashes of its weights.

Imports nothing heavy, so that a folder can be chosen and checked before torch is loaded.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from croc_cli.errors import UsageError
from croc_cli.names import StageName
from croc_cli.pictures import ImageReading
from croc_cli.recipe.schema import AspectName, TemplateName
from croc_cli.run_dir import sha256_of

METADATA_FILE = "croc.json"
RECIPE_FILE = "recipe.yaml"
TRAINING_STATE_FILE = "croc_training_state.safetensors"
RESUME_FOLDER = "resume"

VisualNorm = Literal["none", "l2"]


@dataclass(frozen=True)
class StartPoint:
    """The checkpoint that a stage started from: where it lay and what its weights hashed to."""

    path: str
    weights_sha256: str


@dataclass(frozen=True)
class CheckpointMetadata:
    """croc.json of a checkpoint; of a stock LLaVA folder without one, every value is its default.

    Args:
        stage: Stage that wrote it.
        step: Optimizer steps of that stage behind it.
        croc_version: Version of croc that wrote it.
        weights_sha256: One hash over the hashes of the model's weights files.
        files: SHA-256 of each safetensors file, by its name in the folder.
        start: What the stage started from.
        visual_norm: "l2" where visual tokens are L2-normalised after the projector, at inference too.
        template: Conversation template that the stage was trained with.
        image_aspect: How pictures are made square.
        image_reading: How picture files become RGB, in evaluation and chat too.
        health: Figures of the run at this step, such as the pool's use.
        extra: Keys that this version of croc does not know.
    """

    stage: StageName | None = None
    step: int | None = None
    croc_version: str | None = None
    weights_sha256: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    start: StartPoint | None = None
    visual_norm: VisualNorm = "none"
    template: TemplateName | None = None
    image_aspect: AspectName | None = None
    image_reading: ImageReading = "upright"
    health: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write croc.json into `folder`."""
        values = asdict(self)
        values.update(values.pop("extra"))
        (folder / METADATA_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_metadata(folder: Path) -> CheckpointMetadata:
    """Return what `folder` says about itself; a folder without croc.json is a stock LLaVA.

    Raises:
        UsageError: croc.json cannot be read or says something that no version of croc wrote.
    """
    file = folder / METADATA_FILE
    if not file.exists():
        return CheckpointMetadata()
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        start = values.pop("start", None)
        known = {name.name: values.pop(name.name) for name in fields(CheckpointMetadata) if name.name in values}
        metadata = CheckpointMetadata(**known, start=StartPoint(**start) if start else None, extra=values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file} cannot be read: {error}", hint="the checkpoint is damaged; use another one"
        ) from error
    if metadata.visual_norm not in get_args(VisualNorm):
        raise UsageError(f"{file}: visual_norm is {metadata.visual_norm!r}, expected one of {get_args(VisualNorm)}")
    if metadata.image_reading not in get_args(ImageReading):
        raise UsageError(
            f"{file}: image_reading is {metadata.image_reading!r}, expected one of {get_args(ImageReading)}"
        )
    if metadata.template is not None and metadata.template not in get_args(TemplateName):
        raise UsageError(f"{file}: template is {metadata.template!r}, expected one of {get_args(TemplateName)}")
    return metadata


def weights_files(folder: Path) -> list[Path]:
    """Return the model's safetensors files in `folder`, by name; the pool's file is not one of them."""
    return sorted(file for file in folder.glob("*.safetensors") if file.name != TRAINING_STATE_FILE)


def combine_hashes(files: Mapping[str, str]) -> str:
    """Return one SHA-256 over the names and hashes of the model's weights files."""
    lines = sorted(f"{sha256}  {name}\n" for name, sha256 in files.items() if name != TRAINING_STATE_FILE)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def weights_sha256(folder: Path) -> str:
    """Return the one hash of a checkpoint's weights: from croc.json where there is one, else from the files."""
    recorded = read_metadata(folder).weights_sha256
    return recorded or combine_hashes({file.name: sha256_of(file) for file in weights_files(folder)})


def verify_hashes(folder: Path) -> None:
    """Check every weights file against the hash in croc.json; a stock folder has none and passes.

    Raises:
        UsageError: A file is missing or differs; it is named.
    """
    for name, expected in read_metadata(folder).files.items():
        file = folder / name
        hint = "the checkpoint is damaged or was changed by hand; use another one or save it again"
        if not file.exists():
            raise UsageError(f"{file} is missing, but {METADATA_FILE} lists it", hint=hint)
        if (found := sha256_of(file)) != expected:
            raise UsageError(f"{file} is not what was saved: SHA-256 {found}, expected {expected}", hint=hint)
