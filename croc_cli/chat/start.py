"""From the arguments of `croc chat` to an answer or a conversation: cheap checks first, torch last."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from croc_cli.chat.images import ChatImage, load_image
from croc_cli.checkpoint.locate import locate_checkpoint, newest_checkpoints
from croc_cli.checkpoint.metadata import RECIPE_FILE
from croc_cli.console import say
from croc_cli.errors import UsageError
from croc_cli.recipe.yaml_file import read_yaml
from croc_cli.words import shown

if TYPE_CHECKING:
    from croc_cli.chat.session import ChatSession

MAX_TOKENS = 512
"""Longest answer where neither the user nor the checkpoint's recipe says otherwise; as in the recipe's schema."""


@dataclass(frozen=True)
class ChatRequest:
    """What the user asked for; None is left to the checkpoint's recipe, or to the machine.

    Args:
        image: Path or http(s) URL of a picture.
        prompt: The one question to answer; without it, stdin's text, or a conversation where stdin is a terminal.
        model: Folder or hub id.
        temperature: 0 = greedy.
        max_tokens: Longest answer, in tokens.
        seed: Of the draws above temperature 0.
        device: A torch device, or "auto".
        allow_private: Fetch pictures from addresses of one's own network, too.
    """

    image: str | None = None
    prompt: str | None = None
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    device: str = "auto"
    allow_private: bool = False


def run_chat(request: ChatRequest) -> None:
    """Print one answer to stdout, or hold a conversation on the terminal.

    Raises:
        UsageError: A picture, a checkpoint, the prompt or the device is not what it should be.
    """
    image = None
    if request.image is not None:
        image = load_image(request.image, allow_private=request.allow_private)
    prompt = read_prompt(request)
    session = open_session(request, find_model(request))
    if request.image is not None and (reading := session.model.metadata.image_reading) != "upright":
        image = load_image(request.image, allow_private=request.allow_private, reading=reading)
    if prompt is None:
        from croc_cli.chat.repl import Repl

        Repl(session, image=image, allow_private=request.allow_private).run()
    else:
        print(shown(answer_once(session, prompt, image)), flush=True)


def answer_once(session: "ChatSession", prompt: str, image: ChatImage | None = None) -> str:
    """Return the answer to the first question of a conversation."""
    if image is not None:
        session.show(image)
    return session.ask(prompt).text


def read_prompt(request: ChatRequest) -> str | None:
    """Return the one question to answer, or None where a person sits at a terminal to hold a conversation.

    Raises:
        UsageError: The question is empty or no text, or answers of a conversation would go into a file.
    """
    if request.prompt is not None:
        prompt = request.prompt
    elif sys.stdin is not None and sys.stdin.isatty():
        if sys.stdout.isatty():
            return None
        raise UsageError(
            "stdout is not a terminal, so there is no conversation",
            hint="write the question after the picture, in quotation marks",
        )
    else:
        try:
            prompt = sys.stdin.read() if sys.stdin is not None else ""
        except UnicodeDecodeError as error:
            raise UsageError(f"the prompt on stdin is not text: {error}") from error
    if not prompt.strip():
        raise UsageError(
            "the prompt is empty", hint='write it after the picture, such as "What is this?", or send it to stdin'
        )
    return prompt.strip()


def find_model(request: ChatRequest) -> Path:
    """Return the checkpoint's folder; without --model the newest finetuned one that is sound, named on stderr.

    Raises:
        UsageError: There is none, or it is incomplete.
    """
    if request.model is not None:
        return locate_checkpoint(request.model)

    failure: UsageError | None = None
    for folder in newest_checkpoints("finetune", say=say):
        try:
            locate_checkpoint(folder)
            _validate(folder)
        except UsageError as error:
            failure = error
            say(f"skipped: {shown(error.message)}")
            continue
        say(f"model: {shown(str(folder))}")
        return folder
    assert failure is not None, "newest_checkpoints returns at least one"
    raise failure


def _validate(folder: Path) -> None:
    from croc_cli.checkpoint.validate import validate_checkpoint

    validate_checkpoint(folder)


def open_session(request: ChatRequest, folder: Path) -> "ChatSession":
    """Load the model and begin a conversation; flags win over the `chat` section of the checkpoint's recipe.

    Raises:
        UsageError: The model cannot be opened, or the device is not there.
    """
    from croc_cli.chat.session import ChatSession
    from croc_cli.checkpoint.load import load_for_inference, quiet_transformers

    quiet_transformers()
    defaults = recipe_defaults(folder)
    return ChatSession(
        load_for_inference(folder, device=usable_device(request.device)),
        max_tokens=request.max_tokens or int(defaults.get("max_tokens", MAX_TOKENS)),
        temperature=float(defaults.get("temperature", 0.0)) if request.temperature is None else request.temperature,
        seed=request.seed,
    )


def usable_device(name: str) -> str:
    """Return the torch device of a name; "auto" takes the first GPU, else the CPU.

    Raises:
        UsageError: The device is not there.
    """
    import torch

    device = name
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {device} cannot be used: {reason}", hint="--device cpu always works") from error
    return device


def recipe_defaults(folder: Path) -> dict[str, Any]:
    """Return the `chat` section of the recipe that lies in a checkpoint; empty where there is none.

    Raises:
        UsageError: The recipe file cannot be read, or a value of the section is none.
    """
    file = folder / RECIPE_FILE
    if not file.is_file():
        return {}
    section = read_yaml(file, label=str(file)).values.get("chat")
    if not isinstance(section, dict):
        return {}
    for key, kinds, least in (("max_tokens", int, 1), ("temperature", (int, float), 0)):
        value = section.get(key, least)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < 1e9:
            raise UsageError(
                f"{file}: chat.{key} is {value!r}, expected a number from {least}",
                hint="give --max-tokens and --temperature, or fix the file",
            )
    return section
