"""Checks one row in LLaVA's form: what is wrong with it, and how bad that is."""

import re
import reprlib
from dataclasses import dataclass
from typing import Any, Final, Literal

from croc_cli.names import IMAGE_TOKEN
from croc_cli.reading import is_unicode, printable
from croc_cli.words import counted

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class DefectKind:
    """One kind of defect.

    Args:
        level: An error cannot be trained on as it is; a warning can, though perhaps not as meant.
        text: What is wrong, as a line of a report.
        hint: What to do about it.
    """

    level: Level
    text: str
    hint: str | None = None


Defect = tuple[str, str]
"""(code, detail): the key of ROW_DEFECTS, and what exactly stands there."""

SPECIAL_STRINGS: Final = (
    *("</s>", "<s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<im_start>", "<im_end>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|image|>", "<start_of_image>", "<end_of_image>"),
    *("<fake_token_around_image>", "<IMG_CONTEXT>", "<ImageHere>"),
)
ROLE_STRINGS: Final = (" ASSISTANT: ", " ASSISTANT:", "USER: ")
IMAGE_RANGE: Final = "image_range"
"""Key of a row whose images lie in tars: offset and length in bytes, or a list of those for a list of images."""

ROW_DEFECTS: Final[dict[str, DefectKind]] = {
    "json-broken": DefectKind("error", "a line that is not JSON"),
    "key-repeated": DefectKind("error", "an object that has a key twice", "leave one of the two"),
    "cell-unreadable": DefectKind("error", "a row with a cell that cannot be read"),
    "cells-not-columns": DefectKind(
        "error", "a line with more or fewer cells than the table has columns", "put a cell with commas into quotes"
    ),
    "header-repeated": DefectKind("error", "the table's header again, as where tables were joined"),
    "text-not-utf8": DefectKind("error", "a text that is not UTF-8"),
    "text-not-unicode": DefectKind("error", "a text with half of a character, such as an emoji that was cut in two"),
    "row-not-object": DefectKind("error", "a row that is not an object"),
    "columns-unknown": DefectKind(
        "error",
        "a row whose keys do not say which is the question and which the answer",
        "name them: columns: {human: [question], gpt: [answer], image: file_name}",
    ),
    "conversations-missing": DefectKind("error", "conversations that are no list of turns"),
    "turns-unequal": DefectKind("error", "a conversation as lists of roles and texts that are not equally long"),
    "turn-not-object": DefectKind("error", "a turn that is not an object with from and value"),
    "role-unknown": DefectKind("error", "a role other than human and gpt"),
    "value-not-text": DefectKind("error", "a value that is not text"),
    "value-several": DefectKind(
        "error", "several texts where one belongs", "a number picks one: columns: {gpt: [caption.0]}"
    ),
    "turns-not-alternating": DefectKind("error", "turns that do not alternate, human first"),
    "question-missing": DefectKind("error", "an empty question in a table of questions and answers"),
    "no-answer": DefectKind("error", "no answer to train on: every gpt turn is empty, or there is none"),
    "image-null": DefectKind("error", "an image that is null or empty", "a row of text alone has no image key"),
    "image-not-text": DefectKind("error", "an image that is neither a path, nor a list of paths, nor an image's bytes"),
    "image-encoded": DefectKind("error", "an image as base64 that cannot be decoded"),
    "image-url": DefectKind(
        "error", "an image that is a web address", "download the images and name their files instead"
    ),
    "image-range": DefectKind("error", "an image in a tar whose place in the tar is not an offset and length"),
    "image-outside": DefectKind(
        "error", "an image path that leaves its folder", "paths are relative, without '..' or backslashes"
    ),
    "picture-unread": DefectKind(
        "error", "a picture under a key that croc does not read", "name it: columns: {image: KEY}, or call it image"
    ),
    "picture-in-text": DefectKind(
        "error", "a picture's file named in the question", f"name it under image, and write {IMAGE_TOKEN} in its place"
    ),
    "marker-without-image": DefectKind(
        "error", "a marker of a picture in a row without image", f"name the picture under image; write {IMAGE_TOKEN}"
    ),
    "marker-beside": DefectKind("error", f"a picture in the text itself beside {IMAGE_TOKEN}"),
    "media-unknown": DefectKind("error", "a row with video or sound, which croc cannot train on"),
    "placeholder-missing": DefectKind("error", f"more images than {IMAGE_TOKEN} in the questions"),
    "placeholder-repeated": DefectKind("error", f"{IMAGE_TOKEN} more often than there are images"),
    "placeholder-in-answer": DefectKind("error", f"{IMAGE_TOKEN} in an answer"),
    "placeholder-without-image": DefectKind("error", f"{IMAGE_TOKEN} in a row without image"),
    "answer-empty": DefectKind("warning", "an empty answer beside others; it is not trained"),
    "question-empty": DefectKind("warning", "an empty question in a row without image"),
    "ends-on-human": DefectKind("warning", "a last question without answer; it is not trained"),
    "special-token": DefectKind(
        "warning", "a literal control token or role; croc reads it as text, LLaVA masks the whole row"
    ),
    "images-not-one": DefectKind("error", "several images where one belongs"),
    "leading-gpt": DefectKind("note", "a gpt turn before the first question; it is left out"),
}
_ROLES = ("human", "gpt")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80  # a value may hold a picture, or lists in lists in lists
_SPECIAL = re.compile("|".join(re.escape(text) for text in SPECIAL_STRINGS))


