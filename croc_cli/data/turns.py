"""From turns to messages: where in a conversation its images stand."""

from collections.abc import Sequence

from croc_cli.data.items import ImageSlot, Message, SampleError
from croc_cli.data.sample import Turn
from croc_cli.names import IMAGE_TOKEN


def split_images(turns: Sequence[Turn], *, num_images: int) -> list[Message]:
    """Split each turn into texts and image slots, by the rules of LLaVA-1.5.

    Raises:
        SampleError: The turns do not alternate, or placeholders and images differ in number.
    """
    _check_turns(turns, num_images=num_images)
    return [_split_turn(turn, num_images=num_images) for turn in turns]


def split_images_next(turns: Sequence[Turn], *, num_images: int) -> list[Message]:
    """Split each turn into texts and image slots, by the rules of LLaVA-NeXT's code, which ViCToR's keeps.

    A first turn of gpt is dropped. A turn with one image that does not begin with it is stripped and begins with it;
    other turns stay as they are, white space too.

    Raises:
        SampleError: As `split_images`.
    """
    turns = turns[1:] if turns and turns[0].role == "gpt" else turns
    _check_turns(turns, num_images=num_images)
    messages: list[Message] = []
    for turn in turns:
        text, shows = turn.text, num_images > 0 and turn.role == "human"
        if shows and (text.count(IMAGE_TOKEN) == 1 or num_images == 1) and IMAGE_TOKEN in text:
            text = _image_first(text)
        messages.append(_split_text(text) if shows else [text])
    return messages


def _image_first(text: str) -> str:
    if text.startswith(IMAGE_TOKEN) and text.count(IMAGE_TOKEN) == 1:
        return text
    return f"{IMAGE_TOKEN}\n{text.replace(IMAGE_TOKEN, '').strip()}".strip()


def _check_turns(turns: Sequence[Turn], *, num_images: int) -> None:
    if not turns:
        raise SampleError("a conversation must have at least one turn")
    for position, turn in enumerate(turns):
        expected = "human" if position % 2 == 0 else "gpt"
        if turn.role != expected:
            raise SampleError(f"turn {position} is from {turn.role!r}, expected {expected!r}")
    human = [turn.text for turn in turns if turn.role == "human"]
    if num_images == 1:
        num_found = sum(IMAGE_TOKEN in text for text in human)
    else:
        num_found = sum(text.count(IMAGE_TOKEN) for text in human)
    if num_images and num_found != num_images:
        raise SampleError(f"{num_found} {IMAGE_TOKEN} in the human turns, but {num_images} image(s)")


def _split_turn(turn: Turn, *, num_images: int) -> Message:
    if num_images == 0 or turn.role != "human" or IMAGE_TOKEN not in turn.text:
        return [turn.text]
    if num_images == 1:
        rest = turn.text.replace(IMAGE_TOKEN, "").strip()
        return [ImageSlot(), "\n" + rest] if rest else [ImageSlot()]
    return _split_text(turn.text)


def _split_text(text: str) -> Message:
    if IMAGE_TOKEN not in text:
        return [text]
    parts: Message = []
    for position, piece in enumerate(text.split(IMAGE_TOKEN)):
        parts += [ImageSlot()] if position else []
        parts += [piece] if piece else []
    return parts
