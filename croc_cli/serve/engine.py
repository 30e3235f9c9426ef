"""Answers many requests with one model: one thread owns the model, and decides who is answered, who waits, who ends.

How answers are made together is in `batch.py`; `rounds.py` is for the few models that cannot be batched that way.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from croc_cli.checkpoint.load import LoadedModel
from croc_cli.console import say
from croc_cli.eval.runner import decode_plainly, end_tokens
from croc_cli.serve.batch import ContinuousBatch
from croc_cli.serve.job import Job
from croc_cli.serve.rounds import JOIN_STEPS, Rounds
from croc_cli.serve.rows import depends_on_others, why_not_in_rows


class QueueFullError(Exception):
    """More requests wait than the engine takes, or it is closing."""


class Engine:
    """One model and the thread that answers with it.

    Args:
        model: The model, in eval mode.
        max_batch: Answers at once, at most.
        max_queue: Requests that wait, at most.
    """

    def __init__(self, model: LoadedModel, *, max_batch: int, max_queue: int) -> None:
        self.model = model
        self.max_batch = max_batch
        self.max_queue = max_queue
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._errands: deque[tuple[Future[Any], Callable[[LoadedModel], Any]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._batch = self._choose_batch()
        self._thread = threading.Thread(target=self._run, name="croc-engine", daemon=True)
        self._thread.start()

    def _choose_batch(self) -> ContinuousBatch | Rounds:
        llava = self.model.llava
        ends = frozenset(end_tokens(llava, self.model.processor))
        pad = decode_plainly(llava, self.model.processor)
        if depends_on_others(llava):
            say("note: this model's positions depend on the longest text of a batch, so it answers one at a time")
            self.max_batch = 1
        reason = why_not_in_rows(llava, pad)
        if reason is None:
            return ContinuousBatch(llava, pad=pad, ends=ends)
        say(f"note: requests join this model's answers after {JOIN_STEPS} tokens or more, as {reason}")
        return Rounds(llava, pad=pad, ends=ends, num_waiting=self._num_joining)

    def submit(self, job: Job) -> None:
        """Let a request wait for its answer.

        Raises:
            QueueFullError: Too many wait, or the engine is closing.
        """
        job.begin(self.model.processor.tokenizer)
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
        """Return what something else makes of the model, between two tokens of the answers.

        Raises:
            QueueFullError: The engine is closing.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._closing:
                raise QueueFullError
            self._errands.append((future, work))
            self._changed.notify_all()
        return future.result()

    def close(self) -> None:
        """End what runs and what waits, and the thread."""
        with self._changed:
            self._closing = True
            for job in (*self._running, *self._waiting):
                job.cancelled.set()
            self._changed.notify_all()
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._running or self._errands or self._closing)
                while self._waiting and len(self._running) < self.max_batch:
                    self._running.append(self._waiting.popleft())
                if self._closing and not self._running and not self._errands:
                    return
            while self._errands:
                self._run_errand(*self._errands.popleft())
            for job in self._running:
                if job.cancelled.is_set():
                    job.cancel()
            self._forget_ended()
            if self._running:
                self._advance()
                self._forget_ended()
            else:
                self._batch.reset()

    def _run_errand(self, future: "Future[Any]", work: Callable[[LoadedModel], Any]) -> None:
        try:
            future.set_result(work(self.model))
        except BaseException as error:  # whoever asked is told
            future.set_exception(error)

    def _forget_ended(self) -> None:
        with self._changed:
            self._running = [job for job in self._running if job.finish_reason is None]

    def _advance(self) -> None:
        """Advance all answers; too little memory halves them, anything else fails them and no other."""
        try:
            self._batch.advance(self._running)
        except torch.OutOfMemoryError as error:
            self._batch.reset()
            self._halve(error)
        except Exception as error:  # whatever a model raises; its clients are told, the others are answered
            self._batch.reset()
            for job in self._running:
                if job.finish_reason is None:
                    job.fail(error)

    def _halve(self, error: torch.OutOfMemoryError) -> None:
        with self._changed:
            unfinished = [job for job in self._running if job.finish_reason is None]
            keep = len(unfinished) // 2
            if keep:
                self._waiting.extendleft(reversed(unfinished[keep:]))
                self._running = unfinished[:keep]
                self.max_batch = keep
        if not keep:
            for job in unfinished:
                job.fail(error)

    def _num_joining(self) -> int:
        with self._changed:
            open_answers = sum(job.finish_reason is None for job in self._running)
            return len(self._waiting) if open_answers < self.max_batch else 0
