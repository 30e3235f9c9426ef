"""From a conversation in any spelling to turns in LLaVA's form: messages, their parts, pairs, texts that alternate."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from croc_cli.names import IMAGE_TOKEN
from croc_cli.reading import RepeatedKeyError, printable, unique_keys
from croc_cli.sources.read.picture_cells import Picture, read_picture, read_pictures
from croc_cli.sources.read.picture_keys import filled_picture_key
from croc_cli.sources.read.rows import BadCell, shown

_ROLES: Final = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
_SYSTEM_ROLES: Final = ("system", "developer")
_TEXT_PARTS: Final = ("text", "input_text", "output_text")
_IMAGE_PARTS: Final = ("image", "image_url", "input_image")
_PART_KEYS: Final = ("image", "image_url", "url", "path", "base64", "data", "source")

Turns = list[dict[str, str]]
Slot = Picture | int | None
"""The picture of one `<image>`: its own, the number of one of the row's, or None for the next of the row's."""


@dataclass
class Conversation:
    """A conversation as it was read.

    Args:
        turns: In LLaVA's form.
        slots: One for each `<image>` of the human turns, in order.
    """

    turns: Turns = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)


def read_conversation(value: Any, *, system: Any = None) -> Conversation:
    """Return a conversation's turns.

    A system turn becomes the beginning of the first question, as chat templates without a system role have it.

    Args:
        value: Turns with from/value or role/content, pairs of user/assistant, or texts that alternate; also as JSON
            text, or as a struct of lists.
        system: What a key of its own says to the system.

    Raises:
        BadCell: It is not a conversation.
    """
    turns = _listed(value)
    found = Conversation()
    instructions = [system] if isinstance(system, str) and system.strip() else []
    for position, turn in enumerate(turns):
        place = f"turn {position}"
        if isinstance(turn, str):
            _add(found, "gpt" if position % 2 else "human", turn, place)
        elif isinstance(turn, Mapping) and "user" in turn and "assistant" in turn:
            _add_pair(found, turn, place)
        elif isinstance(turn, Mapping):
            role, content = _role(turn), _first(turn, "value", "content")
            if role in _SYSTEM_ROLES:
                if found.turns:
                    raise BadCell("role-unknown", f"{place}: {role!r} after the first question")
                text = read_text(content, place)
                instructions += [text] if text and text.strip() else []
            else:
                _add(found, _ROLES.get(role, role), content, place, _own_pictures(turn, place))
        else:
            raise BadCell("turn-not-object", f"{place}: {shown(turn)}")
    first = next((turn for turn in found.turns if turn["from"] == "human"), None)
    if instructions and first is not None:
        first["value"] = "\n\n".join([*instructions, first["value"]])
    return found


def read_text(value: Any, place: str) -> str | None:
    """Return the one text of a value, or None where it is null.

    Raises:
        BadCell: It is not text, or several.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping) and value.get("type") in _TEXT_PARTS:
        value = [value]
    if not isinstance(value, list | tuple):
        raise BadCell("value-not-text", f"{place}: {shown(value)}")
    if all(isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS for part in value):
        return join_parts([_part_text(part, place) for part in value]) if value else None
    if not all(isinstance(part, str) for part in value):
        raise BadCell("value-not-text", f"{place}: {shown(value)}")
    if len(value) > 1:
        raise BadCell("value-several", f"{place}: {shown(value)}")
    return str(value[0])


def join_parts(parts: Sequence[str]) -> str:
    """Return parts of a message as one text: a line each, unless white space already parts them."""
    text = ""
    for part in parts:
        apart = not text or not part or text[-1].isspace() or part[0].isspace()
        text += part if apart else f"\n{part}"
    return text


def place_pictures(conversation: Conversation, given: list[Picture]) -> list[Picture]:
    """Return the pictures of a conversation in the order of its `<image>`, which are put in front where there are none.

    Args:
        conversation: Its first question may change.
        given: The row's pictures.

    Raises:
        BadCell: A part asks for a picture that the row does not have.
    """
    slots = conversation.slots
    if not slots and given:
        for turn in conversation.turns:
            if turn["from"] == "human":
                turn["value"] = join_parts([*[IMAGE_TOKEN] * len(given), turn["value"]]).rstrip("\n")
                break
        return given
    if all(slot is None for slot in slots):
        return given  # whether they are as many is the row's check
    placed, used, num_next = [], set(), 0
    for slot in slots:
        if isinstance(slot, Picture):
            placed.append(slot)
            continue
        number = num_next if slot is None else slot
        num_next += slot is None
        if not 0 <= number < len(given):
            raise BadCell("placeholder-repeated", f"{len(slots)} time(s), {len(given)} image(s)")
        used.add(number)
        placed.append(given[number])
    if any(picture not in placed for number, picture in enumerate(given) if number not in used):
        raise BadCell("placeholder-missing", f"{len(slots)} time(s), {len(given)} image(s)")
    return placed


