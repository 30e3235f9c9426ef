"""From a conversation to token ids and labels: the one place where templates become tokens."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from croc_cli.data.chat_template import ChatTemplate
from croc_cli.data.items import Control, Item, SampleError, Text
from croc_cli.data.pieces import PieceTokenizer, Place
from croc_cli.data.qwen_template import QwenTemplate
from croc_cli.data.sample import Turn
from croc_cli.data.templates import PlainTemplate, VicunaTemplate
from croc_cli.data.turns import split_images, split_images_next
from croc_cli.errors import UsageError
from croc_cli.names import IGNORE_INDEX, IMAGE_TOKEN
from croc_cli.recipe.template_options import NO_OPTIONS, TemplateOptions

if TYPE_CHECKING:
    from croc_cli.recipe.schema import TemplateName

__all__ = ["ConversationEncoder", "EncodedConversation", "SampleError", "answer_end_ids"]


@dataclass(frozen=True)
class EncodedConversation:
    """One conversation as tokens.

    Args:
        input_ids: Token ids; an image is `num_visual_tokens` times the image token.
        labels: The same ids where a token is trained (answers and their end tokens), elsewhere IGNORE_INDEX.
        truncated: The end was cut off to fit the longest sequence.
        num_images: Images whose tokens are in `input_ids`: all of them, or the first ones of a sample that was cut.
    """

    input_ids: list[int]
    labels: list[int]
    truncated: bool
    num_images: int


class ConversationEncoder:
    """Encodes conversations by a template, piece by piece, so that labels come from where a token came from.

    `plain` and `vicuna_v1` give the tokens that LLaVA-1.5's own preprocessing gives; `chat_template` gives those of the
    tokenizer's own chat template; `qwen_1_5`, with the options of that code, those of ViCToR's. A prompt is always a
    prefix of the training sequence that it belongs to.

    Where LLaVA's length arithmetic fails (an empty answer, a literal `</s>` or ` ASSISTANT: ` in a message), it masks
    the whole row; here such a row is trained like any other, but for its empty answers.

    Args:
        tokenizer: A fast `transformers` tokenizer.
        template: `plain` (images, then the answer), `vicuna_v1`, `chat_template` or `qwen_1_5`.
        image_token_id: Id that stands for a visual token.
        num_visual_tokens: Tokens of an image.
        max_length: Longest sequence in tokens, visual tokens included.
        options: What `qwen_1_5` leaves open, and `plain` of what is trained.

    Raises:
        UsageError: The tokenizer lacks what the template needs.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        template: "TemplateName",
        image_token_id: int,
        num_visual_tokens: int,
        max_length: int,
        options: TemplateOptions = NO_OPTIONS,
    ) -> None:
        self.image_token_id = image_token_id
        self.num_visual_tokens = num_visual_tokens
        self.max_length = max_length
        self._pieces = PieceTokenizer(tokenizer, forbidden_ids=frozenset({image_token_id}))
        self._split = split_images_next if template == "qwen_1_5" else split_images
        self._template: PlainTemplate | VicunaTemplate | ChatTemplate | QwenTemplate
        if template == "plain":
            self._template = PlainTemplate(self._pieces, options)
        elif template == "vicuna_v1":
            self._template = VicunaTemplate(self._pieces, end_id=tokenizer.eos_token_id)
        elif template == "qwen_1_5":
            self._template = QwenTemplate(self._pieces, options)
        else:
            self._template = ChatTemplate(self._pieces, tokenizer)

    def encode(self, sample_turns: Sequence[Turn], *, num_images: int) -> EncodedConversation:
        """Encode a conversation for training.

        Args:
            sample_turns: Human and gpt in turn, the human first.
            num_images: Images of the sample. With none, `<image>` is text like any other. With one, its placeholder
                moves to the front of its turn, as in LLaVA. With more, each stays where it is written. In `qwen_1_5`,
                see `split_images_next`.

        Raises:
            SampleError: The turns do not alternate, or placeholders and images differ in number.
        """
        messages = self._split(sample_turns, num_images=num_images)
        input_ids, labels = self._lay(self._template.items(messages))
        truncated = len(input_ids) > self.max_length
        if truncated:
            end = self._cut_before_image(input_ids)
            input_ids, labels = input_ids[:end], labels[:end]
        num_kept = input_ids.count(self.image_token_id) // self.num_visual_tokens if num_images else 0
        return EncodedConversation(input_ids, labels, truncated, num_kept)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Control tokens that an answer is trained to end with: one, or none where the template ends it by text."""
        return self._template.end_ids

    @property
    def layout_ids(self) -> frozenset[int]:
        """Tokens that are trained wherever they stand and end no answer, such as the newline between turns."""
        return self._template.trained_anywhere - frozenset(self.end_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, control tokens written out."""
        return self._pieces.decode(ids)

    def encode_prompt(self, turns: Sequence[Turn], *, num_images: int | None = None) -> list[int]:
        """Encode a conversation up to where the next answer begins; the last turn is a human one.

        Args:
            turns: Human and gpt in turn, the human first and last.
            num_images: As for `encode`; left out, every `<image>` in a human turn is an image.

        Raises:
            SampleError: As `encode`, or the last turn is not a human one.
        """
        if not turns or turns[-1].role != "human":
            raise SampleError("a prompt must end with a human turn")
        if num_images is None:
            num_images = sum(turn.text.count(IMAGE_TOKEN) for turn in turns if turn.role == "human")
        messages = self._split(turns, num_images=num_images)
        return self._lay(self._template.prompt_items(messages))[0]

    def _lay(self, items: Iterator[Item]) -> tuple[list[int], list[int]]:
        """Turn a template's items into ids and labels, neighbouring texts of one kind tokenised together."""
        input_ids: list[int] = []
        labels: list[int] = []
        place: Place = "start"
        pending = Text("")
        anywhere = self._template.trained_anywhere

        def flush() -> None:
            nonlocal place, pending
            if pending.text:
                ids = self._pieces.encode(pending.text, place)
                input_ids.extend(ids)
                labels.extend(token if pending.trained or token in anywhere else IGNORE_INDEX for token in ids)
                place = "middle"
            pending = Text("")

        for item in items:
            if isinstance(item, Text):
                if item.trained != pending.trained or item.apart:
                    flush()
                pending = Text(pending.text + item.text, trained=item.trained)
            elif isinstance(item, Control):
                flush()
                input_ids.append(item.token_id)
                labels.append(item.token_id if item.trained or item.token_id in anywhere else IGNORE_INDEX)
                place = item.then
            else:
                flush()
                input_ids.extend([self.image_token_id] * self.num_visual_tokens)
                labels.extend([IGNORE_INDEX] * self.num_visual_tokens)
                place = self._template.place_after_image
        flush()
        return input_ids, labels

    def _cut_before_image(self, input_ids: list[int]) -> int:
        """Return where to cut: at the longest length, or before the image that this would cut in two."""
        end = self.max_length
        visual_before = input_ids[:end].count(self.image_token_id)
        if input_ids[end] == self.image_token_id:
            # Images may follow each other without text between them: only what is left over of whole ones is cut.
            end -= visual_before % self.num_visual_tokens
        return end


def answer_end_ids(tokenizer: Any, *, template: "TemplateName | None", chat_template: str | None) -> tuple[int, ...]:
    """Return the control tokens that end a model's answers, by the template that it was trained with.

    Args:
        tokenizer: The model's.
        template: As croc.json says; None for a model of others.
        chat_template: The Jinja template that the model's processor brings, if any.
    """
    if template is None and chat_template is None:
        return ()
    if template in (None, "chat_template") and chat_template is not None:
        tokenizer = copy.copy(tokenizer)
        tokenizer.chat_template = chat_template
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    try:
        return ConversationEncoder(
            tokenizer, template=template or "chat_template", image_token_id=image_id, num_visual_tokens=1, max_length=1
        ).end_ids
    except UsageError:  # another's template that takes no conversation, or a tokenizer without an end token
        return ()
