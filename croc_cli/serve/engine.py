"""Answers requests in batches: one thread owns the model, whoever waits joins the next round.

Letters: B answers made at once, V words of the vocabulary, n visual tokens of a picture, D width of the LLM.

A round is one call of `generate` over all running requests, padded on the left. It ends when every answer has ended.
It also ends for requests that wait, as `is_time_to_join` says; the next round continues unfinished answers from their
tokens. Each row draws with its own generator and stops by its own rules.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.generation import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutputWithPooling

from croc_cli.chat.stream import AnswerStreamer
from croc_cli.checkpoint.load import LoadedModel
from croc_cli.eval.runner import decode_plainly, end_tokens
from croc_cli.serve.prompt import Prompt
from croc_cli.serve.text import StopFilter

JOIN_STEPS = 16
"""Tokens that a round makes at least: reading all prompts again costs about as much as a few."""
LONGEST_WAIT = 64
"""Tokens after which a round ends for a single request that waits."""
FinishReason = Literal["stop", "length", "cancelled", "error"]


class QueueFullError(Exception):
    """More requests wait than the engine takes."""


class Job:
    """One request in the engine.

    Args:
        prompt: What is asked.
        max_tokens: Longest answer.
        temperature: 0 takes the likeliest token each time.
        top_p: Share of the probability that is drawn from.
        seed: Of the draws; None draws anew each time.
        stops: Strings before which the answer ends.
        on_text: Called with each piece of the answer, from the engine's thread.
        on_end: Called once, when `finish_reason` is set, from the engine's thread.
    """

    def __init__(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stops: tuple[str, ...] = (),
        on_text: Callable[[str], None] = lambda _: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.stops = stops
        self.on_text = on_text
        self.on_end = on_end
        self.cancelled = threading.Event()
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.error: BaseException | None = None
        self.features: list[Tensor] | None = None
        self.streamer: AnswerStreamer | None = None
        self.filter = StopFilter(stops, on_text)
        self.generator = torch.Generator()
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed % 2**64)


class Engine:
    """One model and the thread that answers with it.

    Args:
        model: The model, in eval mode.
        max_batch: B at most.
        max_queue: Requests that wait at most.
    """

    def __init__(self, model: LoadedModel, *, max_batch: int, max_queue: int) -> None:
        self.model = model
        self.max_batch = max_batch
        self.max_queue = max_queue
        self._ends = end_tokens(model.llava, model.processor)
        self._pad = decode_plainly(model.llava, model.processor)
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._alone = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="croc-engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Let a request wait for its answer.

        Raises:
            QueueFullError: Too many wait, or the engine is closing.
        """
        with self._changed:
            self._waiting = deque(one for one in self._waiting if not one.cancelled.is_set())
            if self._closing or len(self._waiting) >= self.max_queue:
                raise QueueFullError
            self._waiting.append(job)
            self._changed.notify_all()

    def load(self) -> tuple[int, int]:
        """Return how many requests are answered, and how many wait."""
        with self._changed:
            return len(self._running), len(self._waiting)

    def exclusively(self, work: Callable[[LoadedModel], Any]) -> Any:
        """Run something else with the model, between two rounds."""
        with self._alone, torch.inference_mode():
            return work(self.model)

    def close(self) -> None:
        """End what runs and what waits, and the thread."""
        with self._changed:
            self._closing = True
            for job in (*self._running, *self._waiting):
                job.cancelled.set()
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._running or self._closing)
                while self._waiting and len(self._running) < self.max_batch:
                    self._running.append(self._waiting.popleft())
                if not self._running:
                    if self._closing:
                        return
                    continue
            self._drop_cancelled()
            if self._running:
                with self._alone:
                    self._guarded_round()
            with self._changed:
                self._running = [job for job in self._running if job.finish_reason is None]

    def _drop_cancelled(self) -> None:
        for job in self._running:
            if job.cancelled.is_set():
                self._finish(job, "cancelled")
        with self._changed:
            self._running = [job for job in self._running if job.finish_reason is None]

    def _guarded_round(self) -> None:
        """Run a round; too little memory halves it, anything else fails its requests and no other."""
        try:
            self._round(list(self._running))
        except torch.OutOfMemoryError as error:
            if len(self._running) > 1:
                with self._changed:
                    keep = len(self._running) // 2
                    self._waiting.extendleft(reversed(self._running[keep:]))
                    self._running = self._running[:keep]
                    self.max_batch = keep
            else:
                self._fail(error)
        except Exception as error:  # whatever a model raises; its clients are told, the others are answered
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        for job in self._running:
            job.error = error
            self._finish(job, "error")

    @torch.inference_mode()
    def _round(self, jobs: list[Job]) -> None:
        """Continue the answers of some requests until all have ended or somebody waits."""
        llava = self.model.llava
        for job in jobs:
            if job.streamer is None:
                job.streamer = AnswerStreamer(self.model.processor.tokenizer, job.filter.put, for_terminal=False)
                job.streamer.put(torch.tensor(job.prompt.ids))
        rows = [job.prompt.ids + job.token_ids for job in jobs]
        longest = max(map(len, rows))
        ids = torch.tensor([[self._pad] * (longest - len(row)) + row for row in rows], device=llava.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=llava.device)
        llava.generate(
            input_ids=ids,
            attention_mask=mask,
            **self._visual_inputs(jobs),
            max_new_tokens=max(job.max_tokens - len(job.token_ids) for job in jobs),
            logits_processor=LogitsProcessorList([_DrawEachRow(jobs)]),
            stopping_criteria=StoppingCriteriaList([_TellEachRow(jobs, self._take, self._should_join)]),
        )

    def _visual_inputs(self, jobs: list[Job]) -> dict[str, Any]:
        """Return visual tokens in place of pixels; each picture goes through the tower once."""
        llava = self.model.llava
        new = [job for job in jobs if job.prompt.pixels and job.features is None]
        if new:
            pixels = torch.cat([one for job in new for one in job.prompt.pixels]).to(llava.device, llava.dtype)
            made = iter(llava.get_image_features(pixels).pooler_output)
            for job in new:
                job.features = [next(made) for _ in job.prompt.pixels]
        features = [one for job in jobs for one in job.features or ()]
        if not features:
            return {}
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=features)}}

    def _take(self, job: Job, token: int) -> None:
        """Add a token to an answer, and end the answer where it ends."""
        if job.finish_reason is not None:
            return
        if job.cancelled.is_set():
            self._finish(job, "cancelled")
            return
        job.token_ids.append(token)
        assert job.streamer is not None, "set before the round"
        if token in self._ends:
            self._finish(job, "stop")
            return
        job.streamer.put(torch.tensor([token]))
        if job.filter.stopped:
            self._finish(job, "stop")
        elif len(job.token_ids) >= job.max_tokens:
            self._finish(job, "length")

    def _finish(self, job: Job, reason: FinishReason) -> None:
        if job.streamer is not None:
            job.streamer.end()
        job.filter.end()
        if job.filter.stopped and reason == "length":
            reason = "stop"
        job.finish_reason = reason
        job.features = None
        job.on_end()

    def _should_join(self, steps: int) -> bool:
        with self._changed:
            waiting = len(self._waiting)
        open_answers = sum(job.finish_reason is None for job in self._running)
        return open_answers < self.max_batch and is_time_to_join(steps, waiting=waiting, open_answers=open_answers)


