"""Finds the files of one configuration and one split in a clone of a hub data set.

Layouts that the hub has: `data/SPLIT-00000-of-00002.parquet`, `CONFIG/SPLIT-00000-of-00002.parquet`, what it converts
itself, `CONFIG/SPLIT/0000.parquet`, and files in the clone's own folder.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from croc_cli.errors import UsageError

SPLITS: Final = ("train", "training", "validation", "valid", "val", "dev", "test", "testdev")
"""What a split's name begins with; a file named otherwise may be of any split."""
_DATA_FOLDERS: Final = ("data", "default")
_SHARD = re.compile(r"-\d+(-of-\d+)?(-[0-9a-f]+)?$")
_SHOWN = 5


class CloneError(UsageError):
    """A clone that lacks the wanted files, or holds several that could be meant; exit code 2."""


@dataclass(frozen=True)
class CloneFile:
    """One file of a clone.

    Args:
        path: Where it lies.
        config: Its configuration; empty for the files of the only one.
        split: Its split, or None where neither its name nor its folder says one.
    """

    path: Path
    config: str
    split: str | None

    def is_of(self, split: str) -> bool:
        """Tell whether it may be of a split: it is named so, or longer, such as train_sft, or no split at all."""
        return self.split is None or re.match(rf"{split}(?![a-z])", self.split) is not None


def clone_files(folder: Path, *suffixes: str) -> list[CloneFile]:
    """Return the files of a clone with certain endings, in order of their paths; those at most two folders down."""
    found, level = [], [folder]
    for _ in range(3):
        entries = [entry for place in level if place.is_dir() for entry in place.iterdir()]
        found += [path for path in entries if path.suffix.lower() in suffixes and path.is_file()]
        level = [entry for entry in entries if not entry.suffix and entry.is_dir()]
    return [_clone_file(path, path.relative_to(folder).parts[:-1]) for path in sorted(found)]


def choose_files(
    folder: Path, files: Sequence[CloneFile], *, splits: Sequence[str], config: str | None = None
) -> list[Path]:
    """Return the files of a split, all of one configuration.

    Args:
        folder: The clone.
        files: What it holds.
        splits: The wanted split, under all names that it goes by; the first that is there is taken.
        config: The wanted configuration; default: the only one.

    Raises:
        CloneError: No file is of that split or configuration, or several configurations could be meant.
    """
    own = _of_config(folder, files, config, splits)
    for split in splits:
        if chosen := [file.path for file in own if file.split == split]:
            return chosen
    for split in splits:  # of a split with a longer name, such as train_sft, where there is one alone
        longer = {file.split for file in own if file.split and re.match(rf"{split}(?![a-z])", file.split)}
        if len(longer) == 1:
            return [file.path for file in own if file.split in longer]
    if all(file.split is None for file in own):
        return [file.path for file in own]
    name = f" of {own[0].config}" if own[0].config else ""
    raise CloneError(
        f"{folder} has no files of the split {' or '.join(splits)}{name}: it has {_listed(folder, own)}",
        hint=f"fetch {own[0].path.parent / f'{splits[0]}-*{own[0].path.suffix}'}, too; or name the file itself",
    )


def _of_config(folder: Path, files: Sequence[CloneFile], config: str | None, splits: Sequence[str]) -> list[CloneFile]:
    """Return the files of the wanted configuration, else those outside any, else of the only one."""
    for wanted in (config, ""):
        if wanted is not None and (own := [file for file in files if file.config == wanted]):
            return own
    configs = sorted({file.config for file in files})
    if config is not None:
        raise CloneError(
            f"{folder} has no configuration {config}: it has {', '.join(configs[:_SHOWN])}",
            hint=f"fetch {folder / config / f'{splits[0]}-*.parquet'}, too",
        )
    holding = [name for name in configs if any(file.config == name and file.split in splits for file in files)]
    names = holding or configs
    if len(names) > 1:
        raise CloneError(
            f"{folder} has several configurations, and any of them could be meant: {', '.join(names[:_SHOWN])}"
            + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""),
            hint=f"name one of them as the path: {folder / names[0]}",
        )
    return [file for file in files if file.config == names[0]]


def _clone_file(path: Path, folders: tuple[str, ...]) -> CloneFile:
    split = _split(_SHARD.sub("", path.stem))
    if split is None and folders and (split := _split(folders[-1])) is not None:
        folders = folders[:-1]
    named = [name for name in folders if name not in _DATA_FOLDERS]
    return CloneFile(path, "/".join(named), split)


def _split(name: str) -> str | None:
    lower = name.lower()
    word = re.match(r"[a-z]*", lower)
    return lower if word is not None and word[0] in SPLITS else None


def _listed(folder: Path, files: Sequence[CloneFile]) -> str:
    names = [str(file.path.relative_to(folder)) for file in files[:_SHOWN]]
    return ", ".join(names) + (f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else "")
