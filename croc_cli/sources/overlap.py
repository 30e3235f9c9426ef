"""Finds training images that are test images: by COCO's image numbers, and by content where that is known."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from croc_cli.sources.image_cache import ImageCache
from croc_cli.sources.image_check import ImagePlace, check_image
from croc_cli.sources.scan import Progress

EVAL_FOLDER = "eval"
"""Below the data root, as LLaVA's evaluation guide lays benchmarks out."""
_COCO_NUMBER = re.compile(r"(?:^|_)(\d{12})\.jpg$")
_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"))


@dataclass
class EvalImages:
    """The images of the evaluation sets.

    Args:
        coco: COCO image number → sets that have it.
        sha256: Hash of the content → sets that have it; empty where contents were not read.
        num_images: Of all sets.
    """

    coco: dict[int, set[str]] = field(default_factory=dict)
    sha256: dict[str, set[str]] = field(default_factory=dict)
    num_images: int = 0

    def sets_of(self, name: str, sha256: str = "") -> set[str]:
        """Return the evaluation sets that have an image, by its name and its content."""
        found = set(self.sha256.get(sha256, ())) if sha256 else set()
        number = coco_number(name)
        return found | self.coco.get(number, set()) if number is not None else found


def coco_number(name: str) -> int | None:
    """Return the number that COCO's file names end in, the same in its 2014 and 2017 editions; None for others."""
    match = _COCO_NUMBER.search(name.rpartition("/")[2])
    return int(match[1]) if match else None


def eval_images(
    folder: Path, *, contents: bool, cache: ImageCache | None = None, progress: Progress | None = None
) -> EvalImages:
    """List the images below the evaluation folder; the set is the first folder in the path.

    Args:
        folder: Such as data/eval; may be missing.
        contents: Read every image for its hash.
        cache: Remembers hashes.
        progress: Told how far it is.
    """
    found = EvalImages()
    if not folder.is_dir():
        return found
    for path in folder.rglob("*"):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        name = path.relative_to(folder).parts[0]
        found.num_images += 1
        if (number := coco_number(path.name)) is not None:
            found.coco.setdefault(number, set()).add(name)
        if contents:
            place = ImagePlace(str(path))
            facts = cache.find(place, perceptual=False) if cache is not None else None
            if facts is None:
                facts = check_image(place)
                if cache is not None:
                    cache.store([(place, facts)])
            found.sha256.setdefault(facts.sha256, set()).add(name)
        if progress is not None and found.num_images % 200 == 0:
            progress("reading evaluation images", found.num_images, None)
    return found


def describe_overlap(counts: "Counter[str]") -> str:
    """Return in words how many training rows show images of each evaluation set."""
    return ", ".join(f"{number:,} of {name}" for name, number in counts.most_common())