def is_time_to_join(steps: int, *, waiting: int, open_answers: int) -> bool:
    """Tell whether a round should end for those who wait.

    Args:
        steps: Tokens that the round has made.
        waiting: Requests that wait; each gains an early start.
        open_answers: Answers of the round that have not ended; each loses the time to read its prompt again.
    """
    if not waiting or steps < JOIN_STEPS:
        return False
    return 2 * waiting >= open_answers or steps >= LONGEST_WAIT


class _DrawEachRow(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Leaves one token to each row that draws: the one that its own generator chose."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = jobs

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002  transformers names both
        """Return [B, V] scores; greedy rows are left as they are."""
        for row, job in enumerate(self._jobs):
            if job.temperature > 0 and job.finish_reason is None:
                chosen = draw(scores[row], temperature=job.temperature, top_p=job.top_p, generator=job.generator)
                scores[row] = float("-inf")
                scores[row, chosen] = 0.0
        return scores


def draw(logits: Tensor, *, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Return a token drawn from [V] logits: nucleus sampling (arXiv:1904.09751, section 3.1)."""
    values, order = (logits.float() / temperature).softmax(dim=-1).sort(descending=True, stable=True)
    before = values.cumsum(dim=-1) - values
    values = torch.where(before < top_p, values, 0.0)
    place = torch.multinomial(values.cpu(), 1, generator=generator)
    return int(order[place.to(order.device)])


class _TellEachRow(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed
    """Hands each row's new token on, and says which rows have ended."""

    def __init__(self, jobs: list[Job], take: Callable[[Job, int], None], should_join: Callable[[int], bool]) -> None:
        self._jobs = jobs
        self._take = take
        self._should_join = should_join
        self._steps = 0

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return [B] bool, True where a row has ended; all True ends the round."""
        self._steps += 1
        for job, token in zip(self._jobs, input_ids[:, -1].tolist(), strict=True):
            self._take(job, token)
        ended = torch.tensor([job.finish_reason is not None for job in self._jobs], device=input_ids.device)
        if self._should_join(self._steps):
            ended = torch.ones_like(ended)
        return ended
