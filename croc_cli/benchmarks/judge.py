"""A judge model behind an OpenAI-compatible endpoint: concurrent, patient, and never asked the same thing twice.

The key comes from the environment alone; it is in no file, no message and no result.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from croc_cli.benchmarks.base import Record
from croc_cli.benchmarks.judged import JudgedBenchmark, JudgeRequest
from croc_cli.errors import UsageError, first_line
from croc_cli.names import JUDGE_KEY_VARIABLE
from croc_cli.redact import HIDDEN, read_key, redact
from croc_cli.run_dir import read_json, write_json

if TYPE_CHECKING:
    import httpx

_REFUSED = (401, 403)
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
_LONGEST_REPLY = 4_000_000  # bytes; a reply of 1,024 tokens has a few thousand
_LONGEST_WAIT = 300.0  # seconds, however long the endpoint asks for
_REASON_LENGTH = 300
_CHARACTERS_PER_TOKEN = 4  # of English text, for estimates


class JudgeRefused(UsageError):
    """The endpoint does not take the key or does not know the model; asking again would not help; exit code 2."""


class _JudgementFailed(Exception):
    """One request came to nothing after all retries."""


@dataclass
class Judge:
    """Asks a judge model about answers.

    Args:
        base_url: Of the endpoint, such as https://api.openai.com/v1.
        model: Which model judges.
        cache: Folder of replies, by the hash of what was asked.
        num_workers: Requests at once.
        timeout: Seconds to wait for a reply.
        num_retries: Times a failed request is sent again.
        sleep: Waits; tests do not.
    """

    base_url: str
    model: str
    cache: Path
    num_workers: int = 8
    timeout: float = 120.0
    num_retries: int = 5
    sleep: Callable[[float], None] = time.sleep
    failures: dict[str, str] = field(default_factory=dict)

    def __call__(
        self, benchmark: JudgedBenchmark, records: Sequence[Record], answers: Sequence[str]
    ) -> tuple[list[list[str]], dict[str, Any]]:
        """Return the replies about each answer, none where judging failed, and what the result says of the judge.

        Raises:
            UsageError: The URL or the key cannot be right; nothing was sent.
            JudgeRefused: The key or the model is not accepted.
        """
        import httpx

        check_judge_url(self.base_url)
        self.cache.mkdir(parents=True, exist_ok=True)
        self.failures.clear()
        headers = {"Authorization": f"Bearer {key}"} if (key := read_key(JUDGE_KEY_VARIABLE)) else {}
        with (
            httpx.Client(base_url=self.base_url.rstrip("/") + "/", headers=headers, timeout=self.timeout) as client,
            ThreadPoolExecutor(self.num_workers) as pool,
        ):
            pairs = list(zip(records, answers, strict=True))
            replies = list(pool.map(lambda pair: self._judge(client, benchmark, *pair), pairs))
        first = benchmark.next_request(records[0], answers[0], []) if records else None
        about = {
            "model": self.model,
            "base_url": redact(self.base_url),
            "published_with": benchmark.judge_model,
            "example_messages": list(first.messages) if first else [],
            "num_judged": sum(bool(said) for said in replies),
            "num_failed": sum(not said for said in replies),
            "failures": dict(list(self.failures.items())[:10]),
        }
        return replies, about

    def _judge(self, client: httpx.Client, benchmark: JudgedBenchmark, record: Record, answer: str) -> list[str]:
        replies: list[str] = []
        while (request := benchmark.next_request(record, answer, replies)) is not None:
            try:
                replies.append(self._ask(client, request, attempt=len(replies)))
            except _JudgementFailed as error:
                self.failures[record.key] = str(error)
                return []
        return replies

    def _ask(self, client: httpx.Client, request: JudgeRequest, *, attempt: int) -> str:
        """Return the reply to a request, from the cache where it is there.

        The attempt is part of what a reply is kept under: a question that is asked again must not be answered by the
        reply that was not good enough.
        """
        body = {
            "model": self.model,
            "messages": [dict(message) for message in request.messages],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
        }
        asked = json.dumps([redact(self.base_url), body, attempt], sort_keys=True, ensure_ascii=False)
        kept = self.cache / f"{hashlib.sha256(asked.encode('utf-8', 'replace')).hexdigest()}.json"
        if isinstance(reply := read_json(kept).get("reply"), str):
            return reply
        reply = self._send(client, body)
        write_json(kept, {"model": self.model, "reply": reply})
        return reply

    def _send(self, client: httpx.Client, body: dict[str, Any]) -> str:
        import httpx

        reason = ""
        for attempt in range(self.num_retries + 1):
            wait = min(60.0, 2.0**attempt) * (0.5 + random.random() / 2)
            try:
                response = self._post(client, body)
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError, RecursionError) as error:
                reason = redact(f"{type(error).__name__}: {first_line(error)}"[:_REASON_LENGTH])
                if not isinstance(error, httpx.TransportError):
                    break
            else:
                if response.status_code in _REFUSED:
                    raise JudgeRefused(
                        f"the judge at {redact(self.base_url)} refuses the key (status {response.status_code})",
                        hint=f"put a key that it takes into the environment as {JUDGE_KEY_VARIABLE}",
                    )
                if response.status_code == 404:
                    raise JudgeRefused(
                        f"the judge at {redact(self.base_url)} has no model {self.model!r} or no chat/completions",
                        hint="look at --judge-url (it ends in /v1 for most servers) and --judge-model",
                    )
                if response.is_success:
                    text = _reply_text(response)
                    if text is not None:
                        return text
                    reason = "a reply without choices"
                else:
                    reason = f"status {response.status_code}"
                    if response.status_code not in _AGAIN:
                        break
                    wait = _retry_after(response) or wait
            if attempt < self.num_retries:
                self.sleep(wait)
        raise _JudgementFailed(reason)

    def _post(self, client: httpx.Client, body: dict[str, Any]) -> httpx.Response:
        """Send a request, and read its reply as long as it comes in time and is no longer than a reply is.

        Raises:
            httpx.HTTPError: It does not come, or does not end.
        """
        import httpx

        deadline = time.monotonic() + self.timeout
        with client.stream("POST", "chat/completions", json=body) as response:
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > _LONGEST_REPLY:
                    raise httpx.DecodingError(f"a reply of more than {_LONGEST_REPLY:,} bytes")
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"a reply of more than {self.timeout:g} s")
            headers = {name: value for name, value in response.headers.items() if name == "retry-after"}
            return httpx.Response(response.status_code, content=bytes(content), headers=headers)


def estimate(benchmark: JudgedBenchmark, records: Sequence[Record], answers: Sequence[str]) -> dict[str, int]:
    """Return how many requests and about how many tokens judging takes, each request needing one reply."""
    requests = [benchmark.next_request(record, answer, []) for record, answer in zip(records, answers, strict=True)]
    asked = [request for request in requests if request is not None]
    characters = sum(len(message["content"]) for request in asked for message in request.messages)
    return {
        "requests": len(asked),
        "prompt_tokens": characters // _CHARACTERS_PER_TOKEN,
        "reply_tokens_at_most": sum(request.max_tokens for request in asked),
    }


def check_judge_url(url: str) -> None:
    """Check an endpoint's URL before anything is sent.

    Raises:
        UsageError: It is no http(s) URL with a host, or its credentials were taken out when it was saved.
    """
    hint = "--judge-url names an OpenAI-compatible endpoint, such as https://api.openai.com/v1"
    if HIDDEN in url:
        raise UsageError(f"the judge's URL {url} was saved without its credentials", hint="give --judge-url URL again")
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_right = False
    if not is_right or any(character.isspace() or not character.isprintable() for character in url):
        raise UsageError(f"the judge's URL {redact(url)!r} is no http(s) URL with a host", hint=hint)
    if parts.query or parts.fragment:
        raise UsageError(
            f"the judge's URL {redact(url)} has a part behind {'?' if parts.query else '#'}",
            hint=f"it ends in /v1 for most servers; the key goes into {JUDGE_KEY_VARIABLE}",
        )


def _reply_text(response: httpx.Response) -> str | None:
    """Return the text of a reply, or None where it is of any other kind."""
    try:
        text = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    # Half a surrogate pair, which JSON can write, is no text that a file could hold.
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else None


def _retry_after(response: httpx.Response) -> float | None:
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(_LONGEST_WAIT, max(0.0, seconds)) if math.isfinite(seconds) else None