class BadCell(Exception):
    """A value of a record that is not as it should be; it becomes the defect of its row.

    Args:
        code: Key of ROW_DEFECTS.
        detail: What exactly stands there.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.defect: Defect = (code, detail)


def is_error(code: str) -> bool:
    """Tell whether a defect makes a row one that cannot be trained on."""
    return ROW_DEFECTS[code].level == "error"


def row_defects(row: Any) -> list[Defect]:
    """Return what is wrong with a row, the first error last; an empty list for a good row.

    The check ends at the first error, as what follows might rest on it.
    """
    if type(row) is not dict:
        return [("row-not-object", type(row).__name__)]
    turns = row.get("conversations")
    if type(turns) is not list or not turns:
        return [("conversations-missing", shown(turns))]
    found: list[Defect] = []
    texts, error = _turn_texts(turns, found)
    if error is not None:
        return [*found, error]
    num_images, error = _num_images(row)
    error = error or _placeholder_error(texts, num_images)
    if error is not None:
        return [*found, error]
    empty = [position for position in range(1, len(texts), 2) if not texts[position] or texts[position].isspace()]
    if len(empty) == len(texts) // 2:
        return [*found, ("no-answer", f"{len(texts)} turn(s)")]
    if len(texts) % 2:
        found.append(("ends-on-human", f"{counted(len(texts), 'turn')}"))
    found.extend(("answer-empty", f"turn {position}") for position in empty)
    if not num_images and not texts[0].strip():
        found.append(("question-empty", "turn 0"))
    for position, text in enumerate(texts):
        if "<" in text and text.count("<") > text.count(IMAGE_TOKEN) and (special := _SPECIAL.search(text)):
            found.append(("special-token", f"{special.group()!r} in turn {position}"))
        elif ":" in text and ("SER: " in text or " ASSIST" in text):
            found.extend(_roles_in(text, position))
    return found


def row_error(row: Any) -> Defect | None:
    """Return the error of a row that cannot be trained on, or None."""
    defects = row_defects(row)
    return defects[-1] if defects and is_error(defects[-1][0]) else None


def names_images(row: Any) -> bool:
    """Tell whether a row's images can be looked at, whatever else is wrong with it."""
    return type(row) is dict and _num_images(row)[1] is None


