"""The HTTP side: routes, keys, limits, streaming; what a model does lies in the engine."""

import asyncio
import hmac
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from croc_cli.names import EVALUATION_PROMPT
from croc_cli.serve.engine import Engine, QueueFullError
from croc_cli.serve.job import Job
from croc_cli.serve.look import look
from croc_cli.serve.prompt import Prompt, PromptMaker
from croc_cli.serve.protocol import ApiError, ChatCompletionRequest, Completion, parse_request
from croc_cli.serve.settings import ServeSettings, is_loopback

PICTURE_THREADS = 4
PAGE = Path(__file__).parent / "page.html"
_LENGTH_DIGITS = 18
_PORT = re.compile(r":[0-9]*$")


class ServedModel:
    """One model of a server: its engine and its way to be spoken to.

    Args:
        name: What clients call it.
        engine: Answers.
        prompts: Makes prompts.
        mean_colour: Of its pictures, which stands for none; `croc eval --url` shows it where a question has no picture.
    """

    def __init__(self, name: str, engine: Engine, prompts: PromptMaker, *, mean_colour: tuple[int, int, int]) -> None:
        self.name = name
        self.engine = engine
        self.prompts = prompts
        self.mean_colour = mean_colour
        self.created = int(time.time())


class Service:
    """All routes of a server.

    Args:
        models: By name, the first is the default.
        settings: See `ServeSettings`.
    """

    def __init__(self, models: Mapping[str, ServedModel], settings: ServeSettings) -> None:
        self.models = models
        self.settings = settings

    def app(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/", self._route(self.page, needs_key=False)),
            Route("/health", self._route(self.health, needs_key=False)),
            Route("/v1/models", self._route(self.list_models)),
            Route("/v1/chat/completions", self._route(self.complete), methods=["POST"]),
            Route("/v1/attention", self._route(self.attention), methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _http_error}, lifespan=_few_threads)

    def _route(self, handle: Callable[[Request], Any], *, needs_key: bool = True) -> Callable[[Request], Any]:
        """Wrap a handler: host and key are checked first, and every error has OpenAI's form."""

        async def answer(request: Request) -> Response:
            started = time.monotonic()
            path = request.scope["path"]  # one of the routes'; `request.url` has the Host header in it
            try:
                self._check_host(request)
                if needs_key:
                    self._check_key(request)
                response: Response = await handle(request)
            except ApiError as error:
                response = _error_response(error)
            except ClientDisconnect:
                response = Response(status_code=499)
            except Exception as error:  # a fault of ours: the client gets a status, the log the kind, never the content
                print(f"error: {path}: {type(error).__name__}", file=sys.stderr, flush=True)
                response = _error_response(ApiError(500, "the server failed on this request", code="internal_error"))
            if path != "/health":
                seconds = time.monotonic() - started
                line = f"{request.method} {path} {response.status_code} {seconds:.2f} s"
                print(line, file=sys.stderr, flush=True)
            return response

        return answer

    def _check_host(self, request: Request) -> None:
        """Refuse names that are not this machine's where only this machine may ask: a page elsewhere cannot pretend."""
        given = request.headers.get("host", "").strip().lower()
        host = _PORT.sub("", given).strip("[]").rstrip(".")
        if is_loopback(self.settings.host) and given and not is_loopback(host):
            raise ApiError(403, "this server answers to localhost only", code="wrong_host")

    def _check_key(self, request: Request) -> None:
        key = self.settings.key
        if key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").strip().partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else scheme
        if not hmac.compare_digest(given.encode(), key.encode()):
            raise ApiError(401, "the key is missing or wrong", code="invalid_api_key")

    async def page(self, _request: Request) -> Response:
        """Show the page."""
        return HTMLResponse(
            PAGE.read_text(encoding="utf-8"),
            headers={
                "Content-Security-Policy": "default-src 'self' data: blob:; script-src 'unsafe-inline';"
                " style-src 'unsafe-inline'; frame-ancestors 'none'",
                "X-Content-Type-Options": "nosniff",
            },
        )

    async def health(self, _request: Request) -> Response:
        """Say that the server is there, and how much there is to do."""
        loads = [model.engine.load() for model in self.models.values()]
        answering, waiting = (sum(part) for part in zip(*loads, strict=True))
        return JSONResponse({"status": "ok", "answering": answering, "waiting": waiting})

    async def list_models(self, _request: Request) -> Response:
        """List the models."""
        data = [
            {
                "id": model.name,
                "object": "model",
                "created": model.created,
                "owned_by": "croc",
                "mean_colour": model.mean_colour,
            }
            for model in self.models.values()
        ]
        return JSONResponse(
            {
                "object": "list",
                "data": data,
                "limits": {"pictures": self.settings.limits.pictures, "max_tokens": self.settings.limits.tokens},
            }
        )

    async def complete(self, http: Request) -> Response:
        """Answer `POST /v1/chat/completions`."""
        request = parse_request(await self._body(http))
        model = self._model(request.model)
        name, value = EVALUATION_PROMPT
        prompt = await run_in_threadpool(
            model.prompts.make, request.messages, evaluation=http.headers.get(name) == value
        )
        answer = _Answer(request, model, prompt, self.settings)
        if request.stream:
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(answer.stream(), media_type="text/event-stream", headers=headers)
        return JSONResponse(await answer.whole(http))

    async def attention(self, http: Request) -> Response:
        """Answer `POST /v1/attention`: the messages of a request, and the `answer` that was given."""
        body = await self._body(http)
        request = parse_request(body)
        answer = json.loads(body).get("answer")
        if not isinstance(answer, str):
            raise ApiError(400, "answer: a text is expected", param="answer")
        model = self._model(request.model)
        prompt = await run_in_threadpool(model.prompts.make, request.messages)
        found = await run_in_threadpool(
            model.engine.exclusively, partial(look, prompt=prompt, answer=answer[: 4 * self.settings.limits.tokens])
        )
        return JSONResponse(found)

    def _model(self, name: str | None) -> ServedModel:
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            known = ", ".join(self.models)
            raise ApiError(
                404, f"no model {name[:200]!r}; this server has {known}", code="model_not_found", param="model"
            )
        return self.models[name]

    async def _body(self, request: Request) -> bytes:
        """Return the body, within the limits of size and time."""
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, "Content-Type must be application/json", code="unsupported_media_type")
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise ApiError(415, "send the body without Content-Encoding", code="unsupported_media_type")
        limit = self.settings.limits.body_bytes
        too_large = ApiError(413, f"the body is larger than {limit // 2**20} MiB", code="body_too_large")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and (len(announced) > _LENGTH_DIGITS or int(announced) > limit):
            raise too_large
        body = bytearray()

        async def read() -> None:
            async for piece in request.stream():
                body.extend(piece)
                if len(body) > limit:
                    raise too_large

        try:
            await asyncio.wait_for(read(), self.settings.limits.body_seconds)
        except asyncio.TimeoutError as error:
            raise ApiError(408, "the body did not arrive in time", code="timeout") from error
        return bytes(body)


