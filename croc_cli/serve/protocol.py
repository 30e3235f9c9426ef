"""OpenAI's chat completions protocol: what a request may say, and the form of answers and errors."""

import json
import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from croc_cli.names import IMAGE_TOKEN
from croc_cli.reading import unique_keys

MAX_STOPS = 4
"""Stop strings of one request, as in OpenAI's API."""
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: One line for whoever sent it.
        code: OpenAI's word for it, such as `model_not_found`.
        param: The part of the request that is wrong.
        retry_after: Seconds after which the client may try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def content(self) -> dict[str, Any]:
        """Return the body of the answer, in OpenAI's form."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class TextPart(_Part):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str


class ImageUrl(_Part):
    """Where a picture is: an http(s) URL or a data URL."""

    url: str


class ImagePart(_Part):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Part):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    def parts(self) -> list[TextPart | ImagePart]:
        """Return the content as parts."""
        return [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class StreamOptions(_Part):
    """How a streamed answer ends."""

    include_usage: bool = False


class ChatCompletionRequest(BaseModel):
    """The body of `POST /v1/chat/completions`.

    Keys that croc does not know are ignored, as OpenAI-compatible servers do; settings that would change the answer
    and cannot be kept are refused.
    """

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    messages: list[Message] = Field(min_length=1, max_length=256)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    temperature: float = Field(default=0.0, ge=0.0, le=2.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1, le=2**20)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**20)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    n: Literal[1] | None = 1
    logprobs: Literal[False] | None = False
    frequency_penalty: Literal[0] | float | None = 0
    presence_penalty: Literal[0] | float | None = 0
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_defaults(cls, values: Any) -> Any:
        """A client may send null for whatever it leaves to the server."""
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings before which the answer ends."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)

    @property
    def token_limit(self) -> int | None:
        """Longest answer in tokens, where the request says so."""
        return self.max_completion_tokens or self.max_tokens


def parse_request(body: bytes) -> ChatCompletionRequest:
    """Read the body of a request.

    Raises:
        ApiError: 400 where it is not JSON, or a value is not what it should be; `param` names it.
    """
    try:
        values = json.loads(body, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not JSON: {reason}", code="invalid_json") from error
    if not isinstance(values, dict):
        raise ApiError(400, "the body is not a JSON object", code="invalid_json")
    try:
        request = ChatCompletionRequest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        said = first["msg"] if first["type"] != "union_tag_invalid" else "type must be text or image_url"
        raise ApiError(400, f"{place}: {said}" if place else said, param=place or None) from error
    _check_supported(request)
    return request


def _check_supported(request: ChatCompletionRequest) -> None:
    """Raise ApiError for a setting that croc cannot keep."""
    if request.frequency_penalty or request.presence_penalty:
        raise ApiError(400, "penalties are not supported; leave them out", param="frequency_penalty")
    if request.tools:
        raise ApiError(400, "tools are not supported; leave them out", param="tools")
    if (request.response_format or {}).get("type", "text") != "text":
        raise ApiError(400, "response_format: only text is supported", param="response_format")
    if len(request.stops) > MAX_STOPS:
        raise ApiError(400, f"stop: at most {MAX_STOPS} strings", param="stop")
    if request.messages[-1].role != "user":
        raise ApiError(400, "the last message must be the user's", param="messages")
    for number, message in enumerate(request.messages):
        for part in message.parts():
            if isinstance(part, ImagePart) and message.role != "user":
                raise ApiError(400, "only the user's messages may show pictures", param=f"messages.{number}")
            if isinstance(part, TextPart) and IMAGE_TOKEN in part.text:
                raise ApiError(
                    400, f"{IMAGE_TOKEN} in a text; send pictures as image_url parts", param=f"messages.{number}"
                )
            if isinstance(part, TextPart) and any(0xD800 <= ord(letter) < 0xE000 for letter in part.text):
                raise ApiError(400, "a text has half a surrogate pair", param=f"messages.{number}")


class Completion:
    """The answers to one request, in OpenAI's form.

    Args:
        model: Name of the model.
        prompt_tokens: Tokens of the prompt, visual ones included.
    """

    def __init__(self, model: str, prompt_tokens: int) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model
        self.prompt_tokens = prompt_tokens

    def whole(self, text: str, *, finish_reason: str, num_tokens: int) -> dict[str, Any]:
        """Return an answer in one piece."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage(num_tokens)}

    def chunk(self, delta: dict[str, str], *, finish_reason: str | None = None) -> dict[str, Any]:
        """Return one piece of a streamed answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def last_chunk(self, num_tokens: int) -> dict[str, Any]:
        """Return the piece that gives the usage and no text."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage(num_tokens)}

    def usage(self, num_tokens: int) -> dict[str, int]:
        """Return the tokens of prompt and answer."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": num_tokens,
            "total_tokens": self.prompt_tokens + num_tokens,
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}
