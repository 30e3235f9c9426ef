"""What `croc eval --url` does: ask a server what is open, a few questions at a time, and score; loads no model."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from croc_cli.benchmarks.endpoint import is_loopback
from croc_cli.console import result, say
from croc_cli.errors import UsageError
from croc_cli.launch.job import TASK_FILE
from croc_cli.launch.run_lock import BEAT_SECONDS, RunLock
from croc_cli.names import RUNS_FOLDER
from croc_cli.pipeline.benchmarks import (
    STAGE,
    EvalRequest,
    answer_and_score,
    data_root,
    describe_costs,
    needs_files,
    open_questions,
    read_questions,
)
from croc_cli.progress import Progress, Task, open_progress
from croc_cli.recipe.load import dump_recipe
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import RunDir, StageDir, write_json, write_whole

if TYPE_CHECKING:
    from croc_cli.benchmarks.base import Benchmark, Record
    from croc_cli.benchmarks.judge import Judge
    from croc_cli.benchmarks.served import Server

_LONGEST_NAME = 100
"""Characters of a server's and a model's name in the name of a folder."""


@dataclass(frozen=True)
class ServedRequest:
    """The flags of `croc eval --url`.

    Attributes:
        url: The server's base URL.
        name: What it calls the model; None takes its only one.
        concurrency: Requests at once.
    """

    url: str
    name: str | None = None
    concurrency: int = 8


def served_run_folder(url: str, name: str) -> Path:
    """Return the run folder of a server's model, named by both."""
    parts = urlsplit(url)
    host = f"{parts.hostname or ''}-{parts.port}" if parts.port else parts.hostname or ""
    return Path(RUNS_FOLDER) / f"eval-{_plain(name)}-at-{_plain(host)}"


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:_LONGEST_NAME] or "model"


def evaluate_served(
    recipe: Recipe,
    chosen: "Sequence[Benchmark]",
    request: EvalRequest,
    served: ServedRequest,
    *,
    judge: "Judge | None",
) -> None:
    """Answer benchmarks by a server and score them.

    Raises:
        UsageError: Files are missing, or the server's URL, key or model is not right.
        RunError: The server cannot be reached or is given up; the answers so far are kept.
    """
    from croc_cli.benchmarks.served import Server, clean_url, find_server, key_variable_of
    from croc_cli.redact import read_key, redact

    url = clean_url(served.url)
    if served.name is not None and not served.name.strip():
        raise UsageError("--served-model is empty", hint="leave it out for a server with one model")
    key_variable = key_variable_of(url)
    key = read_key(key_variable)
    root = data_root(request.data, needed=needs_files(chosen))
    records = read_questions(chosen, root)
    if request.dry_run and served.name is not None:
        server = Server(redact(url), served.name)
    else:
        server = asyncio.run(find_server(url, served.name, on_wait=_say_wait))
    run_dir = RunDir(request.run_dir or served_run_folder(url, server.name))
    stage_dir = run_dir.stage(STAGE)
    if key and urlsplit(url).scheme == "http" and not is_loopback(url):
        say(f"warning: the key in {key_variable} goes to {server.url} unencrypted, as the URL begins with http://")
    if request.dry_run:
        asked = _open(chosen, records, stage_dir, server, request.limit)
        keyed = f"key: {key_variable}" if key else f"no key ({key_variable} is not set)"
        result(f"server: {server.url}\nmodel: {server.name}\n{keyed}\nanswers: {stage_dir.predictions}")
        result(_costs(asked))
        if judged := [one for one in chosen if one.needs_judge]:
            result(f"judge:\n{describe_costs(judged, records, stage_dir, limit=request.limit)}")
        return
    task: dict[str, Any] = {
        "model": server.name,
        "model_sha256": server.identity,
        "url": server.url,
        "data": str(root.resolve()),
        "benchmarks": [benchmark.name for benchmark in chosen],
        "variants": {benchmark.name: benchmark.variant for benchmark in chosen if benchmark.variant},
        "limit": request.limit,
    }

    blanks = [name for name, of_one in records.items() if any(one.picture and one.picture.is_blank for one in of_one)]
    if blanks and server.mean_colour is None:
        say(f"note: {', '.join(blanks)}: questions without a picture show grey, as the server names no mean colour")

    def answer(waiting: list[str], lock: RunLock) -> None:
        write_whole(stage_dir.recipe_file, dump_recipe(recipe))
        write_json(stage_dir.root / TASK_FILE, task)
        say(f"benchmarks: {server.name} at {server.url}, in {stage_dir.root}")
        asked = _open([one for one in chosen if one.name in waiting], records, stage_dir, server, request.limit)
        with open_progress() as progress:
            work = _Work(url, server, stage_dir, progress, served.concurrency)
            asyncio.run(work.run(asked, lock))

    if judge is not None:
        judge = replace(judge, cache=stage_dir.root / "judge_replies")
    answer_and_score(chosen, records, root, run_dir, task, request, judge=judge, answer=answer)


