"""From a table's columns to a row in LLaVA's form."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from croc_cli.names import IMAGE_TOKEN
from croc_cli.sources.read.rows import Defect

CAPTION_PROMPT = "Describe this image."
"""What the human asks where a table has captions alone; the `plain` template leaves it out."""

EMBEDDED = "embedded"
"""Name of an image that lies in the table, until the mix gives it one."""

_IMAGE_NAMES = ("image", "images", "file_name", "image_path", "image_file", "filename", "jpg", "png")
_CAPTION_NAMES = ("caption", "text", "blip_caption", "description", "txt")
_HUMAN_NAMES = (("instruction", "input"), ("instruction", "context"), ("instruction",), ("question",), ("query",))
_GPT_NAMES = ("output", "target", "response", "answer", "completion")
_CONVERSATION_NAMES = ("conversations", "messages", "texts")
_ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; a dot goes into a struct, or into JSON that a column holds as text.

    Args:
        human: Joined by a line end, empty ones left out.
        gpt: The first that is there.
        conversations: A whole conversation: turns with from/value or role/content, pairs of user/assistant, or a list
            of texts that alternate.
        image: A path, an image's bytes, or a list of one of them.
        prompt: What the human asks where no column does.
        strip: Strip white space around answers.
        answer_prefix: Removed from the start of answers.
    """

    human: tuple[str, ...] = ()
    gpt: tuple[str, ...] = ()
    conversations: str | None = None
    image: str | None = None
    prompt: str | None = None
    strip: bool = False
    answer_prefix: str | None = field(default=None)

    def names(self) -> list[str]:
        """Return the columns of the table that are needed; of several for the answer one will do."""
        named = [*self.human, *self.gpt, *filter(None, (self.conversations, self.image))]
        return [name.split(".")[0] for name in named]


@dataclass(frozen=True)
class Converted:
    """A record as a row.

    Args:
        row: In LLaVA's form, without image where the record holds the image itself.
        image: The image's bytes.
        defect: Why it could not be converted.
    """

    row: dict[str, Any] | None = None
    image: bytes | None = None
    defect: Defect | None = None


def guess_columns(names: Sequence[str]) -> dict[str, Any]:
    """Return what well-known column names mean, as arguments of `Columns`; empty where they mean nothing."""
    found: dict[str, Any] = {}
    image = next((name for name in _IMAGE_NAMES if name in names), None)
    if image is not None:
        found["image"] = image
    if conversation := next((name for name in _CONVERSATION_NAMES if name in names), None):
        return {**found, "conversations": conversation}
    gpt = next((name for name in _GPT_NAMES if name in names), None)
    human = next((group for group in _HUMAN_NAMES if set(group) <= set(names)), None)
    if human is None and gpt in ("output", "target") and "input" in names:
        human = ("input",)
    if gpt is not None and human is not None:
        return {**found, "human": human, "gpt": (gpt,)}
    caption = next((name for name in _CAPTION_NAMES if name in names), None)
    return {**found, "gpt": (caption,)} if caption is not None and image is not None else {}


def convert(record: Mapping[str, Any], columns: Columns, *, row_id: str, with_image: bool) -> Converted:
    """Return a record as a row.

    Args:
        record: Values by column.
        columns: Which hold what.
        row_id: Its id, where the record has none.
        with_image: Read the image's bytes, where the record holds them; else the row's image is only counted.
    """
    image_name, image, num_images, defect = _image(record, columns, with_image=with_image)
    if defect is not None:
        return Converted(defect=defect)
    turns, defect = _turns(record, columns)
    if defect is not None:
        return Converted(defect=defect)
    if num_images and turns and IMAGE_TOKEN not in turns[0]["value"]:
        turns[0]["value"] = f"{IMAGE_TOKEN}\n{turns[0]['value']}".rstrip("\n")
    given = record.get("id")
    row: dict[str, Any] = {"id": str(given) if isinstance(given, str | int) else row_id}
    if num_images:
        row["image"] = image_name or EMBEDDED
    row["conversations"] = turns
    return Converted(row, image)


def _turns(record: Mapping[str, Any], columns: Columns) -> tuple[list[dict[str, str]], Defect | None]:
    if columns.conversations is not None:
        turns, defect = _conversation(value_at(record, columns.conversations))
    else:
        human = [value for name in columns.human if (value := _text(value_at(record, name)))]
        answers = [value for name in columns.gpt if (value := value_at(record, name)) is not None]
        if not human:
            human = [columns.prompt if columns.prompt is not None else CAPTION_PROMPT] if columns.image else [""]
        answer = _text(answers[0]) if answers else ""
        turns, defect = [{"from": "human", "value": "\n".join(human)}, {"from": "gpt", "value": answer}], None
    if defect is None and (columns.strip or columns.answer_prefix):
        for turn in turns:
            if turn["from"] == "gpt" and isinstance(turn["value"], str):
                turn["value"] = _trimmed(turn["value"], columns)
    return turns, defect


def _trimmed(answer: str, columns: Columns) -> str:
    answer = answer.removeprefix(columns.answer_prefix) if columns.answer_prefix else answer
    return answer.strip() if columns.strip else answer


def _conversation(value: Any) -> tuple[list[dict[str, str]], Defect | None]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return [], ("conversations-missing", repr(value[:60]))
    if not isinstance(value, Iterable) or isinstance(value, Mapping | str):
        return [], ("conversations-missing", type(value).__name__)
    turns: list[dict[str, str]] = []
    for position, turn in enumerate(value):
        if isinstance(turn, str):
            turns.append({"from": "gpt" if position % 2 else "human", "value": turn})
        elif isinstance(turn, Mapping) and "user" in turn and "assistant" in turn:
            if _text(turn["user"]) and _text(turn["assistant"]):  # a pair that lacks one side trains nothing
                turns.append({"from": "human", "value": _text(turn["user"])})
                turns.append({"from": "gpt", "value": _text(turn["assistant"])})
        elif isinstance(turn, Mapping):
            role, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
            turns.append({"from": _ROLES.get(str(role), str(role)), "value": text})
        else:
            return [], ("turn-not-object", f"turn {position}: {type(turn).__name__}")
    return turns, None


def _image(
    record: Mapping[str, Any], columns: Columns, *, with_image: bool
) -> tuple[str | None, bytes | None, int, Defect | None]:
    """Return an image's name, its bytes, the number of images (0 or 1), and what is wrong."""
    if columns.image is None:
        return None, None, 0, None
    value = value_at(record, columns.image)
    if isinstance(value, list):
        if len(value) != 1:
            return None, None, 0, ("images-not-one", f"{len(value)} images") if value else None
        value = value[0]
    if value is None:
        return None, None, 0, None  # a row of text alone
    if isinstance(value, str):
        return value, None, 1, None
    name = None
    if isinstance(value, Mapping):
        name, value = value.get("path"), value.get("bytes")
    if isinstance(value, bytes):
        return name, value, 1, None
    if value is None and isinstance(name, str):
        return name, None, 1, None
    if not with_image:
        return name, None, 1, None
    return None, None, 0, ("image-not-text", type(value).__name__)


def value_at(record: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path, going into structs and into JSON text; None where there is none."""
    if path in record:
        return record[path]
    value: Any = record
    for part in path.split("."):
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                return None
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    return text if text.strip() else ""
