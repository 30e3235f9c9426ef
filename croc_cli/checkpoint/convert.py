"""`croc convert`: from what people have on disk to stock LLaVA, the original LLaVA layout, or the parts of a GGUF."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import safetensors.torch

from croc_cli import __version__
from croc_cli.checkpoint.formats.gguf import GgufOptions, write_gguf
from croc_cli.checkpoint.formats.original import is_original
from croc_cli.checkpoint.formats.original_load import OriginalOptions, open_original
from croc_cli.checkpoint.formats.original_parts import TOWER_FOLDER
from croc_cli.checkpoint.formats.original_write import write_original, write_tower
from croc_cli.checkpoint.load import quiet_transformers
from croc_cli.checkpoint.locate import check_stock_config, find_folder, read_config
from croc_cli.checkpoint.metadata import RECIPE_FILE
from croc_cli.checkpoint.norm_loss import measure_norm_loss
from croc_cli.checkpoint.opened import TOKENIZER_MODEL, OpenedModel, open_stock
from croc_cli.errors import UsageError
from croc_cli.files import free_disk, own_path
from croc_cli.launch.weights import combine_hashes, weights_files
from croc_cli.model.stock_names import names_to_write
from croc_cli.names import TRAINING_STATE_FILE
from croc_cli.redact import redact
from croc_cli.run_dir import sha256_of, write_json

FormName = Literal["stock", "llava", "gguf"]
FORMS: tuple[FormName, ...] = ("stock", "llava", "gguf")


@dataclass(frozen=True)
class ConvertRequest:
    """What the user asks for.

    Args:
        source: Folder, hub id, or the projector file of a folder.
        destination: Folder to write; it must not be there, or be empty.
        to: The form to write.
        original: What is said about an original checkpoint.
        allow_loss: Write a stock folder also where stock LLaVA cannot compute what the model computes.
        gguf: Where llama.cpp is.
    """

    source: str
    destination: Path
    to: FormName = "stock"
    original: OriginalOptions = field(default_factory=OriginalOptions)
    allow_loss: bool = False
    gguf: GgufOptions = field(default_factory=GgufOptions)


def quiet_libraries() -> None:
    """Keep the bars and remarks of transformers and DeepSpeed off the terminal, and off stdout."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    quiet_transformers()


def convert(request: ConvertRequest, *, say: Callable[[str], None]) -> Path:
    """Write `request.source` in another form; the destination appears whole or not at all.

    Args:
        request: What is asked for.
        say: Told what a user should know, one line each.

    Returns:
        The destination.

    Raises:
        UsageError: The source is not what it should be, or the form cannot hold it.
        RunError: llama.cpp's converter failed.
    """
    folder = _source_folder(request.source)
    _check_destination(request.destination)
    opened = open_any(folder, request.original, say=say)
    _check_space(opened, request.destination)
    destination = request.destination
    growing = destination.with_name(f".{destination.name}.tmp-{os.getpid()}")
    growing.mkdir(parents=True)
    try:
        if request.to == "stock":
            _say_what_is_lost(opened, allow_loss=request.allow_loss, source=request.source, say=say)
            write_stock(opened, growing)
        elif request.to == "llava":
            tower = request.original.vision_tower
            write_original(opened, growing, vision_tower=tower, final=destination, say=say)
            _check_opens_again(opened, growing, final=destination, say=say)
        else:
            write_gguf(opened, growing, final=destination, options=request.gguf, say=say)
        if destination.exists():
            destination.rmdir()
        growing.rename(destination)
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    if request.to == "gguf":
        request.gguf.run(destination, opened, say=say)
    return destination


def open_any(folder: Path, options: OriginalOptions, *, say: Callable[[str], None]) -> OpenedModel:
    """Open a folder of the original code or of transformers, with everything that lies beside the model."""
    config = read_config(folder)
    if is_original(config):
        return open_original(folder, options, say=say)
    check_stock_config(config, folder)
    return open_stock(folder, allow_partial=options.allow_partial, say=say)


