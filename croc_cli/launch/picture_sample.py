"""Opens a sample of a stage's pictures before anything is launched, and finds the folder that would fit."""

import json
import random
import re
import shlex
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from croc_cli.errors import UsageError
from croc_cli.files import open_file
from croc_cli.names import StageName
from croc_cli.recipe.load import argument_of
from croc_cli.recipe.paths import data_path
from croc_cli.recipe.schema import LlavaJsonData, MixData, Recipe
from croc_cli.sources.mix.recipe_mix import mix_folder
from croc_cli.sources.read.index import MixFolder
from croc_cli.sources.read.picture_cells import holds_picture
from croc_cli.sources.read.picture_keys import PICTURE_NAMES
from croc_cli.sources.verify.checked_rows import CheckedRow
from croc_cli.sources.verify.findings import DEFECTS
from croc_cli.sources.verify.image_check import ImagePlace, check_image
from croc_cli.sources.verify.layout import find_elsewhere, fitting_folder, image_prefix

MOST_PICTURES: Final = 200
"""Pictures that are opened; a set of no more than this is opened whole."""
MOST_SECONDS: Final = 3.0
"""Time after which no further picture is opened; that each is there is seen all the same."""
_FEW: Final = 3
"""Pictures of a folder from which on it counts that none of them is there."""
_WHOLE_BYTES, _BLOCK_BYTES, _BLOCKS = 16 << 20, 1 << 20, 16
_KEYS = "|".join(re.escape(name) for name in PICTURE_NAMES).encode()
_IMAGE = re.compile(
    rb'"(?:%s)"\s*:\s*("(?:[^"\\]|\\.)*"|\[\s*"(?:[^"\\\]]|\\.|"\s*,\s*")*"\s*\])' % _KEYS, re.IGNORECASE
)


@dataclass(frozen=True)
class _Picture:
    """A picture of the sample.

    Args:
        root: Folder that its path starts from.
        name: Its path from there.
        source: Of a mix, which one; empty for a file.
        place: Where it is.
    """

    root: Path
    name: str
    source: str
    place: ImagePlace


_passed: set[tuple[str, ...]] = set()
"""Data that was looked at by this process: `croc run` asks for all stages first, and for each again."""


def check_pictures(recipe: Recipe, stage: StageName) -> str | None:
    """Open a sample of a stage's pictures; returns a note where a few of them do not open.

    Raises:
        UsageError: Most of them, all of one folder, or more than `data.max_bad_images` allows do not open; the hint
            shows the line to write where another folder fits.
    """
    source = recipe.data.source(stage)
    if isinstance(source, LlavaJsonData):
        file, folder = data_path(recipe.data.root, source.path), data_path(recipe.data.root, source.image_folder)
        key: tuple[str, ...] = (str(file), str(folder))
        found = [] if key in _passed else _of_file(file, folder)
    elif isinstance(source, MixData):
        key = (str(mix_folder(recipe, stage)),)
        found = [] if key in _passed else _of_mix(Path(key[0]))
    else:
        return None
    if not found:
        return None
    is_whole = len(found) <= MOST_PICTURES
    sample = found if is_whole else random.Random(0).sample(found, MOST_PICTURES)
    bad = _bad_ones(sample)
    if bad and (_is_too_much(sample, bad) or (is_whole and len(bad) > _limit(recipe, len(found)))):
        raise _refusal(recipe, stage, sample, bad)
    if not bad:
        _passed.add(key)
        return None
    first, reason = next(iter(bad.items()))
    return (
        f"data.{stage}: {len(bad)} of {len(sample)} pictures that were tried do not open, such as {first.name}"
        f" ({reason}); {_verify(recipe, stage)} names them all"
    )


def _bad_ones(sample: list[_Picture]) -> dict[_Picture, str]:
    """Return what is wrong with each picture that does not open."""
    bad: dict[_Picture, str] = {}
    end = time.monotonic() + MOST_SECONDS
    for picture in sample:
        if not Path(picture.place.file).exists():
            bad[picture] = "no such file"
        elif time.monotonic() < end:
            facts = check_image(picture.place)
            if facts.code and DEFECTS[facts.code].level == "error":
                bad[picture] = facts.detail or DEFECTS[facts.code].text
    return bad


