"""What a checkpoint says about itself: croc.json, beside the stock files, and the hashes of its weights.

Imports nothing heavy, so that a folder can be chosen and checked before torch is loaded.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from croc_cli.errors import UsageError, first_line
from croc_cli.files import read_bytes
from croc_cli.launch import weights
from croc_cli.launch.weights import checked_hashes, combine_hashes, is_hashes
from croc_cli.names import METADATA_FILE, STAGES, StageName
from croc_cli.pictures import ImageReading
from croc_cli.reading import parse_json
from croc_cli.recipe.schema import AspectName, TemplateName
from croc_cli.redact import redact

RECIPE_FILE = "recipe.yaml"
LLM_TEMPLATE_KEY = "llm_chat_template"
"""Key of croc.json for the chat template that the LLM itself came with."""
TOWER_TRAINED_KEY = "vision_tower_trained"
"""Key of croc.json, true where this stage or one before it trained the vision tower."""
DAMAGED = "the checkpoint is damaged; use another one"
"""Hint of whoever finds a file of a checkpoint that nothing can be done about."""

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
        system_prompt: System sentence of that template, where it is not the template's own.
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
    system_prompt: str | None = None
    image_aspect: AspectName | None = None
    image_reading: ImageReading = "upright"
    health: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write croc.json into `folder`, whose weights get the mode of its other files."""
        share_weights(folder)
        values = asdict(self)
        values.update(values.pop("extra"))
        (folder / METADATA_FILE).write_text(redact(json.dumps(values, indent=2)) + "\n", encoding="utf-8")


def share_weights(folder: Path) -> None:
    """Give weights the mode of the config.json beside them; safetensors hides its own from other users."""
    for file in folder.glob("*.safetensors"):
        if (config := folder / "config.json").is_file():
            shutil.copymode(config, file)


def read_metadata(folder: Path) -> CheckpointMetadata:
    """Return what `folder` says about itself; a folder without croc.json is a stock LLaVA.

    Raises:
        UsageError: croc.json cannot be read or says something that no version of croc wrote; the key is named.
    """
    file = folder / METADATA_FILE
    if not file.exists():
        return CheckpointMetadata()
    values = read_object(file)
    for name, (is_right, expected) in _EXPECTED.items():
        if values.get(name) is not None and not is_right(values[name]):
            shown = json.dumps(values[name], ensure_ascii=True)
            raise UsageError(f"{file}: {name} is {shown[:80]}, expected {expected}", hint=DAMAGED)
    said = {one.name: values.pop(one.name, None) for one in fields(CheckpointMetadata)}
    known = {name: value for name, value in said.items() if value is not None}
    start = known.pop("start", None)
    known.pop("extra", None)
    return CheckpointMetadata(**known, start=StartPoint(**start) if start else None, extra=values)


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a checkpoint's file.

    Raises:
        UsageError: The file cannot be read or holds something else; it is named.
    """
    try:
        values = parse_json(read_bytes(file))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read: {first_line(error)}", hint=DAMAGED) from error
    if not isinstance(values, dict):
        raise UsageError(f"{file} holds {type(values).__name__}, expected a JSON object", hint=DAMAGED)
    return values


def _one_of(allowed: Iterable[str]) -> "_Expectation":
    names = tuple(allowed)
    return (lambda value: value in names, f"one of {', '.join(names)}")


def _is_start(value: object) -> bool:
    keys = {one.name for one in fields(StartPoint)}
    return isinstance(value, dict) and value.keys() == keys and all(isinstance(one, str) for one in value.values())


_Expectation = tuple[Callable[[Any], bool], str]
_TEXT: _Expectation = (lambda value: isinstance(value, str), "a text")
_EXPECTED: dict[str, _Expectation] = {
    "stage": _one_of(STAGES),
    "step": (lambda value: type(value) is int and value >= 0, "a number of steps"),
    "croc_version": _TEXT,
    "weights_sha256": _TEXT,
    "files": (is_hashes, "a SHA-256 for each file name"),
    "start": (_is_start, "path and weights_sha256"),
    "visual_norm": _one_of(get_args(VisualNorm)),
    "template": _one_of(get_args(TemplateName)),
    "system_prompt": _TEXT,
    "image_aspect": _one_of(get_args(AspectName)),
    "image_reading": _one_of(get_args(ImageReading)),
    "health": (lambda value: isinstance(value, dict), "figures by name"),
}
"""What each key of croc.json may hold, and how that is said."""


def weights_sha256(folder: Path) -> str:
    """Return the identity of a checkpoint: see `launch.weights.weights_sha256`; croc.json must be in order.

    Raises:
        UsageError: croc.json is damaged, or weights are missing, others, or more than it lists; the file is named.
    """
    read_metadata(folder)
    return weights.weights_sha256(folder) or combine_hashes({})


def verify_hashes(folder: Path) -> None:
    """Check every weights file against the hash in croc.json; a stock folder has none and passes.

    Raises:
        UsageError: A file is missing, differs, or is not listed; it is named.
    """
    if files := read_metadata(folder).files:
        checked_hashes(folder, files)
