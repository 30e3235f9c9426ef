"""A model behind an OpenAI-compatible server: which one it is, and its answers to a benchmark's questions."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from croc_cli.benchmarks.base import Benchmark, Record
from croc_cli.benchmarks.endpoint import (
    CHARACTERS_PER_TOKEN,
    Endpoint,
    EndpointRefused,
    RequestFailed,
    check_url,
    error_text,
    work_on,
)
from croc_cli.benchmarks.files import Picture
from croc_cli.errors import RunError, UsageError, first_line
from croc_cli.names import EVAL_KEY_VARIABLE, EVALUATION_PROMPT
from croc_cli.redact import read_key, redact
from croc_cli.words import counted

if TYPE_CHECKING:
    from PIL import Image

OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_HOST = "api.openai.com"
"""The one host that OPENAI_API_KEY is sent to: a key of that name is nobody else's business."""
_TIMEOUT = 600.0  # seconds; the longest answers have 1,024 tokens, which a busy CPU takes minutes for
_NUM_RETRIES = 5
_MOST_FAILED = 8
"""Questions without an answer, one after another, after which a server is given up."""
_NUM_NOTED = 3
_ID_LENGTH = 60
_BLANK_SIZE = (64, 64)
_KINDS = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png", b"GIF8": "image/gif"}
_RESUME = "the answers so far are kept, and the same command resumes"


@dataclass(frozen=True)
class Server:
    """One model of one server.

    Attributes:
        url: Base URL without credentials, for files and messages.
        name: The model's name on the server.
        is_croc: It is `croc serve`, which takes pictures of every kind and evaluation's prompts.
        mean_colour: Of the model's pictures, as `croc serve` says it; shown where a question has no picture.
    """

    url: str
    name: str
    is_croc: bool = False
    mean_colour: tuple[int, int, int] | None = None

    @property
    def identity(self) -> str:
        """What tells this model from every other, in place of the hash of its weights."""
        return f"server:{self.url} {self.name}"


def clean_url(url: str) -> str:
    """Return a base URL in the one form in which it is used and kept.

    Raises:
        UsageError: It cannot be one.
    """
    url = url.strip()
    check_url(url, whose="the server's", option="--url", key_variable=EVAL_KEY_VARIABLE)
    return url.rstrip("/").removesuffix("/chat/completions").rstrip("/")


def key_variable_of(url: str) -> str:
    """Return the environment variable that a server's key is in; OpenAI's own is for OpenAI's server alone."""
    is_openai = urlsplit(url).hostname == OPENAI_HOST and urlsplit(url).scheme == "https"
    return OPENAI_KEY_VARIABLE if is_openai and not os.environ.get(EVAL_KEY_VARIABLE, "").strip() else EVAL_KEY_VARIABLE


def open_endpoint(url: str, *, server: Server | None = None, on_wait: Callable[[float, str], None]) -> Endpoint:
    """Return the way to a server, with its key."""
    headers = dict([EVALUATION_PROMPT]) if server is not None and server.is_croc else {}
    key = read_key(key_variable_of(url))
    return Endpoint(url, key=key, timeout=_TIMEOUT, num_retries=_NUM_RETRIES, headers=headers, on_wait=on_wait)


async def find_server(url: str, served_name: str | None, *, on_wait: Callable[[float, str], None]) -> Server:
    """Ask a server which models it has, and return the one that is meant.

    Raises:
        UsageError: The key, the URL or the name is not right, or the server's list is not.
        RunError: The server cannot be reached.
    """
    shown = redact(url)
    try:
        async with open_endpoint(url, on_wait=on_wait) as endpoint:
            response = await endpoint.get("models")
    except RequestFailed as error:
        raise RunError(
            f"the server at {shown} cannot be reached: {error}", hint="is it running? --url names its base URL"
        ) from error
    status = response.status_code
    if status in (401, 403):
        raise refused_key(url, status, error_text(response))
    if status >= 500 or status == 429:
        raise RunError(f"the server at {shown} answers with status {status}", hint="try again later")
    models = _models(response) if response.is_success else None
    if models is None and (response.is_success or status not in (404, 405) or served_name is None):
        kind = response.headers.get("content-type", "nothing").split(";")[0] if response.is_success else f"{status}"
        raise UsageError(
            f"{shown}/models is not a list of models, but {kind!r}",
            hint="--url ends in /v1 for most servers; one without a list needs --served-model NAME",
        )
    if served_name is None:
        served_name = _only_name(shown, [model["id"] for model in models or ()])
    own = next((model for model in models or () if model["id"] == served_name), {})
    is_croc = own.get("owned_by") == "croc"
    return Server(shown, served_name, is_croc, _colour(own.get("mean_colour")) if is_croc else None)