def write_stock(opened: OpenedModel, folder: Path) -> None:
    """Write a model as a stock LLaVA with its processor, the training state and croc.json."""
    llava = opened.build()
    tied = set(llava.all_tied_weights_keys)
    kept = {name: tensor for name, tensor in opened.weights.items() if name not in tied}
    llava.save_pretrained(folder, state_dict=names_to_write(kept))
    opened.processor.save_pretrained(folder)
    files = {file.name: sha256_of(file) for file in weights_files(folder)}
    combined = combine_hashes(files)
    if opened.training_state:
        tensors = {name: tensor.contiguous() for name, tensor in opened.training_state.items()}
        safetensors.torch.save_file(tensors, folder / TRAINING_STATE_FILE, metadata={"format": "pt"})
        files[TRAINING_STATE_FILE] = sha256_of(folder / TRAINING_STATE_FILE)
    metadata = replace(opened.metadata, croc_version=__version__, files=files, weights_sha256=combined)
    metadata.write(folder)
    if opened.tokenizer_model is not None:
        shutil.copyfile(opened.tokenizer_model, folder / TOKENIZER_MODEL)
    if opened.recipe_yaml is not None:
        (folder / RECIPE_FILE).write_text(redact(opened.recipe_yaml), encoding="utf-8")


def _say_what_is_lost(opened: OpenedModel, *, allow_loss: bool, source: str, say: Callable[[str], None]) -> None:
    """Say what stock LLaVA cannot express of a model, measured.

    Raises:
        UsageError: It cannot express all of it, and the user has not said that this is all right.
    """
    if opened.metadata.visual_norm == "none":
        return
    loss = measure_norm_loss(opened.build(), opened.processor)
    what = f"it L2-normalises its visual tokens, which stock LLaVA cannot express; without the norm {loss}"
    if not allow_loss:
        raise UsageError(
            f"{source} was not written: {what}",
            hint="croc chat and croc eval open it as it is, with the norm; --allow-loss writes a folder that "
            "is exact in croc, which reads the norm from croc.json, and wrong elsewhere",
        )
    say(f"warning: {what}. croc reads the norm from croc.json and is exact; transformers and vLLM leave it out")


def _check_opens_again(opened: OpenedModel, growing: Path, *, final: Path, say: Callable[[str], None]) -> None:
    """Open what was written in the original layout; the tower that it names may lie where nobody has it.

    Raises:
        UsageError: It does not open, or as another model.
    """
    tower = growing / TOWER_FOLDER
    try:
        again = open_original(growing)
    except UsageError as error:
        if tower.exists():
            raise UsageError(f"the original layout cannot hold this model: {error.message}", hint=error.hint) from error
        write_tower(opened, tower)
        config = read_config(growing)
        named = str(config["mm_vision_tower"])
        if Path(named).name != TOWER_FOLDER:  # else it is found beside config.json
            write_json(growing / "config.json", config | {"mm_vision_tower": str(final / TOWER_FOLDER)})
        again = open_original(growing)
        say(f"note: the vision tower {named} is not here; it is written too, to {final / TOWER_FOLDER}")
    if again.processor.chat_template != opened.processor.chat_template or again.all_end_ids() != opened.all_end_ids():
        raise UsageError("the original layout cannot hold this model's chat template and end tokens")


def _source_folder(source: str) -> Path:
    file = own_path(source)
    if file.is_file() and file.name.startswith("mm_projector."):
        return file.parent
    return find_folder(source)


def _check_destination(destination: Path) -> None:
    if destination.is_symlink():
        raise UsageError(f"{destination} is a link", hint="name the folder that it leads to, or another")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UsageError(f"{destination} already exists", hint="name a new folder, or empty this one")


def _check_space(opened: OpenedModel, destination: Path) -> None:
    needed = sum(tensor.nbytes for tensor in (*opened.weights.values(), *opened.training_state.values()))
    free = free_disk(destination.parent)
    if needed > free:
        raise UsageError(
            f"{destination} needs {needed / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free",
            hint="name a folder on another disk",
        )