def _listed(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=unique_keys)
        except RepeatedKeyError as error:
            raise BadCell("key-repeated", str(error)) from None
        except (ValueError, RecursionError):
            raise BadCell("conversations-missing", shown(value)) from None
    if isinstance(value, Mapping) and value and all(isinstance(column, list) for column in value.values()):
        # The datasets library keeps a list of structs as a struct of lists.
        if len({len(column) for column in value.values()}) > 1:
            lengths = ", ".join(f"{name} {len(column)}" for name, column in value.items())
            raise BadCell("turns-unequal", printable(lengths))
        rows = zip(*value.values(), strict=True)
        value = [dict(zip(value, row, strict=True)) for row in rows]
    if not isinstance(value, list | tuple):
        raise BadCell("conversations-missing", shown(value))
    return value


def _role(turn: Mapping[str, Any]) -> str:
    role = _first(turn, "from", "role")
    return role.strip().lower() if isinstance(role, str) else shown(role)


def _first(turn: Mapping[str, Any], *names: str) -> Any:
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _own_pictures(turn: Mapping[str, Any], place: str) -> list[Picture]:
    """Return the pictures under a key of the turn itself, as Ollama's messages have them."""
    name = filled_picture_key(turn) if len(turn) > 2 else None
    return read_pictures(turn[name], f"{place}, {name}") if name is not None and turn[name] else []


def _add(found: Conversation, role: str, content: Any, place: str, pictures: Sequence[Picture] = ()) -> None:
    text, slots = _content(content, place)
    if pictures and slots and len(slots) != len(pictures):
        code = "placeholder-repeated" if len(slots) > len(pictures) else "placeholder-missing"
        raise BadCell(code, f"{place}: {len(slots)} time(s), {len(pictures)} image(s)")
    if pictures:
        text = text if slots else join_parts([*[IMAGE_TOKEN] * len(pictures), text])
        slots = list(pictures)
    if role == "gpt" and slots:
        raise BadCell("placeholder-in-answer", place)
    found.turns.append({"from": role, "value": text})
    if role == "human":
        found.slots += slots


def _add_pair(found: Conversation, pair: Mapping[str, Any], place: str) -> None:
    texts = [_content(pair[name], f"{place}, {name}")[0] for name in ("user", "assistant")]
    if all(text.strip() for text in texts):  # a pair that lacks one side trains nothing
        _add(found, "human", pair["user"], place)
        _add(found, "gpt", pair["assistant"], place)


def _content(content: Any, place: str) -> tuple[str, list[Slot]]:
    """Return the text of a message and the pictures of its placeholders."""
    if isinstance(content, str):
        return content, [None] * content.count(IMAGE_TOKEN)
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list | tuple) or not content:
        raise BadCell("value-not-text", f"{place}: {shown(content)}")
    texts: list[str] = []
    slots: list[Slot] = []
    for number, part in enumerate(content):
        where = f"{place}, part {number}"
        if isinstance(part, str):
            texts.append(part)
            slots += [None] * part.count(IMAGE_TOKEN)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in _IMAGE_PARTS:
            texts.append(IMAGE_TOKEN)
            slots.append(_slot(part, where))
        elif kind in _TEXT_PARTS or (kind is None and isinstance(part, Mapping) and "text" in part):
            texts.append(_part_text(part, where))
            slots += [None] * texts[-1].count(IMAGE_TOKEN)
        elif kind is not None:
            raise BadCell("media-unknown", f"{where}: type {shown(kind)}")
        else:
            raise BadCell("value-not-text", f"{where}: {shown(part)}")
    return join_parts(texts), slots


def _part_text(part: Mapping[str, Any], place: str) -> str:
    text = _first(part, "text", "content", "value")
    if not isinstance(text, str):
        raise BadCell("value-not-text", f"{place}: {shown(text)}")
    return text


def _slot(part: Mapping[str, Any], place: str) -> Slot:
    if any(part.get(name) is not None for name in _PART_KEYS):
        return read_picture({name: part[name] for name in _PART_KEYS if part.get(name) is not None}, place)
    index = part.get("index")
    return index if isinstance(index, int) and not isinstance(index, bool) else None
