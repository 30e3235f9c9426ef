"""A judge model behind an OpenAI-compatible endpoint: concurrent, patient, and never asked the same thing twice.

The key comes from the environment alone; it is in no file, no message and no result.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from croc_cli.benchmarks.base import Record
from croc_cli.benchmarks.endpoint import (
    CHARACTERS_PER_TOKEN,
    Endpoint,
    EndpointRefused,
    RequestFailed,
    check_url,
    work_on,
)
from croc_cli.benchmarks.judged import JudgedBenchmark, JudgeRequest
from croc_cli.errors import UsageError
from croc_cli.names import JUDGE_KEY_VARIABLE
from croc_cli.redact import read_key, redact
from croc_cli.run_dir import read_json, write_json


class JudgeRefused(UsageError):
    """The endpoint does not take the key or does not know the model; asking again would not help; exit code 2."""


@dataclass
class Judge:
    """Asks a judge model about answers.

    Args:
        base_url: Of the endpoint, such as https://api.openai.com/v1.
        model: Name of the judge model.
        cache: Folder of replies, by the hash of what was asked.
        num_workers: Requests at once.
        timeout: Seconds to wait for a reply.
        num_retries: Times a failed request is sent again.
        sleep: Waits; tests do not. None waits as asyncio does.
    """

    base_url: str
    model: str
    cache: Path
    num_workers: int = 8
    timeout: float = 120.0
    num_retries: int = 5
    sleep: Callable[[float], None] | None = None
    failures: dict[str, str] = field(default_factory=dict)

    def __call__(
        self, benchmark: JudgedBenchmark, records: Sequence[Record], answers: Sequence[str]
    ) -> tuple[list[list[str]], dict[str, Any]]:
        """Return the replies about each answer, none where judging failed, and what the result says of the judge.

        Raises:
            UsageError: The URL or the key cannot be right; nothing was sent.
            JudgeRefused: The key or the model is not accepted.
        """
        check_judge_url(self.base_url)
        self.cache.mkdir(parents=True, exist_ok=True)
        self.failures.clear()
        replies = asyncio.run(self._judge_all(benchmark, list(zip(records, answers, strict=True))))
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

    async def _judge_all(self, benchmark: JudgedBenchmark, pairs: Sequence[tuple[Record, str]]) -> list[list[str]]:
        replies: list[list[str]] = [[] for _ in pairs]

        async def judge(place: int) -> None:
            try:
                replies[place] = await self._judge(endpoint, benchmark, *pairs[place])
            except RequestFailed as error:
                self.failures[pairs[place][0].key] = error.reason

        key = read_key(JUDGE_KEY_VARIABLE)
        settings: dict[str, Any] = {"timeout": self.timeout, "num_retries": self.num_retries}
        async with Endpoint(self.base_url, key=key, **settings, sleep=self._sleep) as endpoint:
            await work_on(range(len(pairs)), judge, num_workers=self.num_workers)
        return replies

    async def _sleep(self, seconds: float) -> None:
        if self.sleep is None:
            await asyncio.sleep(seconds)
        else:
            self.sleep(seconds)

    async def _judge(self, endpoint: Endpoint, benchmark: JudgedBenchmark, record: Record, answer: str) -> list[str]:
        replies: list[str] = []
        while (request := benchmark.next_request(record, answer, replies)) is not None:
            replies.append(await self._ask(endpoint, request, attempt=len(replies)))
        return replies

    async def _ask(self, endpoint: Endpoint, request: JudgeRequest, *, attempt: int) -> str:
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
        try:
            reply = await endpoint.complete(body)
        except EndpointRefused as error:
            raise self._refused(error) from error
        write_json(kept, {"model": self.model, "reply": reply})
        return reply

    def _refused(self, error: EndpointRefused) -> JudgeRefused:
        url = redact(self.base_url)
        if error.status == 404:
            return JudgeRefused(
                f"the judge at {url} has no model {self.model!r} or no chat/completions",
                hint="look at --judge-url (it ends in /v1 for most servers) and --judge-model",
            )
        return JudgeRefused(
            f"the judge at {url} refuses the key (status {error.status})",
            hint=f"put a key that it takes into the environment as {JUDGE_KEY_VARIABLE}",
        )


def estimate(benchmark: JudgedBenchmark, records: Sequence[Record], answers: Sequence[str]) -> dict[str, int]:
    """Return how many requests and about how many tokens judging takes, each request needing one reply."""
    requests = [benchmark.next_request(record, answer, []) for record, answer in zip(records, answers, strict=True)]
    asked = [request for request in requests if request is not None]
    characters = sum(len(message["content"]) for request in asked for message in request.messages)
    return {
        "requests": len(asked),
        "prompt_tokens": characters // CHARACTERS_PER_TOKEN,
        "reply_tokens_at_most": sum(request.max_tokens for request in asked),
    }


def check_judge_url(url: str) -> None:
    """Raise UsageError unless a judge may be at a URL; see `endpoint.check_url`."""
    check_url(url, whose="the judge's", option="--judge-url", key_variable=JUDGE_KEY_VARIABLE)
