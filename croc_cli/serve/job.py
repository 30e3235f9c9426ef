"""One request in the engine: what is asked, how its tokens are chosen, and what of its answer is there."""

import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Literal

import torch
from torch import Tensor

from croc_cli.chat.stream import AnswerStreamer
from croc_cli.serve.prompt import Prompt
from croc_cli.serve.text import StopFilter

FinishReason = Literal["stop", "length", "cancelled", "error"]


class Job:
    """One request in the engine.

    Args:
        prompt: What is asked.
        max_tokens: Longest answer.
        temperature: 0 takes the likeliest token each time.
        top_p: Share of the probability that is drawn from.
        seed: Of the draws; None draws anew each time.
        stops: Strings before which the answer ends.
        in_pieces: Text is wanted as it comes, not in one at the end.
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
        in_pieces: bool = True,
        on_text: Callable[[str], None] = lambda _: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.cancelled = threading.Event()
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.error: BaseException | None = None
        self._on_end = on_end
        self._filter = StopFilter(stops, on_text)
        self._reads_each_token = in_pieces or bool(stops)
        self._streamer: AnswerStreamer | None = None
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed % 2**64)

    @property
    def ids(self) -> list[int]:
        """The prompt and the answer so far."""
        return self.prompt.ids + self.token_ids

    def begin(self, tokenizer: Any) -> None:
        """Say what turns tokens into text."""
        self._streamer = AnswerStreamer(tokenizer, self._filter.put, for_terminal=False)
        self._streamer.put(torch.tensor(self.prompt.ids))

    def choose(self, logits: Tensor) -> int:
        """Return the next token by [V] logits, likeliest or drawn with the request's own generator."""
        if self.temperature == 0:
            return int(logits.argmax())
        return draw(logits, temperature=self.temperature, top_p=self.top_p, generator=self._generator)

    def take(self, token: int, ends: Collection[int]) -> None:
        """Add a token to the answer, and end the answer where it ends.

        Args:
            token: The token.
            ends: Tokens that end an answer.
        """
        if self.finish_reason is not None:
            return
        if self.cancelled.is_set():
            self.cancel()
            return
        self.token_ids.append(token)
        if token in ends:
            self.finish("stop")
            return
        if self._reads_each_token:
            self._put([token])
        if self._filter.stopped:
            self.finish("stop")
        elif len(self.token_ids) >= self.max_tokens:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """End the answer as it is meant to end, and hand on what was held back of it."""
        if not self._reads_each_token:
            self._put(self.token_ids[:-1] if reason == "stop" else self.token_ids)
        assert self._streamer is not None, "begun before the first token"
        self._streamer.end()
        self._filter.end()
        self._close("stop" if self._filter.stopped else reason)

    def cancel(self) -> None:
        """End the answer because nobody waits for it."""
        self._close("cancelled")

    def fail(self, error: BaseException) -> None:
        """End the answer because something went wrong with it."""
        self.error = error
        self._close("error")

    def _close(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        with suppress(Exception):  # a listener that is gone is no reason to stop the others
            self._on_end()

    def _put(self, token_ids: list[int]) -> None:
        assert self._streamer is not None, "begun before the first token"
        self._streamer.put(torch.tensor(token_ids, dtype=torch.long))


def draw(logits: Tensor, *, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Return a token drawn from [V] logits: nucleus sampling (arXiv:1904.09751, section 3.1)."""
    values, order = (logits.float() / temperature).softmax(dim=-1).sort(descending=True, stable=True)
    before = values.cumsum(dim=-1) - values
    values = torch.where(before < top_p, values, 0.0)
    place = torch.multinomial(values.cpu(), 1, generator=generator)
    return int(order[place.to(order.device)])
