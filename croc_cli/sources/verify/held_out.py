"""Which samples of a stage are held out: never trained on, so that their loss tells what the model has learned.

The draw is by a hash of the picture: it depends on no seed and no order, and rows that share a picture stay together.
"""

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from croc_cli.names import StageName
from croc_cli.recipe.paths import PATHS_START, data_path
from croc_cli.recipe.schema import LlavaJsonData, MixData, Recipe
from croc_cli.sources.mix.recipe_mix import mix_folder
from croc_cli.sources.read.cache import cache_folder, file_key, locked
from croc_cli.sources.read.index import ROWS_NAME
from croc_cli.sources.read.json_index import CACHED_BYTES
from croc_cli.sources.read.json_rows import DataError
from croc_cli.sources.read.rows import ROW_DEFECTS, row_error
from croc_cli.sources.verify.checked_rows import CheckedData, CheckedRow

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_KEPT_OUT = 2
"""How many times the samples that are asked for may be kept out at most, as they share pictures with those."""
_PURPOSE = "held-out-1"


class HeldOutRows(NamedTuple):
    """Rows of a stage's data, by their number in its file, or by their place in its mix.

    Args:
        measured: [H] int64, the rows whose loss is measured, in the order of the draw.
        kept_out: [K] int64, ascending, the rows that are never trained on: these, and others with the same pictures.
    """

    measured: "npt.NDArray[np.int64]"
    kept_out: "npt.NDArray[np.int64]"


def num_held_out(recipe: Recipe, stage: StageName) -> int | None:
    """Return how many samples are held out, where the recipe says it; None for none, and for a file of their own."""
    source = recipe.data.source(stage)
    return None if source is None or source.held_out is None else source.held_out.count


def held_out_rows(recipe: Recipe, stage: StageName) -> HeldOutRows | None:
    """Return the rows that are drawn from a stage's file or mix; None where none are.

    Of a large file the draw is made once and kept in the cache.

    Raises:
        DataError: The data has too few rows, or too few whose pictures are not in too many others.
    """
    count = num_held_out(recipe, stage)
    place = _place(recipe, stage)
    if count is None or place is None:
        return None
    path, folder = place
    key = f"data.{stage}.held_out"
    rows_file = path / ROWS_NAME if path.is_dir() else path
    if rows_file.stat().st_size < CACHED_BYTES:
        return draw_rows(_groups(path, folder), count, key=key)
    file = cache_folder() / "held-out" / f"{file_key(rows_file, f'{_PURPOSE}/{count}')}.npz"
    with locked(file.with_suffix(".lock")):
        import numpy as np

        with suppress(OSError, ValueError, KeyError):
            kept = np.load(file)
            return HeldOutRows(kept["measured"], kept["kept_out"])
        rows = draw_rows(_groups(path, folder), count, key=key)
        with suppress(OSError):  # a cache that cannot be written costs time at the next start, and nothing else
            unfinished = file.with_name(f"{os.getpid()}.{file.name}")
            np.savez(unfinished, measured=rows.measured, kept_out=rows.kept_out)
            unfinished.rename(file)
    return rows


