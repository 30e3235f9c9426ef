"""An OpenAI-compatible endpoint: what is sent there, how long it is waited for, and when it is asked again.

Keys come from the environment alone; they are in no file, no message and no result.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from croc_cli.addresses import literal_address
from croc_cli.errors import UsageError, first_line
from croc_cli.redact import HIDDEN, redact

if TYPE_CHECKING:
    import httpx

Item = TypeVar("Item")

CHARACTERS_PER_TOKEN = 4
"""Of English text, for estimates."""
_REFUSED = (401, 403, 404)
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
_OWN_FAULTS = (400, 413, 415, 422)
_SPENT = "insufficient_quota"
"""OpenAI's word in a status 429 that no waiting fixes."""
_LONGEST_REPLY = 4_000_000  # bytes; a reply of 1,024 tokens has a few thousand
_LONGEST_WAIT = 300.0  # seconds, however long the endpoint asks for
_CONNECT_SECONDS = 10.0
_REASON_LENGTH = 300


class RequestFailed(Exception):
    """One request had no answer after all retries.

    Args:
        reason: Why, without secrets.
        detail: What the endpoint says of it; empty where it says nothing.
        is_own: The request itself is at fault; others may be answered.
    """

    def __init__(self, reason: str, detail: str = "", *, is_own: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.is_own = is_own


class EndpointRefused(Exception):
    """The endpoint does not take the key, does not know the model, or wants money: asking again would not help.

    Args:
        status: HTTP status.
        detail: What the endpoint says of it, without secrets.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"status {status}: {detail}")
        self.status = status
        self.detail = detail


class Endpoint:
    """Sends requests; a context in which connections are open. Requests may run at the same time.

    Args:
        base_url: Such as https://api.openai.com/v1.
        key: Sent as `Authorization: Bearer KEY`; None sends none.
        timeout: Seconds from a request to the end of its reply.
        num_retries: Times a failed request is sent again.
        headers: More headers of every request.
        sleep: Waits; tests do not.
        on_wait: Told the seconds and the reason of every pause that the endpoint asks for.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None,
        timeout: float,
        num_retries: int,
        headers: Mapping[str, str] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_wait: Callable[[float, str], None] = lambda *_: None,
    ) -> None:
        self.base_url = base_url
        self.timeout = timeout
        self.num_retries = num_retries
        self.headers = {**(headers or {}), **({"Authorization": f"Bearer {key}"} if key else {})}
        self._sleep = sleep
        self._on_wait = on_wait
        self._resting = 0
        self._open = asyncio.Event()
        self._open.set()

    async def __aenter__(self) -> Endpoint:
        import httpx

        self._client = httpx.AsyncClient(
            base_url=self.base_url.rstrip("/") + "/",
            headers=self.headers,
            timeout=httpx.Timeout(self.timeout, connect=min(self.timeout, _CONNECT_SECONDS)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=not is_loopback(self.base_url),  # a proxy does not lead to this machine
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def complete(self, body: Mapping[str, Any]) -> str:
        """Return the text of the reply to a request for a chat completion.

        Raises:
            RequestFailed: There is none after all retries, or retries would not help.
            EndpointRefused: The key or the model is not accepted.
        """
        for attempt in range(self.num_retries + 1):
            await self._open.wait()
            response = await self._try("POST", "chat/completions", body)
            text = response if isinstance(response, RequestFailed) else reply_text(response)
            if isinstance(text, str):
                return text
            if attempt == self.num_retries:
                raise text
            asked_for = None if isinstance(response, RequestFailed) else _retry_after(response)
            is_busy = asked_for is not None or text.reason == "status 429"
            await self._rest(asked_for or _backoff(attempt), text.reason, for_all=is_busy)
        raise AssertionError("the last attempt returns or raises")

    async def get(self, path: str) -> httpx.Response:
        """Return the reply to a GET request, of whatever status; one that is busy or broken is asked again.

        Raises:
            RequestFailed: There is none.
        """
        for attempt in range(self.num_retries + 1):
            response = await self._try("GET", path, None)
            is_last = attempt == self.num_retries
            if not isinstance(response, RequestFailed) and (response.status_code not in _AGAIN or is_last):
                return response
            if isinstance(response, RequestFailed) and (is_last or "ConnectError" in response.reason):
                raise response
            wait = None if isinstance(response, RequestFailed) else _retry_after(response)
            await self._sleep(wait or _backoff(attempt))
        raise AssertionError("the last attempt returns or raises")

    async def _try(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response | RequestFailed:
        """Send a request once; what may go better the next time is returned.

        Raises:
            RequestFailed: The next time would be no better.
        """
        import httpx

        try:
            return await asyncio.wait_for(self._read(method, path, body), self.timeout)
        except asyncio.TimeoutError:
            return RequestFailed(f"ReadTimeout: a reply of more than {self.timeout:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError, RecursionError) as error:
            failed = RequestFailed(redact(f"{type(error).__name__}: {first_line(error)}")[:_REASON_LENGTH])
            if isinstance(error, httpx.TransportError):
                return failed
            raise failed from error

    async def _read(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """Send a request, and read its reply as long as it is no longer than a reply is."""
        import httpx

        sent: dict[str, Any] = {"json": body} if body is not None else {}
        async with self._client.stream(method, path, **sent) as response:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > _LONGEST_REPLY:
                    raise httpx.DecodingError(f"a reply of more than {_LONGEST_REPLY:,} bytes")
            kept = ("retry-after", "content-type", "location")
            headers = {name: value for name, value in response.headers.items() if name in kept}
            return httpx.Response(response.status_code, content=bytes(content), headers=headers)

    async def _rest(self, seconds: float, reason: str, *, for_all: bool) -> None:
        """Wait; for all, no other request is sent meanwhile."""
        if not for_all:
            await self._sleep(seconds)
            return
        if not self._resting:
            self._on_wait(seconds, reason)
        self._resting += 1
        self._open.clear()
        try:
            await self._sleep(seconds)
        finally:
            self._resting -= 1
            if not self._resting:
                self._open.set()


async def work_on(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], *, num_workers: int) -> None:
    """Work on items, a few at a time and in their order; the first error ends all."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    workers = [asyncio.ensure_future(worker()) for _ in range(num_workers)]
    try:
        await asyncio.gather(*workers)
    finally:
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def check_url(url: str, *, whose: str, option: str, key_variable: str) -> None:
    """Check an endpoint's URL before anything is sent.

    Args:
        url: The URL.
        whose: For messages, such as "the judge's".
        option: The flag that names it.
        key_variable: Where the key belongs.

    Raises:
        UsageError: It is not an http(s) URL with a host, or its credentials were taken out when it was saved.
    """
    hint = f"{option} names an OpenAI-compatible endpoint, such as https://api.openai.com/v1"
    if HIDDEN in url:
        raise UsageError(f"{whose} URL {url} was saved without its credentials", hint=f"give {option} URL again")
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_right = False
    if not is_right or any(character.isspace() or not character.isprintable() for character in url):
        raise UsageError(f"{whose} URL {redact(url)!r} is not an http(s) URL with a host", hint=hint)
    if parts.query or parts.fragment:
        raise UsageError(
            f"{whose} URL {redact(url)} has a part behind {'?' if parts.query else '#'}",
            hint=f"it ends in /v1 for most servers; the key goes into {key_variable}",
        )


def is_loopback(url: str) -> bool:
    """Tell whether a URL leads to this machine."""
    host = (urlsplit(url).hostname or "").lower()
    return host == "localhost" or host == "::1" or (literal_address(host) or "").startswith("127.")


def reply_text(response: httpx.Response) -> str | RequestFailed:
    """Return the text of a reply, or why there is none where asking again may help.

    Raises:
        RequestFailed: There is none, and asking again would not help.
        EndpointRefused: The key or the model is not accepted.
    """
    status = response.status_code
    if response.is_success:
        try:
            text = response.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            kind = response.headers.get("content-type", "").split(";")[0].strip()
            return RequestFailed("a reply without choices", "" if kind == "application/json" else f"it is {kind!r}")
        if isinstance(text, str):
            # Half a surrogate pair, which JSON can write, is not text that a file could hold.
            return text.encode("utf-8", "replace").decode()
        raise RequestFailed("a reply without text", is_own=True)
    detail = error_text(response)
    if status in _REFUSED or (status == 429 and _SPENT in response.text):
        raise EndpointRefused(status, detail)
    failed = RequestFailed(f"status {status}", detail, is_own=status in _OWN_FAULTS)
    if status in _AGAIN:
        return failed
    raise failed


def error_text(response: httpx.Response) -> str:
    """Return what an endpoint says of an error, on one line and without secrets; empty where that is not clear."""
    try:
        said = response.json()
    except (ValueError, RecursionError):
        return ""
    for name in ("error", "detail", "message"):
        said = said.get(name, said) if isinstance(said, dict) else said
    return redact(" ".join(str(said).split()))[:_REASON_LENGTH] if isinstance(said, str) else ""


def _backoff(attempt: int) -> float:
    """Return seconds to wait after an attempt, twice as many each time and never the same for two requests."""
    return float(min(60.0, 2.0**attempt) * (0.5 + random.random() / 2))


def _retry_after(response: httpx.Response) -> float | None:
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(_LONGEST_WAIT, max(0.0, seconds)) if math.isfinite(seconds) else None
