"""What a template lays in a row before it becomes tokens: texts, control tokens, images."""

from dataclasses import dataclass

from croc_cli.data.pieces import Place


class SampleError(ValueError):
    """A conversation that cannot be encoded: wrong turns, or placeholders that do not match its images."""


@dataclass(frozen=True)
class Text:
    """A piece of text; neighbours are tokenised together unless one is trained and the other not.

    Args:
        text: The piece; nothing in it is read as a control token.
        trained: Its tokens are labels.
        apart: It begins tokens of its own, whatever stands before it.
    """

    text: str
    trained: bool = False
    apart: bool = False


@dataclass(frozen=True)
class Control:
    """One control token, such as BOS or the end of a turn.

    Args:
        token_id: Its id.
        trained: It is a label.
        then: The place of text that follows it.
    """

    token_id: int
    trained: bool = False
    then: Place = "after_control"


@dataclass(frozen=True)
class ImageSlot:
    """The place of an image's visual tokens."""


Item = Text | Control | ImageSlot
Message = list[str | ImageSlot]
"""A turn's texts and images, in order."""


def message_text(message: Message) -> str:
    """Return the text of a message that shows no images, as an answer."""
    return "".join(part for part in message if isinstance(part, str))


def message_items(message: Message) -> list[Item]:
    """Return a message that is not trained as items."""
    return [Text(part) if isinstance(part, str) else part for part in message]
