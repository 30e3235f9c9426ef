"""Checks one row in LLaVA's form: what is wrong with it, and how bad that is."""

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from croc_cli.names import IMAGE_TOKEN

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

SPECIAL_STRINGS: Final = ("</s>", "<s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<im_start>", "<im_end>")
ROLE_STRINGS: Final = (" ASSISTANT: ", " ASSISTANT:", "USER: ")
ROW_DEFECTS: Final[dict[str, DefectKind]] = {
    "json-broken": DefectKind("error", "a line that is not JSON"),
    "row-not-object": DefectKind("error", "a row that is no object"),
    "conversations-missing": DefectKind("error", "conversations that are no list of turns"),
    "turn-not-object": DefectKind("error", "a turn that is no object with from and value"),
    "role-unknown": DefectKind("error", "a role other than human and gpt"),
    "value-not-text": DefectKind("error", "a turn whose value is no text"),
    "turns-not-alternating": DefectKind("error", "turns that do not alternate, human first"),
    "no-answer": DefectKind("error", "no answer to train on: every gpt turn is empty, or there is none"),
    "image-null": DefectKind("error", "an image that is null or empty", "a row of text alone has no image key"),
    "image-not-text": DefectKind("error", "an image that is neither a path nor a list of paths"),
    "image-outside": DefectKind(
        "error", "an image path that leaves its folder", "paths are relative, without '..' or backslashes"
    ),
    "placeholder-missing": DefectKind("error", f"an image without {IMAGE_TOKEN} in the first question"),
    "placeholder-repeated": DefectKind("error", f"{IMAGE_TOKEN} more often than there are images"),
    "placeholder-in-answer": DefectKind("error", f"{IMAGE_TOKEN} in an answer"),
    "placeholder-without-image": DefectKind("error", f"{IMAGE_TOKEN} in a row without image"),
    "answer-empty": DefectKind("warning", "an empty answer beside others; it is not trained"),
    "question-empty": DefectKind("warning", "an empty question in a row without image"),
    "ends-on-human": DefectKind("warning", "a last question without answer; it is not trained"),
    "special-token": DefectKind(
        "warning", "a literal control token or role; croc reads it as text, LLaVA masks the whole row"
    ),
    "images-not-one": DefectKind("error", "a record with several images, or none where one belongs"),
    "leading-gpt": DefectKind("note", "a gpt turn before the first question; it is left out"),
}
_ROLES = ("human", "gpt")
_SPECIAL = re.compile("|".join(re.escape(text) for text in SPECIAL_STRINGS))


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
        return [("conversations-missing", _shown(turns))]
    found: list[Defect] = []
    texts, error = _turn_texts(turns, found)
    if error is not None:
        return [*found, error]
    empty = [position for position in range(1, len(texts), 2) if not texts[position] or texts[position].isspace()]
    if len(empty) == len(texts) // 2:
        return [*found, ("no-answer", f"{len(texts)} turn(s)")]
    if len(texts) % 2:
        found.append(("ends-on-human", f"{len(texts)} turns"))
    found.extend(("answer-empty", f"turn {position}") for position in empty)
    num_images, error = _num_images(row)
    error = error or _placeholder_error(texts, num_images)
    if error is not None:
        return [*found, error]
    if not num_images and not texts[0].strip():
        found.append(("question-empty", "turn 0"))
    for position, text in enumerate(texts):
        if "<" in text and text.count("<") > text.count(IMAGE_TOKEN) and (special := _SPECIAL.search(text)):
            found.append(("special-token", f"{special.group()!r} in turn {position}"))
        elif ":" in text and ("SER: " in text or " ASSIST" in text):
            found.extend(_roles_in(text, position))
    return found


def leaves_folder(name: str) -> bool:
    """Tell whether an image's name is not a plain relative path."""
    is_absolute = name[0] == "/" or name[1:2] == ":"
    return is_absolute or "\\" in name or (".." in name and ".." in name.split("/"))


def _turn_texts(turns: list[Any], found: list[Defect]) -> tuple[list[str], Defect | None]:
    """Return the texts of turns that alternate from a human one on, or the error; a leading gpt turn is left out."""
    first = turns[0]
    if type(first) is dict and first.get("from") == "gpt" and len(turns) > 1:
        turns = turns[1:]
        found.append(("leading-gpt", "turn 0"))
    texts: list[str] = []
    for position, turn in enumerate(turns):
        if type(turn) is not dict:
            return texts, ("turn-not-object", f"turn {position}: {_shown(turn)}")
        role = turn.get("from")
        if role != _ROLES[position & 1]:
            if role in _ROLES:
                return texts, ("turns-not-alternating", f"turn {position} is from {role}")
            return texts, ("role-unknown", f"turn {position}: {_shown(role)}")
        text = turn.get("value")
        if type(text) is not str:
            return texts, ("value-not-text", f"turn {position}: {_shown(text)}")
        texts.append(text)
    return texts, None


def _num_images(row: dict[str, Any]) -> tuple[int, Defect | None]:
    if "image" not in row:
        return 0, None
    image = row["image"]
    if not image:
        return 0, ("image-null", _shown(image))
    names = image if type(image) is list else [image]
    for name in names:
        if type(name) is not str:
            return 0, ("image-not-text", _shown(name))
        if not name:
            return 0, ("image-null", _shown(image))
        if leaves_folder(name):
            return 0, ("image-outside", name)
    return len(names), None


def _placeholder_error(texts: list[str], num_images: int) -> Defect | None:
    num_first = num_all = texts[0].count(IMAGE_TOKEN)
    for position, text in enumerate(texts):
        # A single character is looked for fifty times faster than a word, and few texts have it.
        if position and "<" in text and IMAGE_TOKEN in text:
            if position % 2:
                return ("placeholder-in-answer", f"turn {position}")
            num_all += text.count(IMAGE_TOKEN)
    if not num_images:
        return ("placeholder-without-image", f"{num_all} time(s)") if num_all else None
    if num_all > num_images:
        return ("placeholder-repeated", f"{num_all} time(s), {num_images} image(s)")
    if num_all < num_images or not num_first:
        return ("placeholder-missing", f"{num_first} in the first question, {num_images} image(s)")
    return None


def _roles_in(text: str, position: int) -> list[Defect]:
    """Return roles as the template writes them: LLaVA splits its prompt there."""
    for role in ROLE_STRINGS:
        at_edge = text.startswith(role) or text.endswith(role) if role.startswith("USER") else role in text
        if at_edge:
            return [("special-token", f"{role.strip()!r} in turn {position}")]
    return []


def _shown(value: Any) -> str:
    shown = "nothing" if value is None else repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
