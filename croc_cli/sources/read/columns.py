"""From a table's columns to a row in LLaVA's form."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from croc_cli.names import IMAGE_TOKEN
from croc_cli.reading import RepeatedKeyError, unique_keys
from croc_cli.sources.read.markers import read_markers
from croc_cli.sources.read.picture_cells import Picture, read_pictures
from croc_cli.sources.read.picture_keys import picture_key
from croc_cli.sources.read.rows import BadCell, Defect, shown
from croc_cli.sources.read.turns import Conversation, place_pictures, read_conversation, read_text

CAPTION_PROMPT = "Describe this image."
"""What the human asks where a table has captions alone; the `plain` template leaves it out."""

EMBEDDED = "embedded"
"""Name of an image that lies in the data itself, until the mix gives it one."""

CONVERSATION_NAMES = ("conversations", "messages", "texts", "conversation")
_CAPTION_NAMES = ("caption", "text", "blip_caption", "description", "txt")
_HUMAN_NAMES = (("instruction", "input"), ("instruction", "context"), ("instruction",), ("question",), ("query",))
_GPT_NAMES = ("output", "target", "response", "answer", "completion")


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; a dot goes into a struct, or into JSON that a column holds as text.

    Args:
        human: Joined by a line end, empty ones left out.
        gpt: The first that is there.
        conversations: A whole conversation: turns with from/value or role/content, pairs of user/assistant, or a list
            of texts that alternate.
        image: A path, an image's bytes, a data URL, or a list of one of them.
        system: What the system is told before the first question.
        history: Earlier pairs of question and answer.
        prompt: What the human asks where no column does.
        strip: Strip white space around answers.
        answer_prefix: Removed from the start of answers.
    """

    human: tuple[str, ...] = ()
    gpt: tuple[str, ...] = ()
    conversations: str | None = None
    image: str | None = None
    system: str | None = None
    history: str | None = None
    prompt: str | None = None
    strip: bool = False
    answer_prefix: str | None = field(default=None)

    def names(self) -> list[str]:
        """Return the columns of the table that are needed; of several for the answer one will do."""
        named = [*self.human, *self.gpt, *filter(None, (self.conversations, self.image, self.system, self.history))]
        return [name.split(".")[0] for name in named]


@dataclass(frozen=True)
class Converted:
    """A record as a row.

    Args:
        row: In LLaVA's form; an image that the record holds itself is named, by its own name or EMBEDDED.
        contents: Bytes of each image, None for one that is a path; empty where all are paths.
        defect: Why it could not be converted.
    """

    row: dict[str, Any] | None = None
    contents: tuple[bytes | None, ...] = ()
    defect: Defect | None = None


def guess_columns(names: Sequence[str]) -> dict[str, Any]:
    """Return what well-known column names mean, as arguments of `Columns`; empty where they mean nothing."""
    found: dict[str, Any] = {}
    image = picture_key(names)
    if image is not None:
        found["image"] = image
    system = {"system": "system"} if "system" in names else {}
    if conversation := next((name for name in CONVERSATION_NAMES if name in names), None):
        return {**found, **system, "conversations": conversation}
    gpt = next((name for name in _GPT_NAMES if name in names), None)
    human = next((group for group in _HUMAN_NAMES if set(group) <= set(names)), None)
    if human is None and gpt in ("output", "target") and "input" in names:
        human = ("input",)
    if gpt is not None and human is not None:
        history = {"history": "history"} if "history" in names else {}
        return {**found, **system, **history, "human": human, "gpt": (gpt,)}
    caption = next((name for name in _CAPTION_NAMES if name in names), None)
    return {**found, "gpt": (caption,)} if caption is not None and image is not None else {}