def draw_rows(groups: Iterable[tuple[int, list[int]]], count: int, *, key: str) -> HeldOutRows:
    """Draw rows by the hashes of their pictures; rows that are linked by pictures are drawn together.

    Args:
        groups: (row, hashes of its pictures; of a row of text alone, one of its own) of every row.
        count: Rows to draw.
        key: The recipe's, for messages.
    """
    import numpy as np

    numbers, parents, least = array("q"), array("q"), array("Q")
    first: dict[int, int] = {}
    for number, hashes in groups:
        row = len(numbers)
        numbers.append(number)
        parents.append(row)
        least.append(min(hashes))
        for value in hashes:
            _unite(parents, row, first.setdefault(value, row))
    total = len(numbers)
    if count >= total:
        raise DataError(
            f"{key}: {count:,} of {total:,} rows leave nothing to train on",
            hint=f"at most {max(total - 1, 0):,}; or samples of their own: held_out: {{path: FILE, image_folder: DIR}}",
        )
    roots = np.array([_root(parents, row) for row in range(total)], dtype=np.int64)
    lowest = np.full(total, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(lowest, roots, np.frombuffer(least, dtype=np.uint64))
    sizes = np.bincount(roots, minlength=total)
    most = min(MOST_KEPT_OUT * count, total - 1)
    place_of: dict[int, int] = {}
    taken = 0
    for root in np.lexsort((np.arange(total), lowest)).tolist():
        if sizes[root] and taken + sizes[root] <= most:
            place_of[root] = len(place_of)
            taken += int(sizes[root])
            if taken >= count:
                break
    if taken < count:
        raise DataError(
            f"{key}: {count:,} rows cannot be held out of {total:,}: too many rows show the same pictures, and no more"
            f" than {most:,} may be left out; {taken:,} can be held out",
            hint=f"at most {taken:,}; or samples of their own: held_out: {{path: FILE, image_folder: DIR}}",
        )
    kept = np.isin(roots, list(place_of)).nonzero()[0]
    places = np.array([place_of[root] for root in roots[kept].tolist()])
    order = np.lexsort((kept, places))
    own = np.frombuffer(numbers, dtype=np.int64)
    return HeldOutRows(own[kept[order][:count]].copy(), np.sort(own[kept]))


def check_held_out(recipe: Recipe, stage: StageName) -> None:
    """Raise UsageError where a stage's held-out samples are too many, not there, or trained on."""
    source = recipe.data.source(stage)
    if source is None or source.held_out is None:
        return
    if source.held_out.path is None:
        held_out_rows(recipe, stage)
        return
    root = recipe.data.root
    file, images = data_path(root, source.held_out.path), data_path(root, source.held_out.image_folder or "")
    for key, path, is_there in (("path", file, file.is_file()), ("image_folder", images, images.is_dir())):
        if not is_there:
            raise DataError(f"data.{stage}.held_out.{key}: {path.absolute()} is not there", hint=PATHS_START)
    held = {name: row.key for row in _sound_rows(file, images) for name in _contents(row)}
    place = _place(recipe, stage)
    if place is not None:
        _check_apart(held, CheckedData(*place), key=f"data.{stage}.held_out", file=file)


def _check_apart(held: dict[str, str], trained: CheckedData, *, key: str, file: Path) -> None:
    shared: dict[str, str] = {}
    for row in trained.rows():
        for name in _contents(row):
            if name in held:
                shared.setdefault(held[name], f"{row.key} ({name.rpartition('/')[2]})" if "/" in name else row.key)
    if shared:
        own, other = next(iter(shared.items()))
        raise DataError(
            f"{key}: {len(shared):,} rows of {file} are in the training data too, such as its {own}, which is"
            f" {other} of {trained.path}",
            hint="take them out of one of the two; or draw from the training data: held_out: 512",
        )


def _sound_rows(file: Path, images: Path) -> Iterator[CheckedRow]:
    for row in CheckedData(file, images).rows():
        defect = row.defect or row_error(row.row)
        if defect is not None:
            raise DataError(
                f"{file}, {row.key}: {ROW_DEFECTS[defect[0]].text} ({defect[1]})",
                hint=f"`croc data verify {file} --image-folder {images}` lists all such rows",
            )
        yield row


def _contents(row: CheckedRow) -> list[str]:
    """Return what makes a row another's double: its pictures' real paths; of text alone, its words."""
    if pictures := row.images():
        return [
            _hash(place.content).hex() if place.content is not None else os.path.realpath(place.name)
            for _, place in pictures
        ]
    turns = row.row.get("conversations") if isinstance(row.row, dict) else None
    return [_hash(repr(turns).encode("utf-8", "surrogatepass")).hex()] if turns else []


def _place(recipe: Recipe, stage: StageName) -> tuple[Path, Path | None] | None:
    """Return a stage's file and image folder, or its mix's folder; None for drawn scenes and for nothing."""
    source = recipe.data.source(stage)
    if isinstance(source, MixData):
        return mix_folder(recipe, stage), None
    if isinstance(source, LlavaJsonData):
        root = recipe.data.root
        return data_path(root, source.path), data_path(root, source.image_folder)
    return None


def _groups(path: Path, folder: Path | None) -> Iterator[tuple[int, list[int]]]:
    """Yield (row, hashes of its pictures) of every row; paths count from the data's own folder."""
    import numpy as np

    data = CheckedData(path, folder)
    order = None if data.mix is None else np.argsort(data.mix.index.offset, kind="stable")
    base = os.path.abspath(data.data_root) + "/"
    for row in data.rows():
        pictures = [
            place.content if place.content is not None else place.name.removeprefix(base).encode("utf-8", "replace")
            for _, place in row.images()
        ]
        hashes = [int.from_bytes(_hash(picture)[:8], "big") for picture in pictures or [row.key.encode()]]
        yield (row.number if order is None else int(order[row.number])), hashes


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _root(parents: "array[int]", row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


def _unite(parents: "array[int]", one: int, other: int) -> None:
    low, high = sorted((_root(parents, one), _root(parents, other)))
    parents[high] = low
