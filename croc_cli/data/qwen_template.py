"""The template `qwen_1_5` of LLaVA-NeXT's code, as ViCToR trains with it: ChatML with a system sentence of its own."""

from collections.abc import Iterator, Sequence
from typing import Final

from croc_cli.data.items import Control, Item, Message, Text, message_items, message_text
from croc_cli.data.pieces import PieceTokenizer, Place
from croc_cli.errors import UsageError
from croc_cli.recipe.template_options import TemplateOptions

QWEN_SYSTEM: Final = "You are a helpful assistant."
"""The sentence of LLaVA-NeXT's `qwen_1_5`; Qwen2.5's own chat template has another."""
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"


class QwenTemplate:
    r"""`<|im_start|>ROLE\nTEXT<|im_end|>\n` for system sentence and each turn (deepglint/Victor, `preprocess_qwen`).

    Args:
        pieces: The tokenizer.
        options: System sentence, and which tokens are trained.

    Raises:
        UsageError: The tokenizer has no control tokens of that name.
    """

    place_after_image: Place = "after_control"  # `<image>` is a control token in that code

    def __init__(self, pieces: PieceTokenizer, options: TemplateOptions) -> None:
        missing = [token for token in (TURN_START, TURN_END) if token not in pieces.control_tokens]
        if missing:
            raise UsageError(
                f"template qwen_1_5 writes {TURN_START} and {TURN_END}, and the LLM's tokenizer lacks {missing[0]}",
                hint="use template: chat_template or vicuna_v1, or an LLM of the Qwen family",
            )
        self._start, self._end = (pieces.control_tokens[token][0] for token in (TURN_START, TURN_END))
        self._pieces = pieces
        self._system = QWEN_SYSTEM if options.system_prompt is None else options.system_prompt
        self._trains_turns = options.trained_tokens == "turns"
        self._reads_controls = options.control_tokens_in_text
        self.end_ids = (self._end,)
        newline = pieces.encode("\n", "middle")
        own = {self._start, self._end} | (set(newline) if len(newline) == 1 else set())
        self.trained_anywhere = frozenset(own if self._trains_turns else ())

    def items(self, messages: Sequence[Message]) -> Iterator[Item]:
        """Lay out a whole conversation for training."""
        return self._lay(messages, reads_controls=self._reads_controls)

    def prompt_items(self, messages: Sequence[Message]) -> Iterator[Item]:
        """Lay out a conversation up to the next answer; nothing in it is read as a control token."""
        return self._lay(messages, reads_controls=False)

    def _lay(self, messages: Sequence[Message], *, reads_controls: bool) -> Iterator[Item]:
        yield from self._turn("system", [Text(self._system)])
        for position, message in enumerate(messages):
            if position % 2 == 0:
                items = message_items(message)
                yield from self._turn("user", self._read(items) if reads_controls else items)
            elif self._trains_turns:
                items = [Text(message_text(message), trained=True)]
                yield from self._turn("assistant", self._read(items) if reads_controls else items, trained=True)
            else:
                yield from self._answer(message_text(message), reads_controls=reads_controls)
        if len(messages) % 2:
            yield Control(self._start)
            yield Text("assistant\n")

    def _turn(self, role: str, content: Sequence[Item], *, trained: bool = False) -> Iterator[Item]:
        yield Control(self._start, trained=trained)
        yield Text(f"{role}\n", trained=trained)
        yield from content
        yield Control(self._end, trained=trained)
        yield Text("\n", trained=trained)

    def _answer(self, text: str, *, reads_controls: bool) -> Iterator[Item]:
        """Lay out a turn of which the answer and its end alone are trained."""
        trained = bool(text.strip())
        items: list[Item] = [Text(text, trained=trained, apart=True)]
        yield Control(self._start)
        yield Text("assistant\n")
        yield from self._read(items) if reads_controls else items
        yield Control(self._end, trained=trained)
        yield Text("\n")

    def _read(self, items: Sequence[Item]) -> list[Item]:
        return read_controls(self._pieces, items)


def read_controls(pieces: PieceTokenizer, items: Sequence[Item]) -> list[Item]:
    """Return items in which the control tokens that texts spell out are such."""
    read: list[Item] = []
    for item in items:
        if not isinstance(item, Text):
            read.append(item)
            continue
        for number, part in enumerate(pieces.split_spelt(item.text)):
            if isinstance(part, int):
                read.append(Control(part, trained=item.trained))
            else:
                read.append(Text(part, trained=item.trained, apart=item.apart and number == 0))
    return read