def _is_too_much(sample: list[_Picture], bad: dict[_Picture, str]) -> bool:
    """Tell whether most pictures are bad, or all of a folder are missing."""
    if 2 * len(bad) > len(sample):
        return True
    tried = Counter((one.root, image_prefix(one.name)) for one in sample)
    missing = Counter((one.root, image_prefix(one.name)) for one in bad if not Path(one.place.file).exists())
    return any(missing[folder] == number >= _FEW for folder, number in tried.items())


def _limit(recipe: Recipe, num_pictures: int) -> float:
    """Return how many bad images a run over so many pictures may meet."""
    given = str(recipe.data.max_bad_images)
    return float(given[:-1]) / 100 * num_pictures if given.endswith("%") else float(given)


def _refusal(recipe: Recipe, stage: StageName, sample: list[_Picture], bad: dict[_Picture, str]) -> UsageError:
    missing = [one for one in bad if not Path(one.place.file).exists()]
    first = missing[0] if missing else next(iter(bad))
    message = (
        f"data.{stage}: {len(bad)} of {len(sample)} pictures that were tried do not open, such as"
        f" {first.place.name} ({bad[first]})"
    )
    if not missing:
        return UsageError(message, hint=f"{_verify(recipe, stage)} names them all")
    source = recipe.data.source(stage)
    names = [one.name for one in missing if one.root == first.root]
    fits = fitting_folder(first.root, names)
    if fits is None:
        elsewhere = find_elsewhere(first.root, first.name)
        key = f"data.{stage}.image_folder" if isinstance(source, LlavaJsonData) else "image_root"
        return UsageError(message, hint=elsewhere or f"{key} is {first.root}; no folder near it has them")
    if isinstance(source, LlavaJsonData):
        return UsageError(
            message,
            hint=f"write `image_folder: {_yaml(fits)}` under data.{stage},"
            f" or type --set {shlex.quote(f'data.{stage}.image_folder={fits}')}",
        )
    return UsageError(
        message,
        hint=f"write `image_root: {_yaml(fits)}` for source {first.source} of data.{stage},"
        f" then `croc data mix {argument_of(recipe)} --stage {stage}`",
    )


def _verify(recipe: Recipe, stage: StageName) -> str:
    """Return the command that names all pictures that do not open."""
    source = recipe.data.source(stage)
    if isinstance(source, LlavaJsonData):
        root = recipe.data.root
        named = [str(data_path(root, source.path)), "--image-folder", str(data_path(root, source.image_folder))]
    else:
        named = [str(mix_folder(recipe, stage))]
    return f"`{shlex.join(['croc', 'data', 'verify', *named, '--deep'])}`"


def _yaml(path: Path) -> str:
    """Return a path as a recipe writes it."""
    text = str(path)
    return text if re.fullmatch(r"[\w./~-]+", text) else json.dumps(text, ensure_ascii=False)


def _of_file(file: Path, folder: Path) -> list[_Picture]:
    """Return the pictures that a LLaVA file names: all of a small file, those in blocks of others."""
    names: dict[str, None] = {}
    with open_file(file) as stream:
        size = file.stat().st_size
        starts = [0] if size <= _WHOLE_BYTES else [(size - _BLOCK_BYTES) * n // (_BLOCKS - 1) for n in range(_BLOCKS)]
        for start in starts:
            stream.seek(start)
            content = stream.read(_WHOLE_BYTES if len(starts) == 1 else _BLOCK_BYTES)
            for match in _IMAGE.finditer(content):
                names |= dict.fromkeys(_names(match.group(1)))
    return [_Picture(folder, name, "", ImagePlace(f"{folder}/{name}")) for name in names]


def _names(found: bytes) -> list[str]:
    """Return the paths in a JSON text or list of texts."""
    try:
        value = json.loads(found)
    except (ValueError, RecursionError):  # what is wrong with the file is said by whoever reads it
        return []
    names = [value] if isinstance(value, str) else value
    return [name for name in names if name and not holds_picture(name)]


def _of_mix(folder: Path) -> list[_Picture]:
    """Return the pictures of a mix's rows, or of rows at equal distances of a large one."""
    mix = MixFolder(folder)
    sources = [source.name for source in mix.manifest.sources]
    found: dict[str, _Picture] = {}
    for position in range(0, len(mix), max(1, len(mix) // (4 * MOST_PICTURES))):
        if not mix.index.images[position]:
            continue
        number = int(mix.index.source[position])
        root = mix.image_roots[number]
        row = CheckedRow(position, mix.key(position), mix.row(position), str(root))
        for name, place in row.images():
            found[place.name] = _Picture(root, name, sources[number], place)
    return list(found.values())