def _models(response: Any) -> list[dict[str, Any]] | None:
    """Return the models of a list, each with an `id` of whatever kind, or None where it is no such list."""
    try:
        models = [dict(model) for model in response.json()["data"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return models if all("id" in model for model in models) else None


def _only_name(server: str, ids: Sequence[Any]) -> str:
    """Return the name of a server's only model.

    Raises:
        UsageError: It has several or none, or one whose id is not a name.
    """
    for one in ids:
        if not isinstance(one, str) or not one.strip() or not one.isprintable():
            raise UsageError(
                f"the server at {server} has a model whose id is {json.dumps(one)[:_ID_LENGTH]}, which is not a name",
                hint="--served-model NAME asks for a model whatever the list says",
            )
    names = list(dict.fromkeys(ids))
    if len(names) != 1:
        listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        raise UsageError(
            f"the server at {server} has {counted(len(names), 'model')}: {listed or 'none'}",
            hint=f"--served-model {names[0] if names else 'NAME'} chooses one",
        )
    return str(names[0])


def _colour(value: Any) -> tuple[int, int, int] | None:
    """Return a colour that a server names, or None where it is none."""
    if (
        not isinstance(value, list)
        or [type(part) for part in value] != [int] * 3
        or not all(0 <= v < 256 for v in value)
    ):
        return None
    red, green, blue = value
    return red, green, blue


def refused_key(url: str, status: int, detail: str) -> UsageError:
    """Return the error of a key that is missing or not taken."""
    variable = key_variable_of(url)
    has = "refuses the key in" if os.environ.get(variable, "").strip() else "wants a key, and there is none in"
    said = f": {detail}" if detail else ""
    return UsageError(
        f"the server at {redact(url)} {has} {variable} (status {status}){said}",
        hint=f"export {EVAL_KEY_VARIABLE}=… with a key that it takes",
    )


def estimate(benchmark: Benchmark, records: Sequence[Record]) -> dict[str, int]:
    """Return how many requests, pictures and about how many tokens of text the answers to some records take."""
    return {
        "requests": len(records),
        "pictures": sum(len(record.pictures) for record in records),
        "text tokens": sum(len(record.prompt) for record in records) // CHARACTERS_PER_TOKEN,
        "answer tokens": len(records) * benchmark.max_new_tokens,
    }


class Asker:
    """Asks one server a benchmark's questions.

    Args:
        endpoint: Open.
        server: Which one it is.
        num_workers: Requests at once.
        note: Told in a few lines which questions have no answer.
    """

    def __init__(self, endpoint: Endpoint, server: Server, *, num_workers: int, note: Callable[[str], None]) -> None:
        self.endpoint = endpoint
        self.server = server
        self.num_workers = num_workers
        self.note = note
        self._limit_name = "max_tokens"
        self._in_a_row: list[str] = []

    async def answer(
        self, benchmark: Benchmark, records: Sequence[Record], take: Callable[[Record, str], None]
    ) -> None:
        """Ask questions and hand each answer on as it comes; a question that cannot be answered stays open.

        Raises:
            UsageError: The server does not take the key or the model.
            RunError: The server is given up.
        """
        failed: list[str] = []
        num_answered = 0

        async def ask(record: Record) -> None:
            nonlocal num_answered
            try:
                text = await self._ask(benchmark, record)
            except (RequestFailed, _PictureFailed) as error:
                failed.append(f"question {record.question_id} stays unanswered: {error}")
                if len(failed) <= _NUM_NOTED:
                    self.note(f"{benchmark.name}: {failed[-1]}")
                if isinstance(error, RequestFailed):
                    self._in_a_row.append(str(error))
                if len(self._in_a_row) >= max(_MOST_FAILED, self.num_workers):
                    raise self._given_up() from error
                return
            self._in_a_row.clear()
            num_answered += 1
            take(record, text)

        try:
            await work_on(records, ask, num_workers=self.num_workers)
        except EndpointRefused as error:
            raise self._refused(error) from error
        if self._in_a_row and not num_answered:
            raise self._given_up()
        if len(failed) > _NUM_NOTED:
            self.note(f"{benchmark.name}: {counted(len(failed), 'question')} in all stay unanswered")

    async def _ask(self, benchmark: Benchmark, record: Record) -> str:
        content: Any = record.prompt
        if record.picture is not None:
            content = []
            for part in record.parts():
                if isinstance(part, str):
                    content.append({"type": "text", "text": part})
                    continue
                picture = with_mean_colour(part, self.server.mean_colour)
                url = await asyncio.to_thread(picture_url, picture, as_it_is=self.server.is_croc)
                content.append({"type": "image_url", "image_url": {"url": url}})
        body = {"model": self.server.name, "messages": [{"role": "user", "content": content}], "temperature": 0}
        limit = benchmark.max_new_tokens
        try:
            text = await self.endpoint.complete({**body, self._limit_name: limit})
        except RequestFailed as error:
            # OpenAI's newer models know the limit by another name, and say so.
            if not error.is_own or "max_completion_tokens" not in error.detail or self._limit_name not in error.detail:
                raise
            self._limit_name = "max_completion_tokens"
            text = await self.endpoint.complete({**body, self._limit_name: limit})
        return text.strip()

    def _given_up(self) -> RunError:
        number = counted(len(self._in_a_row), "question")
        return RunError(
            f"the server at {self.server.url} gives no answers: the last {number} failed, with {self._in_a_row[-1]}",
            hint=_RESUME,
        )

    def _refused(self, error: EndpointRefused) -> UsageError | RunError:
        if error.status in (401, 403):
            return refused_key(self.endpoint.base_url, error.status, error.detail)
        said = f": {error.detail}" if error.detail else ""
        if error.status == 404:
            return UsageError(
                f"the server at {self.server.url} has no model {self.server.name!r} or no chat/completions{said}",
                hint="look at --url (it ends in /v1 for most servers) and --served-model",
            )
        return RunError(f"the server at {self.server.url} has no quota left{said}", hint=_RESUME)


def with_mean_colour(picture: Picture, colour: tuple[int, int, int] | None) -> Picture:
    """Return a picture, or in place of a blank one, one in a model's mean colour where that is known."""
    if not picture.is_blank or colour is None:
        return picture

    def draw() -> Image.Image:
        from PIL import Image

        return Image.new("RGB", _BLANK_SIZE, colour)

    return replace(picture, draw=draw)


class _PictureFailed(Exception):
    """A picture that cannot be sent."""


def picture_url(picture: Picture, *, as_it_is: bool) -> str:
    """Return a picture as a data URL.

    Args:
        picture: The picture.
        as_it_is: Send the file of whatever kind; otherwise kinds that not every server opens become PNG.

    Raises:
        _PictureFailed: It is missing, or does not open.
    """
    try:
        content = picture.read()
    except OSError as error:
        raise _PictureFailed(f"{picture.name}: {(error.strerror or first_line(error)).lower()}") from error
    kind = next((name for start, name in _KINDS.items() if content.startswith(start)), None)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None and not as_it_is:
        kind, content = "image/png", _as_png(picture)
    return f"data:{kind or 'application/octet-stream'};base64,{base64.b64encode(content).decode('ascii')}"


def _as_png(picture: Picture) -> bytes:
    try:
        stream = io.BytesIO()
        picture.open().save(stream, format="PNG")
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        raise _PictureFailed(f"{picture.name}: {first_line(error)}") from error
    return stream.getvalue()
