"""`croc init`: a short recipe for data of one's own, checked against the data before it is written."""

import os
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from croc_cli.errors import RecipeError, UsageError
from croc_cli.launch.devices import Machine
from croc_cli.names import STAGES
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.yaml_file import write_yaml
from croc_cli.run_dir import write_whole
from croc_cli.sources.read.json_reader import JsonReader
from croc_cli.sources.read.json_rows import DataError
from croc_cli.sources.verify.checked_rows import CheckedData, CheckedRow
from croc_cli.sources.verify.layout import find_elsewhere, fitting_folder
from croc_cli.words import counted

LOOKED_AT = 200
"""Rows that are looked at; `croc data verify` looks at all of them."""
ON_GPUS, ON_CPU = "croc-7b", "smol"
"""Recipes that others are made from where there are GPUs, and where there are none."""


@dataclass(frozen=True)
class InitRequest:
    """What the recipe is made for.

    Args:
        file: Where the recipe goes.
        data: A data file, or a folder of pictures with a table.
        images: Folder that image paths start from; None where the data tells.
        like: Recipe that it extends; None chooses by the machine.
        vision_tower, llm: Parts other than that recipe's.
        num_ranks: Ranks; None leaves it to that recipe.
        device: `auto`, `cuda` or `cpu`.
    """

    file: Path
    data: Path
    images: Path | None = None
    like: str | None = None
    vision_tower: str | None = None
    llm: str | None = None
    num_ranks: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class DataFacts:
    """What was seen of the data.

    Args:
        is_llava: A JSON or JSONL file of conversations in LLaVA's form, which a stage reads as it is.
        images: Folder that image paths start from; None where images lie in the data or the data knows.
        rows: Rows that were looked at.
        with_image: Those that have an image.
        is_whole: Whether these are all.
        captions_only: Every one is an image and its caption.
    """

    is_llava: bool
    images: Path | None
    rows: int
    with_image: int
    is_whole: bool
    captions_only: bool

    def describe(self) -> str:
        """Return it in words, as the recipe's comment says it."""
        seen = counted(self.rows, "row") if self.is_whole else f"the first {counted(self.rows, 'row')}"
        return f"{seen}: {self.with_image:,} with an image, {self.rows - self.with_image:,} of text alone"


def look_at_data(data: Path, images: Path | None) -> DataFacts:
    """Read the first rows of the data and find their images.

    Raises:
        UsageError: There is nothing that croc can read, rows have errors, or images are not where they are looked for.
    """
    if images is not None and not images.is_dir():
        says = "is not a folder" if images.exists() else "does not exist"
        raise UsageError(f"--images {images}: {says}", hint="name the folder that the rows' image paths start from")
    if not data.exists():
        raise UsageError(
            f"--data {data}: does not exist",
            hint="a LLaVA JSON or JSONL, a table, a tar, or a folder of pictures with a metadata.csv",
        )
    opened = CheckedData(data, images)
    rows = list(islice(opened.rows(), LOOKED_AT + 1))
    seen, is_whole = rows[:LOOKED_AT], len(rows) <= LOOKED_AT
    if not seen:
        raise DataError(f"{data}: no rows")
    bad = next((row for row in seen if row.defect is not None), None)
    if bad is not None and bad.defect is not None:
        raise DataError(f"{data}: {bad.key}: {bad.defect}", hint=f"`croc data verify {quoted(data)}` lists all errors")
    pictured = [row for row in seen if row.images()]
    is_json = isinstance(opened.reader, JsonReader)
    folder = images
    if any(not place.content for row in pictured for _, place in row.images()):
        folder = _image_folder(data, images, pictured, opened)
    is_llava = is_json and all(isinstance(row.row, dict) and "conversations" in row.row for row in seen)
    captions_only = all(len(row.images()) == 1 and len(row.row.get("conversations") or ()) == 2 for row in seen)
    return DataFacts(is_llava, folder, len(seen), len(pictured), is_whole, captions_only)


def _image_folder(data: Path, images: Path | None, rows: list[CheckedRow], opened: CheckedData) -> Path | None:
    """Return the folder in which the rows' images lie; None where the data's own reader finds them by itself."""
    names = [name for row in rows for name, place in row.images() if not place.content]
    own = images or (opened.reader.image_root if opened.reader else None) or data.parent
    if any(Path(place.name).is_file() for row in rows for _, place in row.images()):
        return images if images is not None or data.is_dir() else own
    if (folder := fitting_folder(own, names)) is not None:
        if images is None:
            return folder
        raise UsageError(f"--images {images}: {names[0]} is not in it", hint=f"--images {quoted(folder)} fits")
    elsewhere = find_elsewhere(own, names[0])
    raise UsageError(
        f"the images of {data} were not found, such as {names[0]}, looked for in {own}",
        hint=elsewhere or "--images DIR names the folder that their paths start from",
    )


