"""Finds pictures that a question names in another program's way: `<|image_pad|>`, `<img>p.png</img>`, `<ImageHere>`.

Pictures are read, or their row is refused; honest text stays text. So there are four kinds of markers:

- A path between `<img>` and `</img>` is a picture of its own (Qwen-VL's form). HTML never has that.
- A sure marker, such as `<|image_pad|>`, stands for a picture of the row. In a row without pictures it is a defect,
  unless it is quoted.
- A weak marker is a word of HTML or in brackets, such as `<img>` or `[IMG]`. It stands for a picture where the row has
  exactly as many. In a row without pictures it is a defect at the edge of a question.
- `![](p.png)` and `<img src="p.png">` are a defect where that file is among the pictures.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from croc_cli.names import IMAGE_TOKEN
from croc_cli.sources.read.picture_cells import Picture
from croc_cli.sources.read.rows import BadCell, Defect, shown
from croc_cli.sources.read.turns import Conversation, Slot

_NUMBER: Final = r"[_ -]?(?P<n{}>\d{{1,3}})"
_SURE: Final = (
    r"(?:<\|vision_start\|>)?(?:<\|image_pad\|>)+(?:<\|vision_end\|>)?",  # Qwen2-VL and later
    r"<\|vision_start\|>\s*<\|vision_end\|>",
    r"<img>\s*(?:<IMG_CONTEXT>)*\s*</img>|(?:<IMG_CONTEXT>)+",  # InternVL
    r"<Img>\s*<ImageHere>\s*</Img>|<ImageHere>",  # MiniGPT-4, InternLM-XComposer
    r"<\|image" + _NUMBER.format(1) + r"\|>",  # Phi-3-vision
    r"<\|(?:image|img|picture|image_token|image_placeholder|imgpad)\|>",  # Llama 3.2, DeepSeek
    r"<(?:image|img)[_-](?:placeholder|here|token|pad)>|<image\s*/>",  # DeepSeek-VL, LLaVA's server
    r"(?:<start_of_image>)(?:<image_soft_token>)*(?:<end_of_image>)?|(?:<image_soft_token>)+",  # Gemma 3
    r"<(?:image|img|picture)" + _NUMBER.format(2) + r">",  # MMMU, Mantis
)
_WEAK: Final = (
    r"\[(?:IMG|IMAGE|img|image)\](?![^\n]*\[/)",  # Pixtral; with a closing tag it is BBCode
    r"<(?:IMAGE|Image|img|IMG|Img|picture|photo)>",
    r"\{\{?\s*(?:image|img)\s*\}\}?",
)
_SURE_MEDIA: Final = r"<\|(?:video|audio)(?:_pad|_bos|_eos|_\d+)?\|>|<\|(?:VIDEO|AUDIO)\|>"
_WEAK_MEDIA: Final = r"<(?:video|audio|speech|sound|VIDEO|AUDIO|Video|Audio)>"
_UNQUOTED: Final = r"(?<![`'\"“‘«])(?:{})(?![`'\"”’»])"
_AT_EDGE: Final = (
    # "<img> tags in HTML" goes on with a small letter, and code with a bracket.
    r"\A\s*(?P<start>{0})(?=\s*(?:\Z|[^\sa-z<>\[\]{{}}&;/]))|(?:\A|\n|[.?!]\s)[ \t]*(?P<end>{0})\s*\Z"
)

_path = re.compile(r"<img>(?P<path>[^<>\n]*[^<>\s][^<>\n]*)</img>")
_wrapped = re.compile(
    r"\(<image>\./</image>\)|<image>(?:\./|\s*)</image>|"  # MiniCPM-V
    r"<\|vision_start\|>\s*<image>\s*<\|vision_end\|>|<Img>\s*<image>\s*</Img>|"
    r"<fake_token_around_image>\s*<image>\s*<fake_token_around_image>"  # Idefics 2
)
_sure = re.compile(_UNQUOTED.format("|".join(_SURE)))
_weak = re.compile("|".join(_WEAK))
_weak_at_edge = re.compile(_AT_EDGE.format("|".join(_WEAK)))
_media = re.compile(_UNQUOTED.format(_SURE_MEDIA))
_media_at_edge = re.compile(_AT_EDGE.format(_WEAK_MEDIA))
_named = re.compile(r"!\[[^\]\n]*\]\(\s*<?(?P<markdown>[^)\s>]+)|<img\s[^>]*?src\s*=\s*[\"']?(?P<html>[^\"'>\s]+)")


def may_hold_markers(text: str) -> bool:
    """Tell whether it is worth a closer look at a text; nearly no text of a large file is."""
    return "[" in text or "{" in text or ("<" in text and text.count("<") > text.count(IMAGE_TOKEN))


def has_markers(questions: Sequence[str], num_given: int) -> bool:
    """Tell whether markers in questions change how their row is read.

    Args:
        questions: The human's texts.
        num_given: Pictures under the row's keys.
    """
    try:
        return _resolve(questions, num_given, has_slots=any(IMAGE_TOKEN in text for text in questions)) is not None
    except BadCell:
        return True


def read_markers(conversation: Conversation, *, num_given: int) -> None:
    """Put `<image>` in the place of each marker of a picture, and note which picture that is.

    Raises:
        BadCell: A marker stands for no picture of the row, or for a video.
    """
    turns = [turn for turn in conversation.turns if turn["from"] == "human"]
    texts = [turn["value"] for turn in turns]
    if not any(map(may_hold_markers, texts)):
        return
    found = _resolve(texts, num_given, has_slots=bool(conversation.slots))
    if found is None:
        return
    texts, slots = found
    for turn, text in zip(turns, texts, strict=True):
        turn["value"] = text
    conversation.slots = slots or conversation.slots


def picture_in_text(row: Any, root: Path | str) -> Defect | None:
    """Return the defect of a row without image whose question names a picture's file, in Markdown or HTML.

    Args:
        row: In LLaVA's form, but perhaps with defects, which are the row check's to name.
        root: Folder that image paths start from; a name that is not a file there is honest text.
    """
    if type(row) is not dict or row.get("image"):
        return None
    turns = row.get("conversations")
    for turn in turns if type(turns) is list else ():
        text = turn.get("value") if type(turn) is dict and turn.get("from") == "human" else None
        if type(text) is str and ("](" in text or "<img" in text):
            for match in _named.finditer(text):
                name = match["markdown"] or match["html"]
                if name.startswith("data:image/") or _is_file(root, name):
                    return ("picture-in-text", shown(name))
    return None


def _resolve(texts: Sequence[str], num_given: int, *, has_slots: bool) -> tuple[list[str], list[Slot]] | None:
    """Return questions with `<image>` for their markers, and the pictures of those; None where nothing changes.

    The list of pictures is empty where the places of `<image>` are as they were.

    Raises:
        BadCell: See `read_markers`.
    """
    whole = [_wrapped.sub(IMAGE_TOKEN, text) for text in texts]
    path = next((match for text in whole if (match := _path.search(text))), None)
    if has_slots:
        if path is not None:
            raise BadCell("marker-beside", shown(path.group()))
        return (whole, []) if whole != list(texts) else None
    for number, text in enumerate(whole):
        if media := _media.search(text) or (None if num_given else _media_at_edge.search(text)):
            raise BadCell("media-unknown", _shown(media, number))
    if path is not None:
        return _replaced(whole, _path)
    marker = _first(_sure, whole)
    if marker is None and num_given and sum(len(_weak.findall(text)) for text in whole) == num_given:
        return _replaced(whole, _weak)
    marker = marker or (None if num_given else _first(_weak_at_edge, whole))
    if marker is None:
        return None
    if not num_given:
        raise BadCell("marker-without-image", marker)
    return _replaced(whole, _sure)


def _first(pattern: re.Pattern[str], texts: Sequence[str]) -> str | None:
    for number, text in enumerate(texts):
        if match := pattern.search(text):
            return _shown(match, number)
    return None


def _shown(match: re.Match[str], number: int) -> str:
    inside = match.groupdict()
    return f"{shown(inside.get('start') or inside.get('end') or match.group())} in question {number}"


def _replaced(texts: Sequence[str], pattern: re.Pattern[str]) -> tuple[list[str], list[Slot]]:
    found = [match.groupdict() for text in texts for match in pattern.finditer(text)]
    numbers = [int(number) if (number := one.get("n1") or one.get("n2")) else None for one in found]
    first = 0 if 0 in numbers else 1  # MiniCPM-V counts from <image_00>, Phi-3-vision from <|image_1|>
    slots: list[Slot] = [
        Picture(path.strip()) if (path := one.get("path")) else None if number is None else number - first
        for one, number in zip(found, numbers, strict=True)
    ]
    return [pattern.sub(IMAGE_TOKEN, text) for text in texts], slots


def _is_file(root: Path | str, name: str) -> bool:
    try:
        return Path(root, name.removeprefix("file://")).is_file()
    except (OSError, ValueError):
        return False
