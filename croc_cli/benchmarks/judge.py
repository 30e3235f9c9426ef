"""A judge model behind an OpenAI-compatible endpoint: concurrent, patient, and never asked the same thing twice.

The key comes from the environment alone; it is in no file, no message and no result.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from croc_cli.benchmarks.base import Record
from croc_cli.benchmarks.judged import JudgedBenchmark, JudgeRequest
from croc_cli.errors import UsageError
from croc_cli.names import JUDGE_KEY_VARIABLE
from croc_cli.run_dir import read_json, write_json

if TYPE_CHECKING:
    import httpx

_REFUSED = (401, 403)
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
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
            JudgeRefused: The key or the model is not accepted.
        """
        import httpx

        self.cache.mkdir(parents=True, exist_ok=True)
        self.failures.clear()
        headers = {"Authorization": f"Bearer {key}"} if (key := os.environ.get(JUDGE_KEY_VARIABLE)) else {}
        with (
            httpx.Client(base_url=self.base_url.rstrip("/") + "/", headers=headers, timeout=self.timeout) as client,
            ThreadPoolExecutor(self.num_workers) as pool,
        ):
            pairs = list(zip(records, answers, strict=True))
            replies = list(pool.map(lambda pair: self._judge(client, benchmark, *pair), pairs))
        first = benchmark.next_request(records[0], answers[0], []) if records else None
        about = {
            "model": self.model,
            "base_url": self.base_url,
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
        asked = json.dumps([self.base_url, body, attempt], sort_keys=True, ensure_ascii=False)
        kept = self.cache / f"{hashlib.sha256(asked.encode()).hexdigest()}.json"
        if "reply" in (before := read_json(kept)):
            return str(before["reply"])
        reply = self._send(client, body)
        write_json(kept, {"model": self.model, "reply": reply})
        return reply

    def _send(self, client: httpx.Client, body: dict[str, Any]) -> str:
        import httpx

        reason = ""
        for attempt in range(self.num_retries + 1):
            wait = min(60.0, 2.0**attempt) * (0.5 + random.random() / 2)
            try:
                response = client.post("chat/completions", json=body)
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if response.status_code in _REFUSED:
                    raise JudgeRefused(
                        f"the judge at {self.base_url} refuses the key (status {response.status_code})",
                        hint=f"put a key that it takes into the environment as {JUDGE_KEY_VARIABLE}",
                    )
                if response.status_code == 404:
                    raise JudgeRefused(
                        f"the judge at {self.base_url} knows no model {self.model!r}, or has no chat/completions there",
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


def _reply_text(response: httpx.Response) -> str | None:
    try:
        text = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None
    return text if isinstance(text, str) else None


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return min(300.0, max(0.0, float(response.headers.get("retry-after", ""))))
    except ValueError:
        return None