def check_file(file: Path, *, force: bool, data: Path | None) -> None:
    """Raise UsageError where a recipe cannot go into a file: it already exists, or its name is not a recipe's."""
    if file.suffix not in (".yaml", ".yml"):
        meant = ["croc", "init", str(file.with_suffix(".yaml")), *(["--data", str(data)] if data else [])]
        raise UsageError(f"{file}: a recipe's file ends in .yaml", hint=f"`{shlex.join(meant)}`")
    if "\n" in str(file) or not str(file).isprintable():
        raise UsageError(f"{file}: a file's name has no control characters", hint="such as mine.yaml")
    if file.is_symlink() or file.is_dir():
        what = "a link" if file.is_symlink() else "a folder"
        raise UsageError(f"{file} is {what}, so croc does not change it", hint="name another file")
    if file.exists() and not force:
        raise UsageError(f"{file} already exists", hint="--force replaces it; another name keeps both")


def write_recipe(request: InitRequest, facts: DataFacts, machine: Machine) -> Path:
    """Write the recipe, and load it as a check that it says what it should.

    Raises:
        UsageError: The file cannot be written.
        RecipeError: The recipe would not fit together.
    """
    like = request.like or (ON_GPUS if machine.cuda and request.device != "cpu" else ON_CPU)
    text = recipe_text(request, facts, like, stage_changes(like, request.num_ranks, captions_only=facts.captions_only))
    file = request.file
    trial: Path | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{file.stem[:60]}.trial-", suffix=".yaml", dir=file.parent)
        os.close(handle)
        trial = Path(name)  # a new file, never one of the user's
        write_whole(trial, text)
        load_recipe(str(trial), environ={})
        trial.replace(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    except RecipeError as error:
        trial_name = trial.name if trial is not None else ""
        raise UsageError(error.message.replace(trial_name, file.name), hint=error.hint) from error
    finally:
        if trial is not None:
            trial.unlink(missing_ok=True)
    return file


def stage_changes(like: str, num_ranks: int | None, *, captions_only: bool) -> dict[str, dict[str, Any]]:
    """Return what stages need that the recipe which is extended does not have.

    Args:
        like: That recipe.
        num_ranks: Ranks that the batches must divide over; None leaves them as they are.
        captions_only: Every row is an image and its caption, as the template plain takes them.
    """
    recipe = load_recipe(like, environ={}).recipe
    found: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        section = recipe.stage(stage)
        batch, ranks = section.batch, num_ranks or 1
        fits = [size for size in range(batch.micro_size, 0, -1) if batch.global_size % (size * ranks) == 0]
        if fits and fits[0] != batch.micro_size and not batch.packing:
            found[stage] = {"batch": {"micro_size": fits[0]}}
        if section.template == "plain" and not captions_only:
            found[stage] = {"template": recipe.finetune.template} | found.get(stage, {})
    return found


def recipe_text(request: InitRequest, facts: DataFacts, like: str, changes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the recipe as YAML with comments.

    Args:
        request: What it is made for.
        facts: Of its data.
        like: Recipe that it extends.
        changes: What stages need that it does not have.
    """
    name = quoted(request.file)
    lines = [
        f"# Written by `croc init`. `croc recipes show {name}` shows every value and where it comes from.",
        _line(f"extends: {like}", "all that is not said here"),
    ]
    parts = {"vision_tower": request.vision_tower, "llm": request.llm}
    if any(parts.values()):
        lines += [
            "model:",
            *(_line(f"  {key}: {_value(part)}", "a folder or a hub id") for key, part in parts.items() if part),
        ]
    lines += ["data:", _line(f"  {STAGES[0]}: &mine {_source(request, facts)}", facts.describe())]
    lines += [_line(f"  {stage}: *mine", "the same rows; write a source of its own here") for stage in STAGES[1:]]
    lines.append(_line("  cache_features: null", "a folder here keeps the tower's features for later epochs"))
    for stage, values in changes.items():
        lines.append(_line(f"{stage}: {_value(values)}", "as these rows and ranks need it"))
    launch: dict[str, str | int] = {"device": request.device} if request.device != "auto" else {}
    if request.num_ranks is not None:
        launch["num_ranks"] = request.num_ranks
    if launch:
        lines.append(_line(f"launch: {_value(launch)}", "GPUs or CPU processes of a node"))
    return "\n".join(lines) + "\n"


def _source(request: InitRequest, facts: DataFacts) -> str:
    if facts.is_llava:
        folder = facts.images or request.data.parent
        return _value({"kind": "llava_json", "path": str(request.data), "image_folder": str(folder)})
    own = {"path": str(request.data)} | ({"image_root": str(facts.images)} if facts.images else {})
    return _value({"kind": "mix", "sources": {"mine": own}})


def _value(value: object) -> str:
    return write_yaml(value, inline=True)


def _line(text: str, comment: str) -> str:
    return f"{text:<38}  # {comment}"


def next_commands(request: InitRequest, facts: DataFacts) -> list[str]:
    """Return the three commands that follow."""
    name = quoted(request.file)
    first = f"croc data verify {name}" if facts.is_llava else f"croc data mix {name}"
    return [first, f"croc plan {name}", f"croc run {name}"]


def quoted(path: Path | str) -> str:
    """Return a path as a shell takes it."""
    return shlex.quote(str(path))
