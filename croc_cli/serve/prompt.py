"""From a request's messages to token ids and pixels, as `croc chat` and training make them."""

import base64
import binascii
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import torch
from torch import Tensor

from croc_cli.chat.fetch import FetchError, fetch
from croc_cli.chat.session import PromptBuilder
from croc_cli.data.conversation import SampleError
from croc_cli.data.image import BadImageError, BytesImage, open_image, process_images
from croc_cli.data.sample import Turn
from croc_cli.errors import CrocError
from croc_cli.names import IMAGE_TOKEN
from croc_cli.pictures import ImageReading
from croc_cli.serve.protocol import ApiError, ImagePart, Message
from croc_cli.words import counted

_HALF_PAIR = re.compile("[\ud800-\udfff]")
_PICTURE_KINDS = ("image/", "application/octet-stream")


@dataclass(frozen=True)
class Prompt:
    """One conversation, ready for the model.

    Args:
        ids: Token ids up to where the answer begins, visual places included.
        pixels: One [1, 3, H, W] float32 for each picture, in order.
    """

    ids: list[int]
    pixels: tuple[Tensor, ...]


class PromptMaker:
    """Makes prompts for one model.

    Args:
        build: The model's own way to be spoken to.
        build_evaluation: How `croc eval` asks it, which differs for models of others.
        image_processor: Its picture preparation.
        max_positions: Longest sequence of the LLM, where it has a limit.
        max_pictures: Most pictures of a request.
        allow_private: Also fetch pictures from private network addresses.
        reading: How pictures become RGB, as in the model's training.
    """

    def __init__(
        self,
        build: PromptBuilder,
        image_processor: object,
        *,
        build_evaluation: PromptBuilder | None = None,
        max_positions: int | None,
        max_pictures: int,
        allow_private: bool = False,
        reading: ImageReading = "upright",
    ) -> None:
        self._build = build
        self._build_evaluation = build_evaluation or build
        self._reading: ImageReading = reading
        self._image_processor = image_processor
        self._max_positions = max_positions
        self._max_pictures = max_pictures
        self._allow_private = allow_private

    def make(self, messages: list[Message], *, evaluation: bool = False) -> Prompt:
        """Return the prompt of a conversation; opens and fetches its pictures.

        Args:
            messages: The conversation.
            evaluation: Ask as `croc eval` does.

        Raises:
            ApiError: 400 or 422, with the message at fault.
        """
        urls = [part.image_url.url for message in messages for part in message.parts() if isinstance(part, ImagePart)]
        if len(urls) > self._max_pictures:
            raise ApiError(400, f"{len(urls)} pictures, at most {self._max_pictures} in one request", param="messages")
        try:
            build = self._build_evaluation if evaluation else self._build
            ids = build(turns_of(messages), num_images=len(urls))
        except (SampleError, CrocError) as error:
            raise ApiError(400, f"this model cannot take that: {error}", param="messages") from error
        if self._max_positions is not None and len(ids) >= self._max_positions:
            raise ApiError(
                400,
                f"the conversation has {counted(len(ids), 'token')}, the model takes {self._max_positions}",
                code="context_length_exceeded",
                param="messages",
            )
        return Prompt(ids, tuple(self._pixels(url, number) for number, url in enumerate(urls)))

    def answer_room(self, prompt: Prompt, limit: int | None, *, default: int) -> int:
        """Return the longest answer in tokens: what the request says, as far as the model has positions."""
        wanted = default if limit is None else limit
        return wanted if self._max_positions is None else min(wanted, self._max_positions - len(prompt.ids))

    def _pixels(self, url: str, number: int) -> Tensor:
        """Return the prepared pixels of one picture."""
        data = picture_bytes(url, number, allow_private=self._allow_private)
        try:
            picture = open_image(BytesImage(f"picture {number + 1}", data, reading=self._reading))
        except BadImageError as error:
            raise ApiError(422, f"picture {number + 1}: {error.reason}", code="invalid_image") from error
        with torch.inference_mode():
            return process_images([picture], self._image_processor)


def turns_of(messages: list[Message]) -> list[Turn]:
    """Return a conversation as turns of human and gpt, one `<image>` for each picture.

    Pictures stand where the message has them; one in front is followed by a line end, as in training. A system
    message is put in front of the first question, since croc's templates bring their own.

    Raises:
        ApiError: 400 where user and assistant do not take turns.
    """
    system: list[str] = []
    turns: list[Turn] = []
    for number, message in enumerate(messages):
        if message.role in ("system", "developer"):
            system.append(_text_of(message))
            continue
        role = "human" if message.role == "user" else "gpt"
        expected = "gpt" if len(turns) % 2 else "human"
        if role != expected:
            raise ApiError(
                400, "messages of user and assistant must take turns, the user's first", param=f"messages.{number}"
            )
        text = _text_of(message)
        if system and role == "human" and not turns:
            text = _with_system("\n".join(system), text)
        turns.append(Turn("human" if role == "human" else "gpt", text))
    return turns


def _with_system(system: str, text: str) -> str:
    """Return a question with the system message behind the pictures that stand in front."""
    rest = text
    while rest.startswith(f"{IMAGE_TOKEN}\n"):
        rest = rest.removeprefix(f"{IMAGE_TOKEN}\n")
    pictures = text[: len(text) - len(rest)]
    return f"{pictures}{system}\n\n{rest}"


def _text_of(message: Message) -> str:
    parts = message.parts()
    pieces: list[str] = []
    in_front = True
    for part in parts:
        if isinstance(part, ImagePart):
            pieces.append(f"{IMAGE_TOKEN}\n" if in_front else IMAGE_TOKEN)
        else:
            in_front = in_front and not part.text
            pieces.append(part.text)
    return "".join(pieces)


def picture_bytes(url: str, number: int, *, allow_private: bool = False) -> bytes:
    """Return the bytes of a picture given as a data URL or an http(s) URL.

    Raises:
        ApiError: 415 for another kind of data, 422 where it cannot be decoded or fetched.
    """
    label = f"picture {number + 1}"
    if _HALF_PAIR.search(url):
        raise ApiError(422, f"{label}: its URL has half a surrogate pair", code="invalid_image_url")
    if url[:5].lower() != "data:":
        try:
            return fetch(url, allow_private=allow_private)
        except FetchError as error:
            raise ApiError(422, f"{label}: {error}", code="invalid_image_url") from error
    head, comma, payload = url[5:].partition(",")
    kind, *flags = [part.strip().lower() for part in head.split(";")]
    if not comma:
        raise ApiError(422, f"{label}: a data URL without data", code="invalid_image")
    if kind and not kind.startswith(_PICTURE_KINDS):
        raise ApiError(415, f"{label}: {kind[:60]} is not a picture", code="unsupported_image")
    if "base64" not in flags:
        return unquote_to_bytes(payload)
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(422, f"{label}: the data URL is not base64: {error}", code="invalid_image") from error