class _Answer:
    """One answer on its way from the engine's thread to a client."""

    def __init__(
        self, request: ChatCompletionRequest, model: ServedModel, prompt: Prompt, settings: ServeSettings
    ) -> None:
        self._request = request
        self._seconds = settings.limits.seconds
        self._completion = Completion(model.name, len(prompt.ids))
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def send(piece: str | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        self._job = Job(
            prompt,
            max_tokens=model.prompts.answer_room(prompt, request.token_limit, default=settings.limits.tokens),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stops=request.stops,
            in_pieces=request.stream,
            on_text=send,
            on_end=lambda: send(None),
        )
        try:
            model.engine.submit(self._job)
        except QueueFullError as error:
            raise ApiError(429, "too many requests wait", code="queue_full", retry_after=1) from error

    async def whole(self, http: Request) -> dict[str, Any]:
        """Return the whole answer; a client that goes away cancels it.

        Raises:
            ApiError: 503 where it took too long or the model failed.
        """
        gone = asyncio.create_task(_disconnected(http))
        read = asyncio.create_task(self._read())
        try:
            done, _ = await asyncio.wait({gone, read}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if read not in done:
                raise ClientDisconnect if gone in done else _too_slow(self._seconds)
            text = read.result()
        finally:
            self._job.cancelled.set()
            for task in (gone, read):
                task.cancel()
        self._check_end()
        reason = self._job.finish_reason or "stop"
        return self._completion.whole(text, finish_reason=reason, num_tokens=len(self._job.token_ids))

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the answer as server-sent events."""
        try:
            yield _event(self._completion.chunk({"role": "assistant", "content": ""}))
            deadline = time.monotonic() + self._seconds
            while (piece := await asyncio.wait_for(self._pieces.get(), deadline - time.monotonic())) is not None:
                yield _event(self._completion.chunk({"content": piece}))
            self._check_end()
            yield _event(self._completion.chunk({}, finish_reason=self._job.finish_reason))
            if self._request.stream_options.include_usage:
                yield _event(self._completion.last_chunk(len(self._job.token_ids)))
        except asyncio.TimeoutError:
            yield _event(_too_slow(self._seconds).content())
        except ApiError as error:
            yield _event(error.content())
        except Exception as error:  # a fault of ours; the log has its kind, never the content
            print(f"error: a stream failed: {type(error).__name__}", file=sys.stderr, flush=True)
            yield _event(ApiError(500, "the server failed on this request", code="internal_error").content())
        finally:
            self._job.cancelled.set()
        yield b"data: [DONE]\n\n"

    async def _read(self) -> str:
        pieces = []
        while (piece := await self._pieces.get()) is not None:
            pieces.append(piece)
        return "".join(pieces)

    def _check_end(self) -> None:
        """Raise ApiError unless the answer ended as answers do."""
        if self._job.finish_reason == "error":
            print(f"error: the model failed: {type(self._job.error).__name__}", file=sys.stderr, flush=True)
            raise ApiError(503, "the model failed on this request", code="model_failed")
        if self._job.finish_reason == "cancelled":
            raise ApiError(503, "the server is closing", code="closing")


def _too_slow(seconds: float) -> ApiError:
    return ApiError(503, f"no answer within {seconds:g} seconds", code="timeout")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


class _Json(JSONResponse):
    """JSON of texts that may hold half a surrogate pair, which a request's JSON can write and no encoding can."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    waits = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    return _Json(error.content(), status_code=error.status, headers={**(headers or {}), **waits})


@asynccontextmanager
async def _few_threads(_app: Starlette) -> AsyncIterator[None]:
    """Open pictures in a few threads: each keeps memory of its own, and 40 of them would keep a lot."""
    to_thread.current_default_thread_limiter().total_tokens = PICTURE_THREADS
    yield


async def _http_error(_request: Request, error: Exception) -> Response:
    """Give the framework's own refusals (no such path, wrong method) OpenAI's form."""
    assert isinstance(error, HTTPException)
    return _error_response(ApiError(error.status_code, str(error.detail)), error.headers)
