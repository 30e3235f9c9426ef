"""Small POPE files and answers to them, as users have them on disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SUBSETS = ("adversarial", "popular", "random")
FIRST_ID = {"adversarial": 0, "popular": 20_000_000, "random": 10_000_000}


def write_pope(root: Path, *, num: int = 4, things: str = "dog", encoding: str = "utf-8") -> Path:
    """Write POPE's three files with `num` questions each and return the data root."""
    folder = root / "pope" / "coco"
    folder.mkdir(parents=True, exist_ok=True)
    for subset in SUBSETS:
        lines = [
            {
                "question_id": number,
                "image": f"i{number}.png",
                "text": f"Is there a {things} {number} in the image?",
                "label": "yes" if number % 2 else "no",
            }
            for number in range(1, num + 1)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"coco_pope_{subset}.json").write_text(text, encoding=encoding)
    return root


def pope_rows(num: int = 4, *, things: str = "dog") -> list[dict[str, Any]]:
    """Return the right answer to each question of `write_pope`, in LLaVA's form."""
    return [
        {
            "question_id": FIRST_ID[subset] + number,
            "prompt": f"Is there a {things} {number} in the image?\nAnswer the question using a single word or phrase.",
            "text": "Yes" if number % 2 else "No",
        }
        for subset in SUBSETS
        for number in range(1, num + 1)
    ]


def write_rows(file: Path, rows: Sequence[Any]) -> Path:
    """Write rows as JSON lines and return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file
