"""Makes pictures and LLaVA JSON files for the recipe `smol`: `python -m tests.smol.pictures --out DIR`.

Two npm packages hold them: pictures are Microsoft's Fluent emoji as LobeHub draws them (MIT), 256 pixels; labels, tags
and groups are emojibase's (MIT). A tenth of the emoji are kept for `test.json`; neither they nor their variants appear
in any other file.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from croc_cli.errors import CrocError, UsageError
from tests.smol.conversations import (
    Emoji,
    Row,
    brief_captions,
    detailed_captions,
    dialogues,
    family_of,
    held_out_questions,
    picture_key,
)

PICTURES_PACKAGE, LABELS_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0", "emojibase-data@17.0.0"
PICTURE_SIZE = 256  # pixels, as the package has them
JsonObject = dict[str, Any]  # as json.loads returns it; the packages fix what is inside


def read_emoji(packages: Path) -> list[tuple[Emoji, Path]]:
    """Return every emoji that has a picture, a label and a group, with its picture, in a fixed order.

    Args:
        packages: Folder in which npm installed the two packages.
    Raises:
        UsageError: A package is missing; the hint is the npm line.
    """
    hint = f"npm install --prefix {packages} {PICTURES_PACKAGE} {LABELS_PACKAGE}"
    pictures = packages / "node_modules" / "@lobehub" / "fluent-emoji-3d" / "assets"
    labels = packages / "node_modules" / "emojibase-data" / "en"
    for folder in (pictures, labels):
        if not folder.is_dir():
            raise UsageError(f"the npm packages of the pictures are not installed: no folder {folder}", hint=hint)
    by_key = {picture_key(path.stem): path for path in sorted(pictures.glob("*.webp"))}
    table = json.loads((labels / "data.json").read_text(encoding="utf-8"))
    messages = json.loads((labels / "messages.json").read_text(encoding="utf-8"))
    emoji = emoji_of_table(table, messages)
    return [(each, by_key[each.key]) for each in emoji if each.key in by_key]


def emoji_of_table(table: list[JsonObject], messages: JsonObject) -> list[Emoji]:
    """Return the emoji of emojibase's table that have a group, skin tones after the emoji they vary, each key once."""
    groups = {entry["order"]: entry["message"] for entry in messages["groups"]}
    subgroups = {entry["order"]: entry["message"] for entry in messages["subgroups"]}
    found: dict[str, Emoji] = {}
    for entry in table:
        if entry.get("group") not in groups:
            continue
        for variant in (entry, *entry.get("skins", [])):
            key = picture_key(variant["hexcode"])
            found.setdefault(
                key,
                Emoji(
                    key=key,
                    family=family_of(entry["hexcode"]),
                    label=variant["label"],
                    group=groups[entry["group"]],
                    subgroup=subgroups[entry["subgroup"]],
                    tags=tuple(entry.get("tags", ())),
                ),
            )
    return list(found.values())


def flatten(picture: Image.Image) -> Image.Image:
    """Return the picture as RGB, what is transparent filled with white, `PICTURE_SIZE` pixels square."""
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture.convert("RGBA"))
    return canvas.convert("RGB").resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BICUBIC)


def write_json(path: Path, rows: Iterable[Row]) -> int:
    """Write rows as a JSON list, one row a line; returns how many."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    return len(lines)


def one_of_each_family(emoji: Iterable[Emoji], *, count: int) -> list[Emoji]:
    """Return the first of `count` families, drawn by a hash, so that no two pictures differ in skin or gender alone."""
    first: dict[str, Emoji] = {}
    for each in emoji:
        first.setdefault(each.family, each)
    drawn = sorted(first.values(), key=lambda each: hashlib.sha256(f"train {each.family}".encode()).digest())[:count]
    chosen = {each.key for each in drawn}
    return [each for each in first.values() if each.key in chosen]


def make_pictures(packages: Path, destination: Path, *, num_train: int | None = None) -> dict[str, int]:
    """Write `images/`, `align.json`, `reconstruct.json`, `finetune.json` and `test.json` into a folder.

    Args:
        packages: Folder in which npm installed the two packages.
        destination: Where they are written.
        num_train: Pictures to train on, no two of a family; None for all, variants too.
    Returns:
        The number of rows of each file, and of pictures.
    Raises:
        UsageError: A package is missing; nothing is written.
    """
    found = read_emoji(packages)
    (destination / "images").mkdir(parents=True, exist_ok=True)
    for each, path in found:
        with Image.open(path) as picture:
            flatten(picture).save(destination / "images" / f"{each.key}.png")
    train = [each for each, _ in found if not each.is_test]
    if num_train is not None:
        train = one_of_each_family(train, count=num_train)
    test = [each for each, _ in found if each.is_test]
    files = {
        "align.json": brief_captions(train),
        "reconstruct.json": detailed_captions(train),
        "finetune.json": dialogues(train),
        "test.json": held_out_questions(test),
    }
    return {"images": len(found), **{name: write_json(destination / name, rows) for name, rows in files.items()}}


def main() -> int:
    """Make the pictures from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the pictures and LLaVA JSON files of the recipe `smol`.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for images/ and the JSON files")
    parser.add_argument(
        "--packages",
        type=Path,
        metavar="DIR",
        help="folder in which npm installed the packages (default: OUT/packages)",
    )
    parser.add_argument(
        "--train", type=int, metavar="N", help="pictures to train on, no two of a family (default: all)"
    )
    arguments = parser.parse_args()
    destination: Path = arguments.out
    packages: Path = arguments.packages or destination / "packages"
    try:
        counts = make_pictures(packages, destination, num_train=arguments.train)
    except CrocError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    for name, count in counts.items():
        print(f"{destination / name}  {count:,} {'pictures' if name == 'images' else 'rows'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
