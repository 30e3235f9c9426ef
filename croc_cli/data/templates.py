"""LLaVA-1.5's two templates: `plain` for captions, `vicuna_v1` for conversations."""

from collections.abc import Iterator, Sequence
from typing import Final

from croc_cli.data.items import Control, ImageSlot, Item, Message, SampleError, Text, message_items, message_text
from croc_cli.data.pieces import PieceTokenizer, Place
from croc_cli.data.qwen_template import read_controls
from croc_cli.errors import UsageError
from croc_cli.recipe.template_options import TemplateOptions

VICUNA_SYSTEM: Final = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""LLaVA's `vicuna_v1` ("curious user"), not its `llava_v1` ("curious human")."""


class PlainTemplate:
    """Images, then the answer and a newline; what the human said is left out (LLaVA's stage 1).

    Args:
        pieces: The tokenizer.
        options: With `turns` trained the newline of an empty answer is trained too, as in LLaVA's code.
    """

    place_after_image: Place = "start"
    end_ids: tuple[int, ...] = ()
    trained_anywhere: frozenset[int] = frozenset()

    def __init__(self, pieces: PieceTokenizer, options: TemplateOptions) -> None:
        self._pieces = pieces
        self._leading_ids = pieces.leading_ids
        self._options = options

    def items(self, messages: Sequence[Message]) -> Iterator[Item]:
        """Lay out a question and its answer.

        Raises:
            SampleError: There are not exactly two turns.
        """
        if len(messages) != 2:
            raise SampleError(f"template plain takes one human and one gpt turn, not {len(messages)} turns")
        yield from self.prompt_items(messages[:1])
        answer = message_text(messages[1])
        trained = bool(answer.strip()) or self._options.trained_tokens == "turns"
        caption: list[Item] = [Text(answer + "\n", trained=trained, apart=True)]
        yield from read_controls(self._pieces, caption) if self._options.control_tokens_in_text else caption

    def prompt_items(self, messages: Sequence[Message]) -> Iterator[Item]:
        """Lay out the images.

        Raises:
            SampleError: There is more than one turn.
        """
        if len(messages) != 1:
            raise SampleError(f"template plain takes one human turn as its prompt, not {len(messages)} turns")
        yield from (Control(token_id, then="start") for token_id in self._leading_ids)
        yield from (part for part in messages[0] if isinstance(part, ImageSlot))


class VicunaTemplate:
    """`{system} USER: {question} ASSISTANT: {answer}</s>USER: …`, answers and their `</s>` trained.

    Args:
        pieces: The tokenizer.
        end_id: Id that ends an answer, the tokenizer's EOS.

    Raises:
        UsageError: The tokenizer has no EOS.
    """

    place_after_image: Place = "start"  # LLaVA tokenises what follows an image on its own
    trained_anywhere: frozenset[int] = frozenset()

    def __init__(self, pieces: PieceTokenizer, *, end_id: int | None) -> None:
        if end_id is None:
            raise UsageError(
                "template vicuna_v1 ends answers with the tokenizer's end-of-sequence token, and it has none",
                hint="use template: chat_template, or set eos_token in the LLM's tokenizer_config.json",
            )
        self._end_id = end_id
        self.end_ids = (end_id,)
        self._opening = [Control(token_id, then="start") for token_id in pieces.leading_ids]
        # The system sentence never changes: tokenised once, unless the tokenizer joins it with what follows.
        system_ids = pieces.encode(VICUNA_SYSTEM, "start")
        whole = pieces.encode(VICUNA_SYSTEM + " USER: a", "start")
        self._system: list[Item] = [Text(VICUNA_SYSTEM + " ")]
        self._first_role = "USER:"
        if whole == system_ids + pieces.encode(" USER: a", "middle"):
            self._system = [Control(token_id, then="middle") for token_id in system_ids]
            self._first_role = " USER:"

    def items(self, messages: Sequence[Message]) -> Iterator[Item]:
        """Lay out a whole conversation."""
        yield from self._opening
        yield from self._system
        for position, message in enumerate(messages):
            if position % 2 == 0:
                yield from self._question(message, role="USER:" if position else self._first_role)
                continue
            answer = message_text(message)
            trained = bool(answer.strip())
            yield Text(" " + answer, trained=trained, apart=True)
            # LLaVA's tokenizer (legacy=False) puts no space before the "USER:" that follows </s>.
            yield Control(self._end_id, trained=trained, then="middle")

    def prompt_items(self, messages: Sequence[Message]) -> Iterator[Item]:
        """Lay out a conversation up to the next answer."""
        return self.items(messages)

    def _question(self, message: Message, *, role: str) -> Iterator[Item]:
        yield Text(role)
        if message != [""]:
            yield Text(" ")
            yield from message_items(message)
        yield Text(" ASSISTANT:")
