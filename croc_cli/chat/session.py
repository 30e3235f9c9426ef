"""A conversation with a model: what was said so far, the pictures shown, and how the next answer is made."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import StoppingCriteriaList

from croc_cli.chat.images import ChatImage
from croc_cli.chat.stream import AnswerStreamer, StopRequested
from croc_cli.checkpoint.load import LoadedModel
from croc_cli.data.conversation import ConversationEncoder, SampleError
from croc_cli.data.sample import Turn
from croc_cli.errors import RunError, UsageError
from croc_cli.model.build import end_token_ids
from croc_cli.names import IMAGE_TOKEN
from croc_cli.recipe.template_options import TemplateOptions
from croc_cli.words import counted


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Args:
        text: Stripped of whitespace at both ends.
        stopped: It was interrupted.
    """

    text: str
    stopped: bool = False


class PromptBuilder(Protocol):
    """Turns a conversation into the tokens that the model answers."""

    def __call__(self, turns: list[Turn], *, num_images: int) -> list[int]:
        """Return the token ids of `turns`, the last of them human, up to where the answer begins."""


def prompt_builder(model: LoadedModel) -> PromptBuilder:
    """Return how this model is spoken to: as croc trained it, or, for another's model, as its processor says.

    Raises:
        UsageError: The tokenizer lacks what the template needs.
    """
    num_visual_tokens = count_visual_tokens(model.processor)
    template = model.metadata.template
    if template is None and model.processor.chat_template:
        return _ProcessorTemplate(model.processor, num_visual_tokens)
    encoder = ConversationEncoder(
        model.processor.tokenizer,
        template=template or "vicuna_v1",
        image_token_id=model.llava.config.image_token_id,
        num_visual_tokens=num_visual_tokens,
        max_length=2**31,  # a prompt is never cut; ChatSession.ask refuses one that is too long
        options=TemplateOptions(model.metadata.system_prompt),
    )
    return encoder.encode_prompt


class _ProcessorTemplate:
    """The chat template that a stock LLaVA brings along in its processor."""

    def __init__(self, processor: Any, num_visual_tokens: int) -> None:
        self._processor = processor
        self._visual = processor.image_token * num_visual_tokens

    def __call__(self, turns: list[Turn], *, num_images: int) -> list[int]:
        messages = [
            {"role": "user" if turn.role == "human" else "assistant", "content": self._content(turn)} for turn in turns
        ]
        text = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if (found := text.count(IMAGE_TOKEN)) != num_images:
            raise SampleError(f"the model's chat template shows {found} of {num_images} pictures")
        tokenizer = self._processor.tokenizer
        written_bos = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        ids: list[int] = tokenizer(
            text.replace(IMAGE_TOKEN, self._visual), add_special_tokens=not written_bos
        ).input_ids
        return ids

    @staticmethod
    def _content(turn: Turn) -> list[dict[str, str]]:
        pictures = [{"type": "image"} for _ in range(turn.text.count(IMAGE_TOKEN))] if turn.role == "human" else []
        text = turn.text.replace(IMAGE_TOKEN, "").strip() if pictures else turn.text
        return [*pictures, {"type": "text", "text": text}]


