"""Writes a conversation to a file: as LLaVA's JSON, which croc trains on, or as text."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from croc_cli.data.sample import Turn
from croc_cli.errors import UsageError
from croc_cli.names import IMAGE_TOKEN


def save_transcript(
    file: Path, turns: Sequence[Turn], *, image_names: Sequence[str], model: str, overwrite: bool = False
) -> None:
    """Write a conversation; a name that ends in .json gets LLaVA's form, any other plain text.

    Raises:
        UsageError: The file exists and `overwrite` is not set, or it cannot be written.
    """
    text = as_llava_json(turns, image_names, model) if file.suffix.lower() == ".json" else as_text(turns, image_names)
    try:
        with file.open("w" if overwrite else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise UsageError(f"{file} exists", hint=f"/save {file} --overwrite replaces it") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def as_llava_json(turns: Sequence[Turn], image_names: Sequence[str], model: str) -> str:
    """Return a LLaVA JSON list of one sample."""
    sample: dict[str, Any] = {"id": "chat", "model": model}
    if image_names:
        sample["image"] = image_names[0] if len(image_names) == 1 else list(image_names)
    sample["conversations"] = [{"from": turn.role, "value": turn.text} for turn in turns]
    return json.dumps([sample], ensure_ascii=False, indent=2) + "\n"


def as_text(turns: Sequence[Turn], image_names: Sequence[str]) -> str:
    """Return the conversation as people read it: `>` before what was asked, the names of pictures in brackets."""
    names = iter(image_names)
    lines = []
    for turn in turns:
        if turn.role == "gpt":
            lines += [turn.text, ""]
            continue
        head, *rest = turn.text.split(IMAGE_TOKEN)
        shown = head + "".join(f"[{next(names, 'image')}]{piece}" for piece in rest)
        lines += [f"> {line}" for line in shown.splitlines()] + [""]
    return "\n".join(lines)
