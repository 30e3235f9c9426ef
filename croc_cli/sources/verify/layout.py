"""Looks for a missing image where people's folders usually have it, and says how to put that right."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

_MAX_LISTED = 200_000
"""Folder entries that are looked through at most."""
_TRIED = 40
_MOST_FOLDERS = 50
"""Folders that are looked into in one place: numbered ones may be many."""
_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".JPG", ".JPEG", ".PNG")


def image_prefix(name: str) -> str:
    """Return the folder that an image's path names, two levels of it at most: `coco/train2017`."""
    return "/".join(PurePosixPath(name).parts[:-1][:2])


def find_elsewhere(root: Path, name: str) -> str | None:
    """Return where an image lies instead, and what to do about it; None where it is nowhere near.

    Args:
        root: Folder that its path starts from.
        name: Its path from there.
    """
    wanted = root / name
    for there, advice in _candidates(root, name):
        if there.is_file():
            return f"{name} lies at {there}: {advice}"
    lower = wanted.name.lower()
    if wanted.parent.is_dir():
        with os.scandir(wanted.parent) as entries:
            for _, entry in zip(range(_MAX_LISTED), entries, strict=False):
                if entry.name.lower() == lower:
                    return f"{name} is written {entry.name} there: names are case-sensitive"
    return None


def fitting_folder(root: Path, names: Sequence[str]) -> Path | None:
    """Return the folder near an image folder from which most of the given paths lead to files; None where none does.

    Args:
        root: The image folder that does not fit; it need not exist.
        names: Image paths, of which a few dozen are tried.
    """
    tried = names[:_TRIED]
    best: tuple[int, Path] | None = None
    for folder in _near(root):
        hits = sum((folder / name).is_file() for name in tried)
        if 2 * hits > len(tried) and (best is None or hits > best[0]):
            best = (hits, folder)
    return best[1] if best is not None else None


def _near(root: Path) -> Iterator[Path]:
    """Yield the folders up to two levels below and above a folder, and those beside it; the nearest first."""
    above = [root.parent, root.parent.parent] if root.parent != Path() else [Path(), Path("..")]
    children = _folders(root)
    yield from (*children, *above)
    yield from (folder for child in children for folder in _folders(child))
    yield from (folder for folder in _folders(root.parent) if folder != root)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir())[:_MOST_FOLDERS]
    except OSError:
        return []


def _candidates(root: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Yield (where it might be, what to do if it is there)."""
    path = PurePosixPath(name)
    folder, file = root / path.parent, path.name
    last = folder.name
    yield folder / last / file, f"the folder is nested; mv {folder / last}/* {folder}/"
    if folder.is_dir():
        for child in sorted(child for child in folder.iterdir() if child.is_dir())[:50]:
            yield child / file, f"its folder is one level too deep; image root or link: ln -s {child} {folder}"
    yield folder.parent / file, f"its folder is one level too high; mkdir {folder} and move the images into it"
    if root.is_dir():
        for child in sorted(child for child in root.iterdir() if child.is_dir())[:50]:
            yield child / name, f"paths start one level deeper; set the image root to {child}"
    yield root.parent / name, f"paths start one level higher; set the image root to {root.parent}"
    if len(path.parts) > 1:
        rest = PurePosixPath(*path.parts[1:])
        yield root / rest, f"paths name a folder that is the image root itself; set the image root to {root.parent}"
    if "train2017" in path.parts:
        old = root / str(path.parent).replace("train2017", "train2014")
        yield old / f"COCO_train2014_{file}", "these are COCO's 2014 images under other names; fetch train2017.zip"
    if last in ("VG_100K", "VG_100K_2"):
        other = {"VG_100K": "VG_100K_2", "VG_100K_2": "VG_100K"}[last]
        yield (
            folder.parent / other / file,
            f"both parts of Visual Genome were put into one folder; ln -s {other} {last}",
        )
        yield folder.parent / "images" / file, "Visual Genome's two folders were merged; unpack its two zips apart"
    if "llava_pretrain" not in name:
        rooted = root / "llava" / "llava_pretrain" / "images" / name
        yield (
            rooted,
            f"LLaVA-Pretrain's paths start from {root / 'llava' / 'llava_pretrain' / 'images'}; set it as image root",
        )
    for suffix in _SUFFIXES:
        if suffix != path.suffix:
            yield folder / (path.stem + suffix), f"it ends in {suffix} there; rename it, as its rows say {path.suffix}"
