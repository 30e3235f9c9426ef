"""Any tokenizer's own chat template, taken apart once for each number of turns and filled with messages ever after."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jinja2 import TemplateError

from croc_cli.data.items import Control, Item, Message, Text, message_text
from croc_cli.data.pieces import PieceTokenizer, Place
from croc_cli.errors import UsageError

PADDING: Final = ("\n ", " \n")
"""Whitespace put around a marker to see whether the template takes it away."""


@dataclass(frozen=True)
class _Slot:
    """Where a message goes, and which of its outer whitespace the template takes away."""

    turn: int
    strips_left: bool
    strips_right: bool

    def strip(self, text: str, *, first: bool = True, last: bool = True) -> str:
        text = text.lstrip() if self.strips_left and first else text
        return text.rstrip() if self.strips_right and last else text


_Part = str | _Slot
"""A piece of what the template itself writes, or a message."""


@dataclass(frozen=True)
class _Answer:
    """A trained message.

    Args:
        lead: Whitespace between the generation prompt and the message.
        slot: The message.
        end: What ends it and is trained with it, such as `<|im_end|>`; may be empty.
    """

    lead: str
    slot: _Slot
    end: str


@dataclass(frozen=True)
class _Skeleton:
    """A rendered conversation with holes for its messages.

    Args:
        prompts: What stands before each answer, since the answer before it.
        answers: The answers.
        tail: What follows the end of the last answer.
    """

    prompts: tuple[tuple[_Part, ...], ...]
    answers: tuple[_Answer, ...]
    tail: tuple[_Part, ...]


class ChatTemplate:
    """Lays conversations out by the tokenizer's own chat template.

    The template is rendered with markers in place of messages, so that what it writes and what users wrote stay apart:
    control tokens are read only from the template's part. Trained are an answer's text and the token that ends it.

    Args:
        pieces: The tokenizer's pieces.
        tokenizer: A `transformers` tokenizer with a chat template.

    Raises:
        UsageError: There is no chat template, or it does not show the messages.
    """

    place_after_image: Place = "after_control"  # `<image>` is a control token to a stock processor
    trained_anywhere: frozenset[int] = frozenset()

    def __init__(self, pieces: PieceTokenizer, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError(
                "template chat_template: the LLM's tokenizer has no chat template",
                hint="use template: vicuna_v1, or an instruction-tuned LLM",
            )
        self._pieces = pieces
        self._tokenizer = tokenizer
        self._skeletons: dict[int, _Skeleton] = {}
        self.end_ids = self._end_ids(self._skeleton(1).answers[0].end)

    def items(self, messages: Sequence[Message]) -> Iterator[Item]:
        """Lay out a conversation; after a human turn at its end, up to where the answer would begin."""
        num_prompts = (len(messages) + 1) // 2
        skeleton = self._skeleton(num_prompts)
        for prompt, answer in zip(skeleton.prompts, skeleton.answers, strict=True):
            yield from self._fill(prompt, messages)
            if answer.slot.turn < len(messages):
                yield from self._answer(answer, messages)
        if len(messages) % 2 == 0:
            yield from self._fill(skeleton.tail, messages)

    def prompt_items(self, messages: Sequence[Message]) -> Iterator[Item]:
        """Lay out a conversation up to the next answer."""
        return self.items(messages)

    def _answer(self, answer: _Answer, messages: Sequence[Message]) -> Iterator[Item]:
        text = message_text(messages[answer.slot.turn])
        trained = bool(text.strip())
        yield Text(answer.lead + answer.slot.strip(text), trained=trained, apart=True)
        yield from self._written(answer.end, trained=trained)

    def _fill(self, parts: Sequence[_Part], messages: Sequence[Message]) -> Iterator[Item]:
        for part in parts:
            if isinstance(part, str):
                yield from self._written(part)
                continue
            message = messages[part.turn]
            for position, piece in enumerate(message):
                if isinstance(piece, str):
                    yield Text(part.strip(piece, first=position == 0, last=position == len(message) - 1))
                else:
                    yield piece

    def _written(self, text: str, *, trained: bool = False) -> Iterator[Item]:
        """Yield what the template itself wrote, in which control tokens count."""
        for part in self._pieces.split_controls(text):
            yield Text(part, trained=trained) if isinstance(part, str) else Control(part, trained=trained)

    def _end_ids(self, end: str) -> tuple[int, ...]:
        """Return the control token that ends an answer; none where text ends it."""
        return tuple(part for part in self._pieces.split_controls(end)[-1:] if isinstance(part, int))

    def _skeleton(self, num_answers: int) -> _Skeleton:
        if num_answers not in self._skeletons:
            self._skeletons[num_answers] = self._take_apart(num_answers)
        return self._skeletons[num_answers]

    def _take_apart(self, num_answers: int) -> _Skeleton:
        num_turns = 2 * num_answers
        text = self._render(num_turns)
        spans = _marker_spans(text, num_turns)
        padded = self._render(num_turns, pad=True)
        slots = [_slot(padded, span, turn) for turn, span in enumerate(_marker_spans(padded, num_turns))]
        last_end = self._ending(text[spans[-1][1] :])
        prompts: list[tuple[_Part, ...]] = []
        answers: list[_Answer] = []
        done = 0
        for turn in range(0, num_turns, 2):
            human_start, human_end = spans[turn]
            answer_start, answer_end = spans[turn + 1]
            prompt = self._render(turn + 1)
            # Generation begins where the template's own generation prompt ends, if the whole text runs on from there.
            begin = len(prompt) if text.startswith(prompt) else answer_start
            begin = begin if not text[begin:answer_start].strip() else answer_start
            prompts.append((text[done:human_start], slots[turn], text[human_end:begin]))
            end = last_end if text.startswith(last_end, answer_end) else ""
            answers.append(_Answer(text[begin:answer_start], slots[turn + 1], end))
            done = answer_end + len(end)
        return _Skeleton(tuple(prompts), tuple(answers), tail=(text[done:],))

    def _ending(self, rest: str) -> str:
        """Return what ends the last answer: a control token with the space before it, or else all that stands there."""
        control = self._pieces.control_at(rest, len(rest) - len(rest.lstrip()))
        return rest[: control.end()] if control else rest.rstrip()

    def _render(self, num_turns: int, *, pad: bool = False) -> str:
        """Render a conversation of markers; one that ends on a human turn ends with the generation prompt."""
        texts = [(PADDING[0] + marker + PADDING[1]) if pad else marker for marker in map(_marker, range(num_turns))]
        for as_list in (False, True):
            messages = [
                {
                    "role": "assistant" if turn % 2 else "user",
                    "content": [{"type": "text", "text": text}] if as_list else text,
                }
                for turn, text in enumerate(texts)
            ]
            try:
                rendered: str = self._tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=num_turns % 2 == 1
                )
            except (TemplateError, TypeError, ValueError) as error:
                failure: str = f"it fails on a conversation of {num_turns} turns: {error}"
                continue
            if all(rendered.count(_marker(turn)) == 1 for turn in range(num_turns)):
                return rendered
            failure = f"it does not show each message once in a conversation of {num_turns} turns"
        raise UsageError(
            f"template chat_template: the tokenizer's chat template cannot be used: {failure}",
            hint="use template: vicuna_v1",
        )


def _marker(turn: int) -> str:
    return f"qZ{turn}Zq"


def _marker_spans(text: str, num_turns: int) -> list[tuple[int, int]]:
    starts = [text.index(_marker(turn)) for turn in range(num_turns)]
    return [(start, start + len(_marker(turn))) for turn, start in enumerate(starts)]


def _slot(padded: str, span: tuple[int, int], turn: int) -> _Slot:
    start, end = span
    return _Slot(
        turn,
        strips_left=not padded[:start].endswith(PADDING[0]),
        strips_right=not padded[end:].startswith(PADDING[1]),
    )