def convert(record: Mapping[str, Any], columns: Columns, *, row_id: str) -> Converted:
    """Return a record as a row.

    Args:
        record: Values by column.
        columns: Which hold what.
        row_id: Its id, where the record has none.
    """
    try:
        given = read_pictures(value_at(record, columns.image), columns.image) if columns.image is not None else []
        system = value_at(record, columns.system) if columns.system is not None else None
        if columns.conversations is not None:
            conversation = read_conversation(value_at(record, columns.conversations), system=system)
        else:
            earlier = _history(record, columns)
            conversation = _question_and_answer(record, columns, has_picture=bool(given))
            if earlier or system is not None:
                texts = [*earlier, *(turn["value"] for turn in conversation.turns)]
                conversation = read_conversation(texts, system=read_text(system, columns.system or ""))
        read_markers(conversation, num_given=len(given))
        pictures = place_pictures(conversation, given)
    except BadCell as bad:
        return Converted(defect=bad.defect)
    for turn in conversation.turns:
        if turn["from"] == "gpt":
            turn["value"] = _trimmed(turn["value"], columns)
    return _row(record.get("id"), row_id, conversation, pictures)


def _row(given_id: Any, row_id: str, conversation: Conversation, pictures: list[Picture]) -> Converted:
    is_id = isinstance(given_id, str | int) and not isinstance(given_id, bool)
    row: dict[str, Any] = {"id": str(given_id) if is_id else row_id}
    names = [picture.name or EMBEDDED for picture in pictures]
    if names:
        row["image"] = names[0] if len(names) == 1 else names
    row["conversations"] = conversation.turns
    contents = tuple(picture.content for picture in pictures)
    return Converted(row, contents if any(content is not None for content in contents) else ())


def _history(record: Mapping[str, Any], columns: Columns) -> list[str]:
    """Return the texts of a row's earlier questions and answers, which take turns.

    Raises:
        BadCell: They are no pairs of texts.
    """
    pairs = value_at(record, columns.history) if columns.history is not None else None
    if pairs is None:
        return []
    if not isinstance(pairs, list | tuple) or any(not isinstance(one, list | tuple) or len(one) != 2 for one in pairs):
        raise BadCell("value-not-text", f"{columns.history}: {shown(pairs)}")
    texts = [read_text(text, f"{columns.history}.{number}") for number, one in enumerate(pairs) for text in one]
    if any(text is None for text in texts):
        raise BadCell("value-not-text", f"{columns.history}: null")
    return [text for text in texts if text is not None]


def _question_and_answer(record: Mapping[str, Any], columns: Columns, *, has_picture: bool) -> Conversation:
    """Return the two turns of a row whose columns hold question and answer, or a caption alone.

    Raises:
        BadCell: A cell is not text, the question is empty, or a caption has no picture.
    """
    parts = [read_text(value_at(record, name), name) for name in columns.human]
    question = "\n".join(part for part in parts if part and part.strip())
    if not question:
        if columns.human and columns.prompt is None:
            raise BadCell("question-missing", ", ".join(columns.human))
        if columns.image is not None and not has_picture:
            raise BadCell("image-null", f"{columns.image}: nothing, beside a caption")
        # Captions stand alone in their table: what the human asks is the same for all of them.
        question = columns.prompt if columns.prompt is not None else CAPTION_PROMPT if columns.image else ""
    answers = [text for name in columns.gpt if (text := read_text(value_at(record, name), name)) is not None]
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answers[0] if answers else ""}]
    return Conversation(turns, [None] * question.count(IMAGE_TOKEN))


def _trimmed(answer: str, columns: Columns) -> str:
    answer = answer.removeprefix(columns.answer_prefix) if columns.answer_prefix else answer
    return answer.strip() if columns.strip else answer


def value_at(record: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path, going into structs, lists and JSON text; None where there is none."""
    if path in record:
        return record[path]
    value: Any = record
    for part in path.split("."):
        if isinstance(value, str):
            try:
                value = json.loads(value, object_pairs_hook=unique_keys)
            except RepeatedKeyError as error:
                raise BadCell("key-repeated", f"{path}: {error}") from None
            except (ValueError, RecursionError):
                return None
        if isinstance(value, list) and part.isdecimal():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            value = value.get(part) if isinstance(value, Mapping) else None
    return value