class _Work:
    """The requests of one command."""

    def __init__(self, url: str, server: "Server", stage_dir: StageDir, progress: Progress, concurrency: int) -> None:
        self._url = url
        self._server = server
        self._stage_dir = stage_dir
        self._progress = progress
        self._concurrency = concurrency
        self._task = Task()

    async def run(self, asked: "Mapping[Benchmark, Sequence[Record]]", lock: RunLock) -> None:
        """Ask, and show meanwhile that this run lives."""

        async def beat() -> None:
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                lock.refresh()

        both = [asyncio.ensure_future(beat()), asyncio.ensure_future(self._answer_all(asked))]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _answer_all(self, asked: "Mapping[Benchmark, Sequence[Record]]") -> None:
        from croc_cli.benchmarks.served import Asker, open_endpoint

        async with open_endpoint(self._url, server=self._server, on_wait=self._note_wait) as endpoint:
            asker = Asker(
                endpoint, self._server, num_workers=self._concurrency, note=lambda text: self._task.note(text)
            )
            for benchmark, records in asked.items():
                await self._answer(asker, benchmark, records)

    async def _answer(self, asker: Any, benchmark: "Benchmark", records: "Sequence[Record]") -> None:
        from croc_cli.benchmarks.predictions import answer_row, append_row, open_shard, shard_file

        self._task = self._progress.task(benchmark.name, len(records), "questions")
        num_done = 0
        with open_shard(shard_file(self._stage_dir.predictions, benchmark.name, 0)) as stream:

            def take(record: "Record", text: str) -> None:
                nonlocal num_done
                server = self._server
                append_row(stream, answer_row(record, text, model_sha256=server.identity, model_id=server.name))
                num_done += 1
                self._task.update(num_done)

            try:
                await asker.answer(benchmark, records, take)
            finally:
                self._task.close(f"{num_done:,} of {len(records):,} questions answered")

    def _note_wait(self, seconds: float, reason: str) -> None:
        self._task.note(_wait_text(seconds, reason))


def _say_wait(seconds: float, reason: str) -> None:
    say(f"note: {_wait_text(seconds, reason)}")


def _wait_text(seconds: float, reason: str) -> str:
    return f"the server is busy ({reason}); waiting {seconds:.0f} s"


def _open(
    chosen: "Sequence[Benchmark]",
    records: "Mapping[str, Sequence[Record]]",
    stage_dir: StageDir,
    server: "Server",
    limit: int | None,
) -> "dict[Benchmark, list[Record]]":
    return {
        one: open_questions(stage_dir, one, records[one.name], limit=limit, model_sha256=server.identity)
        for one in chosen
    }


def _costs(asked: "Mapping[Benchmark, Sequence[Record]]") -> str:
    """Return the table of what would be sent, at most."""
    from croc_cli.benchmarks.compare import format_rows
    from croc_cli.benchmarks.served import estimate

    costs = {benchmark.name: estimate(benchmark, records) for benchmark, records in asked.items()}
    names = list(next(iter(costs.values())))
    costs["all"] = {name: sum(one[name] for one in costs.values()) for name in names}
    rows = [[benchmark, *(f"{number:,}" for number in one.values())] for benchmark, one in costs.items()]
    return (
        f"{format_rows([['benchmark', *names], *rows], 'text')}\n"
        "Requests: questions without an answer. Text tokens: about one for 4 characters;\n"
        "pictures come on top, as the server counts them. Answer tokens: at most."
    )
