"""Shows an answer while it is made, and stops it when asked to."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from transformers.generation import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer gives for the first bytes of a character whose other bytes are still to come."""

_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
"""Characters that a terminal obeys instead of showing; a model can be made to say them."""


class AnswerStreamer(BaseStreamer):  # type: ignore[misc]  # transformers is not typed
    """Turns the tokens that `generate` hands over into text, piece by piece.

    The pieces put together are the answer as it is printed in one: decoded, control tokens left out, whitespace at
    both ends stripped.

    Args:
        tokenizer: Decodes the tokens.
        on_text: Called with each new piece.
        for_terminal: Leave control characters out, too.
    """

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None], *, for_terminal: bool = True) -> None:
        self._tokenizer = tokenizer
        self._on_text = on_text
        self._for_terminal = for_terminal
        self._token_ids: list[int] = []
        self._shown = ""
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        """Take the prompt, which is left out, and then one token after another."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self._token_ids += value.reshape(-1).tolist()
        # Whitespace at the end may turn out to be the answer's end, and is shown when something follows it.
        text = self.text.rstrip(_INCOMPLETE).rstrip()
        if text.startswith(self._shown) and len(text) > len(self._shown):
            self._on_text(text[len(self._shown) :])
            self._shown = text

    def end(self) -> None:
        """Show what was held back."""
        if piece := self.text.removeprefix(self._shown):
            self._on_text(piece)

    @property
    def text(self) -> str:
        """The answer so far."""
        decoded = self._tokenizer.decode(self._token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return (str(decoded).translate(_CONTROLS) if self._for_terminal else str(decoded)).strip()


class StopRequested(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed
    """Ends generation after the token at hand when an event is set.

    Args:
        event: Set from a signal handler or another thread.
    """

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return [B] bool, True where the answer ends here."""
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


@contextmanager
def ctrl_c_sets(event: threading.Event) -> Iterator[None]:
    """Let Ctrl-C set `event` instead of raising KeyboardInterrupt; a second one raises it after all."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
