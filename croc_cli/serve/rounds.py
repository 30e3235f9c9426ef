"""The way of models whose caches cannot be put together: one `generate` after another over all answers under way.

A round is padded on the left. It ends when every answer has ended, and also for requests that wait, as
`is_time_to_join` says; the next round continues unfinished answers from their tokens.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration
from transformers.generation import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from croc_cli.serve.job import Job
from croc_cli.serve.rows import visual_inputs

JOIN_STEPS = 16
"""Tokens that a round makes at least: reading all prompts again costs about as much as a few."""
LONGEST_WAIT = 64
"""Tokens after which a round ends for a single request that waits."""


class Rounds:
    """Answers in rounds.

    Args:
        llava: The model, in eval mode.
        pad: Token that pads.
        ends: Tokens that end an answer.
        num_waiting: Tells how many requests wait and could join.
    """

    def __init__(
        self,
        llava: LlavaForConditionalGeneration,
        *,
        pad: int,
        ends: Collection[int],
        num_waiting: Callable[[], int],
    ) -> None:
        self._llava = llava
        self._pad = pad
        self._ends = ends
        self._num_waiting = num_waiting

    def reset(self) -> None:
        """Forget nothing: rounds share nothing."""

    def advance(self, jobs: Sequence[Job]) -> None:
        """Continue answers until all have ended or somebody waits."""
        rows = [job.ids for job in jobs]
        longest = max(map(len, rows))
        device = self._llava.device
        ids = torch.tensor([[self._pad] * (longest - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        self._llava.generate(
            input_ids=ids,
            attention_mask=mask,
            **visual_inputs(self._llava, [pixels for job in jobs for pixels in job.prompt.pixels]),
            max_new_tokens=max(job.max_tokens - len(job.token_ids) for job in jobs),
            logits_processor=LogitsProcessorList([_DrawEachRow(jobs)]),
            stopping_criteria=StoppingCriteriaList([_TellEachRow(jobs, self._ends, self._should_join)]),
        )

    def _should_join(self, steps: int, open_answers: int) -> bool:
        return is_time_to_join(steps, waiting=self._num_waiting(), open_answers=open_answers)


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

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002  transformers names both
        """Return [B, V] scores; greedy rows are left as they are."""
        for row, job in enumerate(self._jobs):
            if job.temperature > 0 and job.finish_reason is None:
                chosen = job.choose(scores[row])
                scores[row] = float("-inf")
                scores[row, chosen] = 0.0
        return scores


class _TellEachRow(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed
    """Hands each row's new token on, and says which rows have ended."""

    def __init__(self, jobs: Sequence[Job], ends: Collection[int], should_join: Callable[[int, int], bool]) -> None:
        self._jobs = jobs
        self._ends = ends
        self._should_join = should_join
        self._steps = 0

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return [B] bool, True where a row has ended; all True ends the round."""
        self._steps += 1
        for job, token in zip(self._jobs, input_ids[:, -1].tolist(), strict=True):
            job.take(token, self._ends)
        ended = torch.tensor([job.finish_reason is not None for job in self._jobs], device=input_ids.device)
        if self._should_join(self._steps, int((~ended).sum())):
            ended = torch.ones_like(ended)
        return ended