def leaves_folder(name: str) -> bool:
    """Tell whether an image's name is not a plain relative path."""
    is_absolute = name[0] == "/" or name[1:2] == ":"
    return is_absolute or "\\" in name or "\0" in name or (".." in name and ".." in name.split("/"))


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, on one line."""
    text = "nothing" if value is None else _SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _turn_texts(turns: list[Any], found: list[Defect]) -> tuple[list[str], Defect | None]:
    """Return the texts of turns that alternate from a human one on, or the error; a leading gpt turn is left out."""
    first = turns[0]
    if type(first) is dict and first.get("from") == "gpt" and len(turns) > 1:
        turns = turns[1:]
        found.append(("leading-gpt", "turn 0"))
    texts: list[str] = []
    for position, turn in enumerate(turns):
        if type(turn) is not dict:
            return texts, ("turn-not-object", f"turn {position}: {shown(turn)}")
        role = turn.get("from")
        if role != _ROLES[position & 1]:
            if role in _ROLES:
                return texts, ("turns-not-alternating", f"turn {position} is from {role}")
            return texts, ("role-unknown", f"turn {position}: {shown(role)}")
        text = turn.get("value")
        if type(text) is not str:
            return texts, ("value-not-text", f"turn {position}: {shown(text)}")
        if not text.isascii() and not is_unicode(text):
            return texts, ("text-not-unicode", f"turn {position}: {_broken_part(text)}")
        texts.append(text)
    return texts, None


def _broken_part(text: str) -> str:
    place = next(position for position, letter in enumerate(text) if not is_unicode(letter))
    return shown(text[max(0, place - 20) : place + 20])


def _num_images(row: dict[str, Any]) -> tuple[int, Defect | None]:
    if "image" not in row:
        return 0, None
    image = row["image"]
    if not image:
        return 0, ("image-null", shown(image))
    names = image if type(image) is list else [image]
    for name in names:
        if type(name) is not str:
            return 0, ("image-not-text", shown(name))
        if not name:
            return 0, ("image-null", shown(image))
        if not name.isascii() and not is_unicode(name):
            return 0, ("text-not-unicode", f"image {_broken_part(name)}")
        if leaves_folder(name):
            return 0, ("image-outside", printable(name))
        if name[:4] == "http" and name.startswith(("http://", "https://")):
            return 0, ("image-url", printable(name[:60]))
    if IMAGE_RANGE in row and image_ranges(row) is None:
        return 0, ("image-range", shown(row[IMAGE_RANGE]))
    return len(names), None


def image_ranges(row: dict[str, Any]) -> list[tuple[int, int]] | None:
    """Return offset and length of each image of a row whose images lie in tars; None where they are not such."""
    image, given = row.get("image"), row.get(IMAGE_RANGE)
    names, ranges = (image, given) if type(image) is list else ([image], [given])
    if type(ranges) is not list or len(ranges) != len(names):
        return None
    found = []
    for name, place in zip(names, ranges, strict=True):
        is_pair = type(place) in (list, tuple) and len(place) == 2 and all(type(n) is int and n >= 0 for n in place)
        if not is_pair or type(name) is not str or ".tar/" not in name.lower():
            return None
        found.append((place[0], place[1]))
    return found


def _placeholder_error(texts: list[str], num_images: int) -> Defect | None:
    num_all = texts[0].count(IMAGE_TOKEN)
    for position, text in enumerate(texts):
        # A single character is looked for fifty times faster than a word, and few texts have it.
        if position and "<" in text and IMAGE_TOKEN in text:
            if position % 2:
                return ("placeholder-in-answer", f"turn {position}")
            num_all += text.count(IMAGE_TOKEN)
    if not num_images:
        return ("placeholder-without-image", f"{num_all} time(s)") if num_all else None
    if num_all != num_images:
        code = "placeholder-repeated" if num_all > num_images else "placeholder-missing"
        return (code, f"{num_all} time(s), {num_images} image(s)")
    return None


def _roles_in(text: str, position: int) -> list[Defect]:
    """Return roles as the template writes them: LLaVA splits its prompt there."""
    for role in ROLE_STRINGS:
        at_edge = text.startswith(role) or text.endswith(role) if role.startswith("USER") else role in text
        if at_edge:
            return [("special-token", f"{role.strip()!r} in turn {position}")]
    return []