def count_visual_tokens(processor: Any) -> int:
    """Return how many tokens an image takes, by the stock processor's own rule."""
    pixels = processor.image_processor(images=Image.new("RGB", (8, 8)), return_tensors="pt")["pixel_values"]
    patches = (pixels.shape[-2] // processor.patch_size) * (pixels.shape[-1] // processor.patch_size)
    dropped = 1 if processor.vision_feature_select_strategy == "default" else 0
    return int(patches + processor.num_additional_image_tokens - dropped)


class ChatSession:
    """One conversation.

    Args:
        model: The model, with its processor and metadata.
        max_tokens: Longest answer, in tokens.
        temperature: 0 takes the likeliest token each time; above it, tokens are drawn.
        seed: Of the draws; None draws anew each time.
    """

    def __init__(
        self, model: LoadedModel, *, max_tokens: int = 512, temperature: float = 0.0, seed: int | None = None
    ) -> None:
        self.model = model
        self.max_tokens = max_tokens
        self.turns: list[Turn] = []
        self.images: list[ChatImage] = []
        self.pending: list[ChatImage] = []
        self._prompt = prompt_builder(model)
        if seed is not None:
            torch.manual_seed(seed)
        tokenizer, own = model.processor.tokenizer, model.llava.generation_config
        end_ids = end_token_ids(tokenizer, own.eos_token_id)
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
        # The model's own generation config would mix in its beams, penalties and top-p.
        model.llava.generation_config = GenerationConfig(
            eos_token_id=end_ids or None,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (end_ids or [0])[0],
            bos_token_id=tokenizer.bos_token_id,
            **sampling,
        )

    def show(self, image: ChatImage) -> None:
        """Add a picture to the next question."""
        self.pending.append(image)

    def restart(self) -> None:
        """Forget everything said and shown."""
        self.turns.clear()
        self.images.clear()
        self.pending.clear()

    def ask(
        self,
        question: str,
        *,
        on_text: Callable[[str], None] = lambda _: None,
        stop: threading.Event | None = None,
    ) -> Answer:
        """Answer a question about everything said and shown so far, and remember both.

        Args:
            question: What the user says; pending pictures come before it.
            on_text: Called with each piece of the answer.
            stop: Ends the answer when set.

        Raises:
            UsageError: The conversation is too long for the model, or cannot be put into its template.
            RunError: The device has too little memory. In either case the conversation is left as it was.
        """
        turn = self._turn(question)
        images = [*self.images, *self.pending]
        try:
            input_ids = self._prompt([*self.turns, turn], num_images=len(images))
        except SampleError as error:
            raise UsageError(f"this model cannot take that: {error}", hint="/new starts over") from error
        streamer = AnswerStreamer(self.model.processor.tokenizer, on_text)
        event = stop or threading.Event()
        try:
            self._generate(input_ids, images, streamer, event)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"{self.model.llava.device} has too little memory for {counted(len(input_ids), 'token')}",
                hint="/new starts over, --device cpu uses the machine's memory",
            ) from error
        answer = Answer(streamer.text, stopped=event.is_set())
        if answer.text or not answer.stopped:
            self.turns += [turn, Turn("gpt", answer.text)]
            self.images = images
            self.pending.clear()
        return answer

    def _turn(self, question: str) -> Turn:
        """Return the human turn, with one placeholder for each pending picture."""
        written = question.count(IMAGE_TOKEN)
        if written and written == len(self.pending):
            return Turn("human", question)
        if written:
            raise UsageError(
                f"{IMAGE_TOKEN} stands for a picture: {written} written, {len(self.pending)} shown",
                hint=f"leave {IMAGE_TOKEN} out; the picture comes first by itself",
            )
        return Turn("human", f"{IMAGE_TOKEN}\n" * len(self.pending) + question)

    @torch.inference_mode()
    def _generate(
        self, input_ids: list[int], images: list[ChatImage], streamer: AnswerStreamer, stop: threading.Event
    ) -> None:
        """Let the model answer, causally, until its end token, `max_tokens` or `stop`."""
        llava, processor = self.model.llava, self.model.processor
        longest = getattr(llava.config.text_config, "max_position_embeddings", None)
        room = self.max_tokens if longest is None else min(self.max_tokens, longest - len(input_ids))
        if room < 1:
            raise UsageError(
                f"the conversation has {len(input_ids)} tokens, the model takes {longest}", hint="/new starts over"
            )
        prompt = torch.tensor([input_ids], device=llava.device)
        inputs: dict[str, Tensor] = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
        if images:
            pictures = [image.picture for image in images]
            pixels = processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
            inputs["pixel_values"] = pixels.to(llava.device, llava.dtype)
        llava.generate(
            **inputs,
            max_new_tokens=room,
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([StopRequested(stop)]),
        )
