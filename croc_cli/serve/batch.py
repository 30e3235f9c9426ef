"""Continuous batching: whoever waits joins with the next token, whoever has ended leaves at once."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from croc_cli.serve.job import Job
from croc_cli.serve.rows import Rows

JOIN_TOKENS = 4096
"""Tokens of new prompts that are read between two tokens of the answers under way, at most."""
_ALIKE = 1.25
"""Prompts are read together up to this ratio of their lengths: padding is computed, too."""


class ContinuousBatch:
    """Answers under way, each in a row of its own.

    Args:
        llava: The model, in eval mode.
        pad: Token that pads.
        ends: Tokens that end an answer.
    """

    def __init__(self, llava: LlavaForConditionalGeneration, *, pad: int, ends: Collection[int]) -> None:
        self._llava = llava
        self._pad = pad
        self._ends = ends
        self.reset()

    def reset(self) -> None:
        """Forget all rows; answers that go on are read again."""
        self._jobs: list[Job] = []
        self._rows = Rows(self._llava, self._pad)

    def advance(self, jobs: Sequence[Job]) -> None:
        """Read prompts that are new among the requests, and add a token to every answer."""
        self._leave()
        held = set(map(id, self._jobs))
        for group in groups([job for job in jobs if id(job) not in held]):
            self._join(group)
        if self._jobs:
            logits = self._rows.step([job.token_ids[-1] for job in self._jobs])
            self._take(self._jobs, logits)
            self._leave()

    def _leave(self) -> None:
        for row in reversed(range(len(self._jobs))):
            if self._jobs[row].finish_reason is not None:
                self._rows.remove(row)
                last = self._jobs.pop()
                if row < len(self._jobs):
                    self._jobs[row] = last

    def _join(self, group: list[Job]) -> None:
        """Read some prompts; what fails for several is tried for each, so that nobody fails for another."""
        try:
            pictures = [pixels for job in group for pixels in job.prompt.pixels]
            logits, read = self._rows.read([job.ids for job in group], pictures)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model raises
            if len(group) == 1:
                group[0].fail(error)
                return
            for job in group:
                self._join([job])
            return
        lengths = [len(job.ids) for job in group]
        self._take(group, logits)
        for number, job in enumerate(group):
            if job.finish_reason is None:
                self._rows.add(read, number, lengths[number])
                self._jobs.append(job)

    def _take(self, jobs: Sequence[Job], logits: Tensor) -> None:
        """Choose the next token of each answer by [B, V] logits."""
        likeliest = logits.argmax(dim=-1).tolist()
        for row, job in enumerate(jobs):
            try:
                job.take(job.choose(logits[row]) if job.temperature > 0 else likeliest[row], self._ends)
            except Exception as error:  # such as logits that are no numbers, which cannot be drawn from
                job.fail(error)


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return those requests whose prompts are read next, prompts of about the same length together."""
    chosen: list[Job] = []
    num_tokens = 0
    for job in jobs:
        num_tokens += len(job.ids)
        if chosen and num_tokens > JOIN_TOKENS:
            break
        chosen.append(job)
    found: list[list[Job]] = []
    for job in sorted(chosen, key=lambda one: len(one.ids)):
        if found and len(job.ids) <= _ALIKE * len(found[-1][0].ids):
            found[-1].append(job)
        else:
            found.append([job])
    return found
